"""Check single fields of annotation files: numbers, ids, class names, flags. Called by the readers of all formats.

Each function returns the value, or raises FaultyAnnotation with what was expected, what was received, and the remedy.
The reader adds the file and the entry. Text that is plainly a number is read as one; `Notes` counts such decisions.
"""

import math
import re

_PLAIN_NUMBER = re.compile(r"\s*[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,4})?\s*", re.ASCII)
# Control characters, line and paragraph separators, and halves of surrogate pairs, which no file can hold as UTF-8.
_NOT_OF_ONE_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_SHOWN = 60  # characters of a received value in a message


class FaultyAnnotation(Exception):
    """One entry is invalid. args: problem, remedy (two sentences)."""


class Notes:
    """Counts what a reader decided, so that each kind of decision is one sentence."""

    def __init__(self):
        self._found = {}

    def add(self, what, where):
        """Count one decision.

        Args:
            what: str, the decision, the same for all entries of its kind: "`area` is text and was read as a number".
            where: str, the entry.
        """
        known = self._found.get(what)
        self._found[what] = (1, where) if known is None else (known[0] + 1, known[1])

    def sentences(self, source):
        """A list of str for `Dataset.notes`.

        Args:
            source: str, the file.
        """
        return [
            f"{source}: {what} ({where}{f' and {count - 1} more' if count > 1 else ''})."
            for what, (count, where) in self._found.items()
        ]


def shown(value):
    """A received value in a message, shortened."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else _short_repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def number(value, name, least=None, most=None, whole=False, note=None):
    """A finite number.

    Args:
        value: what the file holds.
        name: str, the field in messages, such as "`width`".
        least, most: the range, both included; None is no limit.
        whole: whether it must be a whole number; 3.0 is one.
        note: function called with a sentence for `Notes.add` if the value is text; or None.

    Returns:
        int if `whole`, else float.

    Raises:
        FaultyAnnotation: it is missing, true or false, not finite, not a number or out of range.
    """
    found = _finite(value)
    allowed = found is not None and not (whole and found != int(found))
    if not allowed or (least is not None and found < least) or (most is not None and found > most):
        raise FaultyAnnotation(
            f"{name} must be {_range(least, most, whole)}. Received {shown(value)}.", f"Correct {name}."
        )
    if isinstance(value, str) and note is not None:
        note(f"{name} is text and was read as a number")
    return int(value) if whole and isinstance(value, int) else int(found) if whole else found


def flag(value, name, note=None):
    """Whether a field is set: 0 or 1, true or false. None counts as 0.

    Args:
        value, name, note: as for `number`.

    Raises:
        FaultyAnnotation: it is something else.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    found = _finite(value)
    if found not in (0.0, 1.0):
        raise FaultyAnnotation(f"{name} must be 0 or 1. Received {shown(value)}.", f"Correct or remove {name}.")
    if isinstance(value, str) and note is not None:
        note(f"{name} is text and was read as a number")
    return found == 1.0


def text(value, name):
    """A str that is not blank and has no zero byte, such as a file name.

    Raises:
        FaultyAnnotation: it is something else.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise FaultyAnnotation(f"{name} must be text that is not empty. Received {shown(value)}.", f"Add {name}.")
    return value


def class_name(value, name="the class"):
    """A class name: a str of one line that is not blank.

    Raises:
        FaultyAnnotation: it is something else.
    """
    if not isinstance(value, str) or not value.strip() or _NOT_OF_ONE_LINE.search(value):
        raise FaultyAnnotation(
            f"{name} must have a name: one line of text that is not empty. Received {shown(value)}.", "Name it."
        )
    return value


def identifier(value, name="`id`"):
    """An id: a whole number, as int, or text that is not empty.

    Raises:
        FaultyAnnotation: it is missing, true or false, a fraction, a list, ...
    """
    if type(value) is int or isinstance(value, str) and value.strip() and not _NOT_OF_ONE_LINE.search(value):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise FaultyAnnotation(
        f"{name} must be a whole number or text. Received {shown(value)}.", "Number the entries of the file."
    )


class Identifiers:
    """The ids of one list of entries. Each may be there once, and not both as a number and as text.

    Args:
        plural: str, the entries in messages: "images".
    """

    def __init__(self, plural):
        self._plural = plural
        self._ids = set()
        self._any_text = False

    def add(self, value):
        """Add the id of an entry.

        Returns:
            int or str.

        Raises:
            FaultyAnnotation: it is no id, or it is there already, possibly as text: 1 and "1" are the same.
        """
        key = identifier(value)
        twin = self._twin(key)
        if key in self._ids or twin is not None:
            also = "" if twin is None else f", as {twin!r} and as {key!r}"
            raise FaultyAnnotation(
                f"the id {key} is used twice among the {self._plural}{also}.",
                "Renumber one of them. This often happens when two files are joined.",
            )
        self._ids.add(key)
        self._any_text |= isinstance(key, str)
        return key

    def find(self, value):
        """The id in the list that a reference means: 7, 7.0, "7" and "0007" mean the same. None if there is none."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int and not isinstance(value, str):
            return None
        if value in self._ids:
            return value
        other = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else str(value)
        return other if other in self._ids else None

    def _twin(self, key):
        """The same id of the list in the other form, number or text, or None."""
        if not isinstance(key, str):
            return str(key) if self._any_text and str(key) in self._ids else None
        number_of_it = int(key) if _WHOLE.fullmatch(key) else None
        return number_of_it if number_of_it in self._ids and str(number_of_it) == key else None


def _finite(value):
    """The value as a finite float, or None. Takes text that is plainly a number; true and false are no numbers."""
    if isinstance(value, str):
        value = value if _PLAIN_NUMBER.fullmatch(value) else None
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except (OverflowError, TypeError):  # a whole number of more than 308 digits, or text that is none
        return None
    return found if math.isfinite(found) else None


def _range(least, most, whole):
    kind = "a whole number" if whole else "a finite number"
    if least is not None and most is not None:
        return f"{kind} from {least} to {most}"
    return kind + (f" of at least {least}" if least is not None else f" of at most {most}" if most is not None else "")


def _short_repr(value):
    """The type and, of lists and dicts, the start: their whole text may take long to make."""
    if isinstance(value, (list, tuple)):
        return repr(list(value[:8])) if _is_flat(value) else f"a list of {len(value)}: {str(value[0])[:40]}"
    return f"{{{', '.join(repr(key) for key in list(value)[:5])}}}" if isinstance(value, dict) else repr(value)


def _is_flat(value):
    return not any(isinstance(entry, (list, tuple, dict)) for entry in value[:8])
