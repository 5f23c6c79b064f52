"""The files of `predict`: which images it reads, which ids they get, and what it writes while it goes on.

    0000-<name>.png   the image with its instances
    detections.json   COCO results, a list, with the `file` of each
    images.json       COCO's tables of images and categories without annotations, for `COCO("images.json")` and then
                      `loadRes("detections.json")`; not with `--annotations`, whose file has the ids

Every file is replaced as a whole, detections.json after each image, or less often where writing it takes long.
"""

import dataclasses
import os
import pathlib
import time
import warnings

RESULTS, IMAGES = "detections.json", "images.json"
_SHARE = 20  # writing the results takes at most one part in so many of the time
_LISTED = 5  # names in a message
_STEM_BYTES = 150  # of an image's name, in the name of its picture


@dataclasses.dataclass(frozen=True)
class KnownImages:
    """Images and categories of a dataset that predictions are compared with.

    Args:
        source: str, its file. ids: dict from path to image id.
        category_names, category_ids: of the dataset. used: set of names that its objects have.
    """

    source: str
    ids: dict
    category_names: tuple
    category_ids: tuple
    used: set


class ResultFiles:
    """Writes what `predict` finds, also if it stops early (a context manager).

    Args:
        output: folder, made if it is missing. config: the model's MaskRCNNConfig.
        known: KnownImages, or None to number the images from 1.
    """

    def __init__(self, output, config, known=None):
        self.output = pathlib.Path(output)
        self.config = config
        self.known = known
        self.category_ids = config.category_ids if known is None else _known_categories(config, known)
        self.images, self.results = [], []
        self._next = 0.0

    def __enter__(self):
        from keras_maskrcnn.host.locks import locked_folder

        self._lock = locked_folder(self.output)
        self._lock.__enter__()
        if self.known is not None:
            (self.output / IMAGES).unlink(missing_ok=True)  # an earlier call's, with other ids
        return self

    def __exit__(self, *error):
        try:
            self._write()
        finally:
            self._lock.__exit__(*error)

    def draw(self, number, path, image, found):
        """Write the picture of an image; several threads may do so at once.

        Args:
            number: int, position of the image. path: its file. image: (H, W, C). found: FoundInstances.

        Returns:
            (entry of images.json, list of entries of detections.json), for `add`.
        """
        from PIL import Image

        from keras_maskrcnn.host.files import write_atomically
        from keras_maskrcnn.inference.visualize import draw_instances

        picture = Image.fromarray(draw_instances(image, found))
        # Numbered: two folders may hold files of the same name.
        write_atomically(
            self.output / f"{number:04d}-{short_stem(path.stem)}.png", lambda place: picture.save(place, "PNG")
        )
        image_id = number + 1 if self.known is None else self.known.ids[path]
        height, width = image.shape[:2]
        entry = {"id": image_id, "file_name": str(path), "height": height, "width": width}
        return entry, [one | {"file": str(path)} for one in found.to_coco(image_id, self.category_ids)]

    def add(self, drawn):
        """Add the instances of an image, as `draw` returned them, to the results."""
        image, results = drawn
        self.images.append(image)
        self.results += results
        if time.monotonic() >= self._next:
            self._write()

    def summary(self):
        """A sentence about what was written."""
        names = RESULTS if self.known is not None else f"{RESULTS} and {IMAGES}"
        return f"{len(self.results)} instances in {len(self.images)} images; pictures, {names} in {self.output}"

    def _write(self):
        from keras_maskrcnn.host.files import json_text, text_writer, write_together

        started = time.monotonic()
        files = {RESULTS: self.results}
        if self.known is None:
            tables = {"info": {}, "images": self.images, "annotations": [], "categories": self.categories()}
            files[IMAGES] = tables
        write_together(self.output, {name: text_writer(json_text(values)) for name, values in files.items()})
        ended = time.monotonic()
        self._next = ended + _SHARE * (ended - started)

    def categories(self):
        """COCO's table of categories: list of dict of id and name."""
        pairs = zip(self.category_ids, self.config.class_names, strict=True)
        return [{"id": int(key), "name": name} for key, name in pairs]


def short_stem(stem):
    """A name that leaves room for a number and an ending: file systems allow 255 bytes."""
    return os.fsencode(stem)[:_STEM_BYTES].decode(errors="ignore")


def image_paths(names):
    """The files that are named, and the image files directly inside the folders that are named.

    Prints how many other files of a folder are passed over, and of which types.

    Raises:
        ValueError: there is no image.
    """
    from keras_maskrcnn.data.readers.folders import image_files_and_others
    from keras_maskrcnn.host.addresses import as_path

    paths = []
    for path in map(as_path, names):
        inside, note = image_files_and_others(path) if path.is_dir() else ([path], None)
        if note:
            print(note)
        paths += inside
    if not paths:
        raise ValueError(
            f"predict needs at least one image. Received {names}, without an image file. Name image files or folders."
        )
    return paths


def read_known_images(source, paths):
    """Find images in a dataset by the ends of their paths.

    Args:
        source: annotation file or folder of any format. paths: list of Path, the images.

    Returns:
        KnownImages.

    Raises:
        ValueError: an image is not in the dataset, is there several times, or two are the same one of it.
    """
    by_name, names, used = _tables(source)
    ids = {path: _matching_ids(path, by_name.get(path.name, [])) for path in paths}
    wrong = [path for path, found in ids.items() if len(found) != 1]
    if wrong:
        listed = "; ".join(f"{path}: {len(ids[path])} entries" for path in wrong[:_LISTED])
        raise ValueError(
            f"--annotations must list each image once. Received {source} with other numbers of entries for "
            f"{len(wrong)} of {len(paths)} images: {listed}. Predict only the images that it lists."
        )
    ids = {path: found[0] for path, found in ids.items()}
    if len(set(ids.values())) < len(ids):
        raise ValueError(
            f"Every image must have an entry of its own in --annotations. Received {len(ids)} images for "
            f"{len(set(ids.values()))} entries of {source}. Predict one folder at a time."
        )
    return KnownImages(str(source), ids, tuple(names.values()), tuple(names), used)


def _tables(source):
    """({file name: [(its path's parts, image id)]}, {category id: name}, names that objects have) of a dataset."""
    content = _coco_content(source)
    try:
        by_name = {}
        for entry in content["images"]:
            parts = pathlib.PurePosixPath(str(entry["file_name"]).replace("\\", "/")).parts
            by_name.setdefault(parts[-1], []).append((parts, entry["id"]))
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        used = {names[one["category_id"]] for one in content["annotations"] if one["category_id"] in names}
        _check_ids(by_name, names)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            "--annotations needs images with `id` and `file_name`, annotations with `category_id`, and categories with "
            f"`id` and `name`. Received {source}, where something is missing: {error!r}. check-data names it."
        ) from error
    return by_name, names, used


def _check_ids(by_name, names):
    """Raise TypeError unless every id of an image or a category is a whole number or text, and every name text."""
    keys = [*names, *(key for entries in by_name.values() for _, key in entries)]
    odd = [key for key in keys if type(key) not in (int, str)] + [name for name in names.values() if not name.strip()]
    if odd:
        raise TypeError(f"{odd[0]!r} is no id or no name")


def _coco_content(source):
    """A dataset as COCO tables. COCO files are taken as they are: their images may be elsewhere."""
    from keras_maskrcnn.data.readers.folders import read_json
    from keras_maskrcnn.data.readers.opener import open_dataset, recognise

    kind, place = recognise(source)
    return read_json(place) if kind == "coco" else open_dataset(source).to_coco()


def _matching_ids(path, entries):
    """Ids of the entries (parts of a file name, id) that share the most parts with the end of a path."""
    parts = path.absolute().parts
    shared = [_shared_end(parts, other) for other, _ in entries]
    return [key for count, (_, key) in zip(shared, entries, strict=True) if count == max(shared)]


def _shared_end(parts, other):
    count = 0
    for one, two in zip(reversed(parts), reversed(other)):
        if one != two:
            break
        count += 1
    return count


def _known_categories(config, known):
    from keras_maskrcnn.data.classes import ids_of_labels

    ids, notes = ids_of_labels(config, known.category_names, known.category_ids, known.used, known.source)
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return ids
