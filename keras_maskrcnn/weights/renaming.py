"""Two programs' names for the same tensors, as one list of rules that works in both directions."""

import re

NUMBER = "#"


class Renaming:
    """Names that differ by fixed words and by what their numbers count from.

    Args:
        rules: tuples (ours, theirs, offsets): names without their last part (weight, bias, ...), "#" for a number;
            theirs is ours plus the offset, one for each "#". The first rule that fits a name counts.
    """

    def __init__(self, rules):
        self._to_theirs = [_compiled(ours, theirs, offsets) for ours, theirs, offsets in rules]
        self._to_ours = [_compiled(theirs, ours, [-n for n in offsets]) for ours, theirs, offsets in rules]

    def theirs(self, name):
        """Their name of one of ours; names that no rule fits stay."""
        return _renamed(name, self._to_theirs)

    def ours(self, name):
        """The inverse of `theirs`."""
        return _renamed(name, self._to_ours)


def _compiled(source, target, offsets):
    pattern = re.escape(source).replace(re.escape(NUMBER), r"(\d+)")
    return re.compile(rf"{pattern}\.(\w+)"), target.split(NUMBER), tuple(offsets)


def _renamed(name, rules):
    for pattern, words, offsets in rules:
        match = pattern.fullmatch(name)
        if match:
            numbers = [str(int(found) + offset) for found, offset in zip(match.groups(), offsets)]
            parts = [word + number for word, number in zip(words, [*numbers, ""], strict=True)]
            return "".join(parts) + "." + match.groups()[-1]
    return name
