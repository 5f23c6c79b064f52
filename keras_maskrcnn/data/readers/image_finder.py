"""Find the image files that annotations name, as people have them: moved, renamed by a web server, from another system.

In: names from annotation files. Out: paths. A name is looked for in these steps; the first that finds a file ends the
search:

1. an absolute path that exists, as it is;
2. the name inside the places, in its forms: as written, with forward slashes and no drive letter, without a URL's host
   and query, unquoted (`%20`). The places are the folder that the user gave; without one the annotations' folder and
   the folders `images`, `image`, `imgs` in it, then those of the folder above;
3. in the places and their sub-folders (of the folder above: only its image folders), the file that shares the most
   last parts of its path with the name;
4. the same with other upper and lower case (of the extension, then of the whole name);
5. the same for a name without extension;
6. the same without the prefix of eight hexadecimal digits that Label Studio adds to uploads.

If a step finds several files that are no copies, the search ends with a fault that names them. A folder is listed once.
Called by the readers.
"""

import collections
import filecmp
import functools
import hashlib
import os
import pathlib

from keras_maskrcnn.data.limits import SEARCH_FILES
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import IMAGE_FOLDERS, IMAGE_SUFFIXES, named_folders, need_folder
from keras_maskrcnn.data.readers.image_names import KEYS, name_forms, same_stem, shown_name
from keras_maskrcnn.data.readers.listings import AllNames, Listings, files_below, state
from keras_maskrcnn.host.addresses import as_path, is_address
from keras_maskrcnn.host.messages import argument

_SHOWN = 5  # candidates or places in a message


class ImageFinder:
    """Finds images by the names in annotations.

    Args:
        source: path of the annotation file, or of the folder that names are relative to.
        image_dir: the folder of the images that the user gave; None searches near `source`.
        folders: names of image folders, in any case.

    Attributes:
        notes: list of str about files that were not exactly where the names say, for the user.

    Raises:
        ValueError: `image_dir` is not a folder.
    """

    def __init__(self, source, image_dir=None, folders=IMAGE_FOLDERS):
        source = as_path(source)
        own = source if source.is_dir() else source.parent
        if image_dir is not None:
            self._own, self._home = need_folder(image_dir, "images"), as_path(image_dir)
            self._tiers = [[self._own]]
            self._searched = [self._own]
        else:
            self._own, self._home = own, _above(own)
            beside, above = named_folders(own, folders), named_folders(_above(own), folders)
            self._tiers = [[own, *beside], [*above, _above(own)]]
            self._searched = [own, *(folder for folder in above if folder.resolve() != own.resolve())]
        self._names = Listings()  # folder -> names of its files
        self._endings = set()  # of the names that were looked up
        self._indices = {}
        self._users = {}  # path -> the name that led to it, of files found by less than their whole name
        self._too_large = []
        self._found_by = collections.Counter()
        self._examples = {}

    @property
    def folder(self):
        """The place that is looked at first."""
        return self._own

    @property
    def notes(self):
        """One sentence for each way in which files were found that were not exactly where their names say."""
        return [
            f"An image was {how}: {self._examples[how]}{f', and {count - 1} more' if count > 1 else ''}."
            for how, count in self._found_by.items()
        ]

    def looked_at(self):
        """What the paths found so far depend on: a dict for `state_of`, which JSON can hold."""
        return {
            "folders": sorted(self._names),
            "endings": sorted(self._endings | set(IMAGE_SUFFIXES)),
            "searched": "_files" in vars(self),
        }

    def state_of(self, folders, endings, searched, contents=False):
        """A digest of the files on which paths depend; while it is the same, names lead to the same files.

        Files of other endings are left out: logs and such come and go in the folder of the annotations.

        Args:
            folders: those that are listed. endings: of the files that count. searched: whether sub-folders count, too.
            contents: whether the files' own sizes and times count, too, and not their names alone.
        """
        digest, endings = hashlib.sha256(), tuple(ending.lower() for ending in endings if ending)

        def counts(name):
            return "." not in name or name.lower().endswith(endings)

        for folder in folders:
            names = sorted(filter(counts, self._names[folder]))
            states = [state(os.path.join(folder, name)) for name in names] if contents else []
            digest.update("\0".join([folder, *names, *states, ""]).encode("utf-8", "surrogatepass"))
        places = [str(place) for tier in self._tiers for place in tier] + [str(place) for place in self._searched]
        files = [str(file) for file in self._files if counts(file.name)] if searched else []
        places += [*files, *map(state, files if contents else ())]
        digest.update("\0".join(places).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def locate(self, collector, name):
        """As `find`; None after recording the fault in a Collector."""
        try:
            return self.find(name)
        except FaultyAnnotation as fault:
            collector.fault(f"image {shown_name(name)}", *fault.args)
            return None

    def find(self, name):
        """The file that a name means: as `look_up`, but a FaultyAnnotation where there is none."""
        path = self.look_up(name)
        if path is None:
            raise FaultyAnnotation(*self.not_found(name))
        return path

    def look_up(self, name):
        """The file that a name means.

        Args:
            name: str from an annotation file.

        Returns:
            Path of a file that exists, or None.

        Raises:
            FaultyAnnotation: it is no name, or several files fit.
        """
        if not isinstance(name, str) or not name.strip("/\\ .") or "\0" in name:
            raise FaultyAnnotation(
                f"an image needs the name of its file. Received {shown_name(name)}.", "Add the name, or remove it."
            )
        forms = name_forms(name)
        self._endings.add(os.path.splitext(name)[1])
        return self._absolute(name) or self._exact(name, forms) or self._similar(name, forms)

    def _absolute(self, name):
        if not os.path.isabs(name) or is_address(self._own):  # a dataset elsewhere names no file of this machine
            return None
        folder, base = os.path.split(name)
        return pathlib.Path(name) if base in self._names[folder] else None

    def _exact(self, name, forms):
        """The file at one of the forms of its name inside one of the places."""
        for tier in self._tiers:
            # A server that lists no folder has every form: the last one is without a host.
            unlisted = is_address(tier[0]) and isinstance(self._names[f"{tier[0]}/"], AllNames)
            for form in reversed(forms) if unlisted else forms:
                folder, base = os.path.split(form)
                found = [place for place in tier if base in self._names[f"{place}/{folder}"]]
                if found:
                    path = _only(name, [place / form for place in found])
                    self._note_outside(name, path, form)
                    return path
        return None

    def _note_outside(self, name, path, form):
        if ".." in form and ".." in pathlib.PurePath(form).parts and not _inside(path, self._home):
            self._note(f"found outside {self._home}, where its name leads", name, path)

    def _similar(self, name, forms):
        """The file whose name is most like one of the forms."""
        for how, key in KEYS.items():
            for form in forms:
                found = self._index(key).get(key(form.rsplit("/", 1)[-1]), ())
                found = [path for path in found if path.is_file()]  # no link that leads to nothing
                best = _most_alike(found, form)
                if best:
                    path = _only(name, best)
                    if "/" not in form or not path.as_posix().endswith(f"/{form}"):
                        self._check_free(name, path)
                        if key is not same_stem:  # usual in tables and lists
                            self._note(f"found {how}", name, path)
                    return path
        return None

    def _check_free(self, name, path):
        """Two names must not lead to one file: one of the images is missing."""
        user = self._users.setdefault(path, name)
        if user != name:
            raise FaultyAnnotation(
                f"its folder does not exist, and the file of its name, {path}, was already found for "
                f"{shown_name(user)}.",
                f"Put the images into the folders of their names, or name the right folder: {argument('image_dir')}.",
            )

    def _note(self, how, name, path):
        self._found_by[how] += 1
        self._examples.setdefault(how, f"{path} for {shown_name(name)}")

    def _index(self, key):
        """{key of a file's name: [paths]} of the searched folders."""
        if key not in self._indices:
            index = self._indices[key] = {}
            for path in self._files:
                entry = key(path.name, on_disk=True)
                if entry is not None:
                    index.setdefault(entry, []).append(path)
        return self._indices[key]

    @functools.cached_property
    def _files(self):
        """All files in the searched folders, each once; not those of a folder that is too large to search."""
        found = {}
        for folder in self._searched:
            files = files_below(folder)
            if files is None:
                self._too_large.append(str(folder))
            found |= dict.fromkeys(files or ())
        return list(found)

    def not_found(self, name):
        """(problem, remedy) of a name for which there is no file."""
        forms = name_forms(name)
        places = [str(place) for tier in self._tiers for place in tier]
        names = ", ".join(shown_name(form) for form in forms[:_SHOWN])
        but = f", but not of {', '.join(self._too_large)}: more than {SEARCH_FILES} files" if self._too_large else ""
        return (
            f"the file does not exist. Looked for {names} in {', '.join(places[:_SHOWN])} and in sub-folders{but}.",
            f"Name the folder of the images: {argument('image_dir')}; or correct the name.",
        )


def _most_alike(paths, form):
    """Those of the paths that share the most last folders with a form."""
    if len(paths) < 2:
        return paths
    wanted = form.split("/")[-2::-1][:50]
    shared = [_shared(path.parent.parts[::-1], wanted) for path in paths]
    return [path for path, count in zip(paths, shared, strict=True) if count == max(shared)]


def _shared(parts, wanted):
    count = 0
    for part, want in zip(parts, wanted, strict=False):
        if part.casefold() != want.casefold():
            break
        count += 1
    return count


def _only(name, paths):
    """The one file of several paths, which may be copies. Raises FaultyAnnotation if they differ."""
    first, *others = paths
    different = [path for path in others if not _same_content(first, path)]
    if different:
        found = [str(path) for path in (first, *different)]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise FaultyAnnotation(
            f"its name {shown_name(name)} fits several files: {', '.join(found[:_SHOWN])}{more}.",
            f"Name the folder of the right one: {argument('image_dir')}; or write its folder into the annotations.",
        )
    return first


def _same_content(one, other):
    try:
        if is_address(one):
            return one == other or one.read_bytes() == other.read_bytes()
        return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _inside(path, folder):
    if is_address(path):
        return path.parts[: len(folder.parts)] == folder.parts
    return pathlib.Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _above(folder):
    """The folder above, also of a relative path such as `.`."""
    return folder / ".." if folder.name in ("", "..") and not is_address(folder) else folder.parent
