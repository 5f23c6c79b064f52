"""Read a large JSON file piece by piece: the members of its outermost object, and the entries of their lists.

In: a path. Out: the values that `json.loads` of the whole file gives, with a block of the file in memory.
Whatever is out of the ordinary raises `Unusual`: then the caller reads the file as a whole (`folders.read_json`), and
its messages are the same as ever. Called by `coco_content.py`.
"""

import codecs
import itertools
import json
import re

import numpy as np

from keras_maskrcnn.host.addresses import open_file

try:
    import orjson  # decodes COCO's annotations seven times as fast as Python's json
except ImportError:  # a platform without it
    orjson = None

_BLOCK = 2**20  # bytes
_LARGEST_BLOCK = 2**28
_SPACE = re.compile(r"[ \t\n\r]*")
_SEPARATOR = re.compile(r"[ \t\n\r,]*")
_NEXT = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*")
_AT_ONCE = 2048  # entries of a list
_decode = json.JSONDecoder().scan_once


class Unusual(Exception):
    """The file is no JSON object of UTF-8, or cannot be read in pieces."""


class JsonStream:
    """One pass over a JSON file.

    Args:
        path: the file.
        digest: object with `update`, given all bytes of the file in turn; or None.

    Raises:
        Unusual: the file cannot be opened.
    """

    def __init__(self, path, digest=None):
        try:
            self._file = open_file(path)
        except (OSError, ValueError):
            raise Unusual from None
        self._digest = digest
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._block = _BLOCK
        self._text, self._at = "", 0
        self._first_byte = 0  # of `_text` in the file
        self._known = (0, 0)  # a place in `_text`, and its distance in bytes from the start
        self._ended = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def members(self):
        """The keys of the outermost object. For each the caller takes the value with `value` or `batches`.

        Raises:
            Unusual: here, as in the other methods: no object, or anything that JSON does not allow.
        """
        self._take("{")
        while self._peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise Unusual
            self._take(":")
            yield key
            if self._peek() != "}":
                self._take(",")
                if self._peek() == "}":
                    raise Unusual
        self._take("}")
        if self._peek():
            raise Unusual

    def value(self):
        """The next value as a whole."""
        self._peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except (StopIteration, json.JSONDecodeError):
                self._more()
                continue
            except (ValueError, RecursionError):  # a number of 5000 digits, brackets nested too deep
                raise Unusual from None
            if end < len(self._text) or self._ended:  # else a number might go on
                self._at = end
                return value
            self._more()

    def batches(self, quick=False, scan=None):
        """The entries of a list, some at a time.

        Args:
            quick: whether to use orjson where it can be. It gives the same values but for whole numbers beyond 64 bits,
                which become floats.
            scan: a faster way to read a part of the list where `quick` is set, or None: a function of str, dictionaries
                with commas between them, and of a function that parses one. It returns what is yielded, or None.

        Yields:
            (list of entries, or what `scan` returns; int: where the first begins in the file, in bytes).
        """
        self._take("[")
        if self._peek() == "]":
            self._take("]")
            return
        more = True
        while more:
            place = self.place
            entries = self._block_of_entries(scan) if quick else None
            if entries is None:
                entries, more = self._entries()
            self._block = _BLOCK
            yield entries, place

    def _block_of_entries(self, scan):
        """All dictionaries that end in the text at hand and have another one after them; None: no such, or not here."""
        if len(self._text) - self._at < _BLOCK // 2 and not self._ended:
            self._more()
        end = self._text.rfind("},", self._at) + 1
        if end <= self._at:
            return None
        text, loads = self._text[self._at : end], json.loads if orjson is None else orjson.loads
        try:  # if a part of a list is a list in itself, it ends between two entries
            entries = None if scan is None else scan(text, loads)
            entries = loads(f"[{text}]") if entries is None else entries
        except (ValueError, RecursionError):  # the list ends before, or it is another list's entry, or orjson is strict
            return None
        self._at = end
        self._take(",")
        self._peek()
        return entries

    def _entries(self):
        """(the next entries, one at a time; whether the list goes on)."""
        entries, more = [], True
        while more and len(entries) < _AT_ONCE:
            try:
                entry, end = _decode(self._text, self._at)
            except (StopIteration, json.JSONDecodeError):
                self._more()
                continue
            except (ValueError, RecursionError):
                raise Unusual from None
            follows = _NEXT.match(self._text, end)
            if follows is None:
                self._more()
                continue
            entries.append(entry)
            self._at = follows.end()
            more = follows[1] == ","
        return entries, more

    @property
    def place(self):
        """Int, bytes: where the next value begins in the file, or what separates it from the one before."""
        if self._text.isascii():
            return self._first_byte + self._at
        at, byte = self._known
        byte += len(self._text[at : self._at].encode())
        self._known = (self._at, byte)
        return self._first_byte + byte

    def _take(self, sign):
        if self._peek() != sign:
            raise Unusual
        self._at += 1

    def _peek(self):
        """The next character that is no space; "" at the end of the file."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more()

    def _more(self):
        """Read on. The block grows, so that an entry of many blocks is not decoded many times."""
        if self._ended:
            raise Unusual
        self._first_byte = self.place
        data = self._file.read(self._block)
        self._ended = not data
        self._block = min(2 * self._block, _LARGEST_BLOCK)
        if self._digest is not None:
            self._digest.update(data)
        if self._first_byte == 0 and data.startswith(codecs.BOM_UTF8) and not self._text:
            self._first_byte = len(codecs.BOM_UTF8)
        try:
            text = self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError:
            raise Unusual from None
        self._text = self._text[self._at :] + text
        self._at, self._known = 0, (0, 0)
        self._at = _SPACE.match(self._text).end()


class Entries:
    """The entries of a list in a JSON file, read again.

    Args:
        path: the file. firsts: list of int, the number of the first entry of each batch, and of all entries. places:
            list of int, where each batch begins, and where the last one ends, in bytes.
    """

    def __init__(self, path, firsts, places):
        self._path, self._firsts, self._places = path, firsts, places

    def some(self, numbers):
        """The entries of some numbers, which rise. Yields values."""
        if not numbers:
            return
        batches = np.searchsorted(self._firsts, numbers, "right") - 1
        with open_file(self._path) as file:
            for batch, group in itertools.groupby(zip(batches.tolist(), numbers, strict=True), lambda pair: pair[0]):
                file.seek(self._places[batch])
                text = file.read(self._places[batch + 1] - self._places[batch]).decode()
                at, number = 0, self._firsts[batch] - 1
                for _, wanted in group:
                    while number < wanted:
                        entry, at = _decode(text, at)
                        at, number = _SEPARATOR.match(text, at).end(), number + 1
                    yield entry
