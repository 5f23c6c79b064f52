"""The receipt lists every tensor that was loaded, left over or missing.

Written by the loaders of this folder, returned by `load_weights`, stored as `model.weights_receipt`.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Receipt:
    """The result of one load. A tensor is a pair (name, shape) in the source.

    Args:
        source: where the tensors came from.
        used: tensors loaded into the model.
        left_over: tensors of the source that were intentionally not loaded: the classifier of an ImageNet backbone,
            heads with heads=False, optimizer state.
        missing: tensors of the model that kept their values, intentionally or because of `skip_mismatch`.
        skipped: problems that would have raised without `skip_mismatch`, one line each.
        notes: lines for the user.
        family: the program that the tensors are from, licence: of its published weights, sha256: of the file; empty
            where they are not known.
    """

    source: str
    used: tuple = ()
    left_over: tuple = ()
    missing: tuple = ()
    skipped: tuple = ()
    notes: tuple = ()
    family: str = ""
    licence: str = ""
    sha256: str = ""

    @property
    def complete(self):
        """Whether every weight of the model came from the source."""
        return not self.missing

    def __str__(self):
        numbers = sum(math.prod(shape) for _, shape in self.used)
        lines = [f"{self.source}: {len(self.used)} tensors used ({numbers:,} numbers)"]
        lines += _listed("not in the source or not requested, unchanged", self.missing)
        lines += _listed("left over", self.left_over)
        lines += [f"  skipped: {line}" for line in self.skipped]
        lines += [f"  note: {note}" for note in self.notes]
        origin = (("family", self.family), ("licence", self.licence), ("SHA-256", self.sha256))
        lines += [f"  {name}: {value}" for name, value in origin if value]
        return "\n".join(lines)


def _listed(title, tensors, most=12):
    lines = [f"  {title}: {name} {tuple(shape)}" for name, shape in tensors[:most]]
    if len(tensors) > most:
        lines.append(f"  {title}: and {len(tensors) - most} more")
    return lines


def check_account(source, problems, skip_mismatch):
    """Raise an error that lists all problems, or return them as the lines of `Receipt.skipped`.

    Args:
        source: where the tensors came from.
        problems: dict of a kind ("missing", "shape", "unknown") to its list of lines.
        skip_mismatch: True returns instead of raising.

    Returns:
        Tuple of lines.

    Raises:
        ValueError: there is a problem and `skip_mismatch` is False. Nothing has been assigned yet.
    """
    found = {kind: lines for kind, lines in problems.items() if lines}
    if found and not skip_mismatch:
        parts = [_TEXTS[kind].format(count=len(lines), lines=_indented(lines)) for kind, lines in found.items()]
        raise ValueError(
            f"The weights of {source} do not fit this model; nothing was loaded.\n"
            + "\n".join(parts)
            + "\nBuild the model that the file belongs to, pass heads=False if only the classes differ, or load the "
            "tensors that match with skip_mismatch=True; the receipt then lists the others."
        )
    return tuple(f"{kind}: {line}" for kind, lines in found.items() for line in lines)


_TEXTS = {
    "missing": "{count} tensors of the model are missing from the source:\n{lines}",
    "shape": "{count} tensors have another shape than the model's:\n{lines}",
    "unknown": "{count} tensors of the source are unknown to the model:\n{lines}",
}


def _indented(lines, most=12):
    shown = [f"  {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"  and {len(lines) - most} more")
    return "\n".join(shown)
