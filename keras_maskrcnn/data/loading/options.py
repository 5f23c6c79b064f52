"""How a loader orders, changes and batches images: every option of `DataLoader` in one place."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """Options of `DataLoader`, which takes them as keywords as well.

    Args:
        augmentation: what happens after the loader's `transforms`: "light" or "strong" (`data.preset`), or a list of
            transforms; None is nothing.
        shuffle: new random order each epoch.
        seed: int, of order and transforms.
        workers: threads.
        canvas: (H, W) network pixels, multiples of 32; None is the smallest that fits every image.
        max_instances: rows of ground truth per image; None takes the config's.
        drop_last: leave out a last batch that is not full. None does so when shuffling, where every image still comes
            up in other epochs.
        cache_bytes: decoded images and masks kept in memory up to this many bytes, so that small datasets are decoded
            once; 0 keeps none.
        repeat_threshold: classes in a smaller share of the images are shown more often (LVIS' repeat factors,
            `epoch_order.repeat_factors`); None shows each image once an epoch.
        negatives: share of images without objects in an epoch, 0 to below 1; None keeps them as they are.
    """

    augmentation: object = None
    shuffle: bool = False
    seed: int = 0
    workers: int = 2
    canvas: tuple | None = None
    max_instances: int | None = None
    drop_last: bool | None = None
    cache_bytes: int = 512 * 2**20
    repeat_threshold: float | None = None
    negatives: float | None = None

    @classmethod
    def of(cls, options=None, **fields):
        """Options from a LoaderOptions, keywords, or both; keywords override.

        Raises:
            ValueError: a keyword that is no option; options of another type.
        """
        if options is not None and not isinstance(options, cls):
            raise ValueError(
                f"`options` of DataLoader is a LoaderOptions. Received: {type(options).__name__}. "
                "Pass its fields as keywords: DataLoader(..., shuffle=True)."
            )
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(f"DataLoader has the options {known}. Received: {', '.join(unknown)}. Correct the name.")
        return dataclasses.replace(options or cls(), **fields)
