"""Which images share a batch: those of one canvas, as far as a window on the order of the sources allows.

Comes in: images with their sizes, in order. Goes out: lists of those that the model sees at once. No pixels. Called by
`streaming.py`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Member:
    """One source on its way through the model.

    Args:
        index: int, position among the sources.
        source: as the user gave it.
        size: (height, width), image pixels; None if it is not known before the image is read.
        group: images with an equal one may share a batch; None is alone.
        canvas: (height, width) that the image has alone, network pixels; None if it is alone.
    """

    index: int
    source: object
    size: tuple | None = None
    group: object = None
    canvas: tuple | None = None


def plan_batches(members, batch_size, window):
    """Batches of images that may share one: of equal canvas first, else of near ones.

    A batch is made as soon as `batch_size` images of one canvas are there. The oldest image of `window` ones, and what
    is left at the end, goes with those of its group that have the most similar canvases.

    Args:
        members: iterable of Member, in the order of `index`.
        batch_size: int, most images of a batch.
        window: int, images. Smaller than `batch_size` counts as that.

    Yields:
        list of Member, not empty.
    """
    window = max(window, batch_size)
    waiting, by_canvas = {}, {}  # index -> Member, oldest first; (group, canvas) -> {index: Member}
    for member in members:
        if member.group is None:
            yield [member]
        else:
            waiting[member.index] = member
            alike = by_canvas.setdefault((member.group, member.canvas), {})
            alike[member.index] = member
            if len(alike) == batch_size:
                yield _taken(list(alike.values()), waiting, by_canvas)
        while waiting and member.index - next(iter(waiting)) >= window - 1:
            yield _taken(_around_oldest(waiting, batch_size), waiting, by_canvas)
    while waiting:
        yield _taken(_around_oldest(waiting, batch_size), waiting, by_canvas)


def _around_oldest(waiting, batch_size):
    """The oldest image that waits, and those of its group that need the least padding beside it."""
    oldest = next(iter(waiting.values()))

    def padding(member):
        """Padding of the common canvas of the two, pixels."""
        height, width = (max(sides) for sides in zip(member.canvas, oldest.canvas, strict=True))
        return 2 * height * width - sum(one.canvas[0] * one.canvas[1] for one in (member, oldest))

    group = [member for member in waiting.values() if member.group == oldest.group]
    return sorted(group, key=padding)[:batch_size]


def _taken(chosen, waiting, by_canvas):
    """The chosen members, which wait no longer."""
    for member in chosen:
        del waiting[member.index]
        alike = by_canvas[member.group, member.canvas]
        del alike[member.index]
        if not alike:
            del by_canvas[member.group, member.canvas]
    return chosen
