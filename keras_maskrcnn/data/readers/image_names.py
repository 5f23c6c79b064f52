"""The names of images in annotations: the forms in which a name is looked for, and what makes two names alike.

In: names as tools wrote them, of files that may have been moved or renamed since. Out: forms, and keys that are equal
for names which may mean one file. Called by `image_finder.py` and by readers.
"""

import os
import re
import unicodedata
import urllib.parse

from keras_maskrcnn.data.readers.folders import IMAGE_SUFFIXES

_UPLOAD = re.compile("[0-9a-f]{8}-(?=.)")  # Label Studio's prefix of uploaded files
_DRIVE = re.compile("[A-Za-z]:(?=[/\\\\])")
_WRITTEN_ELSEWHERE = re.compile(r"[\\:%?#]")  # what a name of this system seldom has


def name_forms(name):
    """The forms of a name in which it is looked for, in order: as it is written, then relative paths with `/`."""
    if not _WRITTEN_ELSEWHERE.search(name):
        return [name.lstrip("/")]
    forms = [name]
    slashed = name.replace("\\", "/")
    local = _DRIVE.sub("", slashed, count=1) if _DRIVE.match(slashed) else slashed
    forms.append(local)
    if "://" in local:
        local = local.split("://", 1)[1].partition("/")[2]
    path, _, query = local.partition("?")
    path = path.partition("#")[0]
    forms += [value for key, value in _query(query) if key == "d"]  # Label Studio: /data/local-files/?d=a/b.png
    forms += [path, urllib.parse.unquote(path, errors="surrogateescape")]
    forms = [form.lstrip("/") for form in forms]
    return [form for form in dict.fromkeys(forms) if form.strip("/. ")] or [name]


def shown_name(name):
    """A name in a message: quoted, at most 100 characters."""
    text = repr(name) if isinstance(name, str) or name is None else f"{str(name)[:60]} ({type(name).__name__})"
    return text if len(text) <= 100 else f"{text[:70]}...{text[-25:]}"


def _query(query):
    """(key, value) of a URL's query, unquoted."""
    for item in query.split("&", 20)[:20]:
        key, _, value = item.partition("=")
        yield key, urllib.parse.unquote(value, errors="surrogateescape").replace("\\", "/")


# What two names have in common if they mean the same file: a function from a name (of an annotation, or on the disk) to
# a key, or None.


def _same_name(name, on_disk=False):
    del on_disk
    return name


def _same_but_extension_case(name, on_disk=False):
    del on_disk
    stem, extension = os.path.splitext(name)
    return stem + extension.lower()


def _same_but_case(name, on_disk=False):
    del on_disk
    return unicodedata.normalize("NFC", name).casefold()  # macOS writes accents as signs of their own


def same_stem(name, on_disk=False):
    """The name of an image's file without its ending, or a name that has none; else None."""
    stem, extension = os.path.splitext(name)
    known = extension.lower() in IMAGE_SUFFIXES
    return (stem if known else None) if on_disk else (None if known else name)


def _same_without_upload_prefix(name, on_disk=False):
    del on_disk
    return _UPLOAD.sub("", name, count=1) if _UPLOAD.match(name) else name


KEYS = {
    "by the last part of its name": _same_name,
    "by its name with other upper and lower case of the extension": _same_but_extension_case,
    "by its name with other upper and lower case": _same_but_case,
    "by its name without extension": same_stem,
    "by its name without Label Studio's prefix": _same_without_upload_prefix,
}
