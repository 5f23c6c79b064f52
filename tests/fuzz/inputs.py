"""Seed -> Case: a valid input of a door, changed by a few mutations that can be left out one by one."""

import dataclasses
import json
import pathlib
import random

from . import encodings, seeds
from .mutations import TEXTS, as_json, change_bytes, change_text, change_value, change_word

_STEPS = (0, 1, 1, 1, 1, 2, 2, 2, 3, 4, 6)  # numbers of mutations of a case


@dataclasses.dataclass
class Case:
    """An input.

    Args:
        files: {relative path: bytes, text or JSON value}; None is a folder.
        source: the path in it that is handed in; "" is the folder itself.
        options: what else the door takes.
        mutated: whether the files may be written in odd encodings.
    """

    files: dict
    source: str = ""
    options: dict = dataclasses.field(default_factory=dict)
    mutated: bool = True


def steps_of(seed):
    """The number of mutations of a case."""
    return random.Random(f"{seed} steps").choice(_STEPS)


def make_dataset(kind, seed, kept=None):
    """A dataset of a kind, mutated.

    Args:
        kind: a key of `seeds.DATASETS`, or None for any.
        seed: str or int.
        kept: numbers of the mutations to apply; None applies all.

    Returns:
        (Case, kind).
    """
    rng = random.Random(f"{seed}")
    kind = kind or rng.choice(list(seeds.DATASETS))
    files, source = seeds.DATASETS[kind](rng)
    case = Case(files, source, {"format": rng.choice((None, None, kind.removesuffix("-csv")))})
    case.options["on_error"] = rng.choice(("raise", "skip"))
    mutate(case, seed, kept)
    return case, kind


def mutate(case, seed, kept=None):
    """Apply the mutations of a seed to a case's files; `kept` as in `make_dataset`."""
    steps = range(steps_of(seed)) if kept is None else kept
    case.mutated = bool(steps)
    for step in steps:
        change_files(case, random.Random(f"{seed} {step}"))


def change_files(case, rng):
    """Change one file of a case, its content more often than its name."""
    names = list(case.files)
    if not names:
        return
    texts = [name for name in names if not isinstance(case.files[name], (bytes, type(None)))]
    name = rng.choice(texts if texts and rng.random() < 0.75 else names)
    if rng.random() < 0.06:
        _change_name(case, name, rng)
    else:
        case.files[name] = change_content(case.files[name], rng, name)


def change_content(content, rng, name=""):
    """A file's content with one change, by its kind."""
    if content is None:
        return b""
    if isinstance(content, bytes):
        return encodings.change_image(content, rng, name)
    if isinstance(content, str):
        return change_text(content, rng)
    return change_value(content, rng)


def _change_name(case, name, rng):
    kind = rng.randrange(6)
    content = case.files[name]
    if kind == 0:
        del case.files[name]
    elif kind == 1:
        case.files[name] = rng.choice((b"", "", None, b"\x00", "\n"))
    elif kind == 2:
        other = rng.choice(list(case.files))
        case.files[name], case.files[other] = case.files[other], content
    elif kind == 3:
        stem, dot, ending = name.rpartition(".")
        case.files[stem + dot + rng.choice(("jpg", "png", "tif", "PNG", "txt", "json", "npy", ""))] = case.files.pop(
            name
        )
    elif kind == 4:
        folder, slash, last = name.rpartition("/")
        case.files[f"{folder}{slash}{_file_name(change_word(last, rng))}"] = content
    else:
        case.files[rng.choice((".hidden.png", "Thumbs.db", "b/c.png", "readme.txt", "a copy.png"))] = content


def _file_name(text):
    """A name that a file system takes."""
    text = "".join(c for c in str(text) if c not in "/\x00" and not 0xD800 <= ord(c) < 0xE000)[:80]
    return text if text not in ("", ".", "..") else "x"


def write(case, folder, seed):
    """Write a case's files into a folder. Returns the path that is handed in."""
    folder = pathlib.Path(folder)
    rng = random.Random(f"{seed} write")
    for name, content in case.files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(as_bytes(content, rng if case.mutated else None))
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue  # a folder and a file of one name: the first is there
    return folder / case.source if case.source else folder


def as_bytes(content, rng):
    """A file's content as bytes; in plain UTF-8 if `rng` is None."""
    if isinstance(content, bytes):
        return content
    if rng is None:
        return (content if isinstance(content, str) else json.dumps(content)).encode()
    if isinstance(content, str):
        if rng.random() < 0.03:
            encoding = rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32"))
            return content.encode(encoding, "replace")
        data = content.encode("utf-8", "surrogatepass")
        return change_bytes(data, rng) if rng.random() < 0.03 else data
    return as_json(content, rng)


def describe(case):
    """The files of a case as text, for a report."""
    lines = []
    for name, content in case.files.items():
        shown = f"<{len(content)} bytes>" if isinstance(content, bytes) else json.dumps(content, default=str)[:3000]
        lines.append(f"{name}: {shown}")
    return "\n".join([*lines, f"source: {case.source!r} options: {case.options!r}"])


__all__ = ["TEXTS", "Case", "change_content", "change_files", "describe", "make_dataset", "mutate", "steps_of", "write"]
