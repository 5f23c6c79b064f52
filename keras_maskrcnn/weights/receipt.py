"""What a load did, tensor by tensor: so that nobody has to believe that the weights are in.

Written by the loaders of this folder, returned by `load_weights`, kept as `model.weights_receipt`.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Receipt:
    """The account of one load. A tensor is a pair (name in the source, shape there).

    Args:
        source: where the tensors came from.
        used: tensors that went into the model.
        left_over: tensors of the source that this load has no use for, by rule: the classifier of an ImageNet
            backbone, heads that were not asked for, the state of an optimizer.
        missing: tensors the model has and the load left as they were, by rule or by `skip_mismatch`.
        skipped: lines that say what would have raised without `skip_mismatch`.
        notes: lines a user should read.
    """

    source: str
    used: tuple = ()
    left_over: tuple = ()
    missing: tuple = ()
    skipped: tuple = ()
    notes: tuple = ()

    @property
    def complete(self):
        """Whether every weight of the model came from the source."""
        return not self.missing

    def __str__(self):
        numbers = sum(math.prod(shape) for _, shape in self.used)
        lines = [f"{self.source}: {len(self.used)} tensors used ({numbers:,} numbers)"]
        lines += _listed("not in the source or not asked for, kept as it was", self.missing)
        lines += _listed("left over", self.left_over)
        lines += [f"  skipped: {line}" for line in self.skipped]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _listed(title, tensors, most=12):
    lines = [f"  {title}: {name} {tuple(shape)}" for name, shape in tensors[:most]]
    if len(tensors) > most:
        lines.append(f"  {title}: and {len(tensors) - most} more")
    return lines


def check_account(source, problems, skip_mismatch):
    """Raise for what does not add up, or return it as the lines of `Receipt.skipped`.

    Args:
        source: where the tensors came from.
        problems: dict of a kind ("missing", "shape", "unknown") to its list of lines.
        skip_mismatch: True returns instead of raising.

    Returns:
        Tuple of lines.

    Raises:
        ValueError: when there is a problem and `skip_mismatch` is False; nothing was assigned yet.
    """
    found = {kind: lines for kind, lines in problems.items() if lines}
    if found and not skip_mismatch:
        parts = [_TEXTS[kind].format(count=len(lines), lines=_indented(lines)) for kind, lines in found.items()]
        raise ValueError(
            f"The weights of {source} do not fit this model; nothing was loaded.\n"
            + "\n".join(parts)
            + "\nBuild the model that the file is from, pass heads=False if only the classes differ, or load what "
            "fits with skip_mismatch=True; the receipt then lists the rest."
        )
    return tuple(f"{kind}: {line}" for kind, lines in found.items() for line in lines)


_TEXTS = {
    "missing": "{count} tensors that the model needs are missing from the source:\n{lines}",
    "shape": "{count} tensors have another shape than the model's:\n{lines}",
    "unknown": "{count} tensors of the source are unknown to the model:\n{lines}",
}


def _indented(lines, most=12):
    shown = [f"  {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"  and {len(lines) - most} more")
    return "\n".join(shown)
