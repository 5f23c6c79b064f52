"""Published weights: download once, verify, load. Torchvision's are also converted once.

`catalogue.py` has the files of other programs. The cache is `$KERAS_HOME/keras_maskrcnn`, by default
`~/.keras/keras_maskrcnn`. It holds the published files, the converted `.weights.h5` files, and beside each of these a
`.json` file with its checksums.
"""

import json
import logging
import os
import pathlib

from keras_maskrcnn._version import __version__
from keras_maskrcnn.host.caches import cache_folder, need_writable
from keras_maskrcnn.host.downloads import digest
from keras_maskrcnn.host.downloads import fetch as fetch_file
from keras_maskrcnn.host.files import write_atomically, write_json
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.weights import catalogue
from keras_maskrcnn.weights.keras_files import load_keras_file, write_backbone
from keras_maskrcnn.weights.pth import read_pth
from keras_maskrcnn.weights.torchvision import load_state

_LOG = logging.getLogger(__name__)

URL = "https://download.pytorch.org/models/"
_SUFFIXES = (".pth", ".pt", ".pkl", ".pickle", ".h5", ".hdf5", ".npz", ".safetensors", ".keras")  # no names
MIRROR = "KERAS_MASKRCNN_WEIGHTS_URL"  # environment variable: URL of a mirror

# Published names; the eight digits are the start of the file's SHA-256. From torchvision/models/detection/mask_rcnn.py,
# keypoint_rcnn.py and models/resnet.py (IMAGENET1K_V1, the starting point of torchvision's detectors).
COCO_FILES = {
    "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "maskrcnn_resnet50_fpn_v2": "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
    "keypointrcnn_resnet50_fpn": "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
}
IMAGENET_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
}
# Torchvision calls `overwrite_eps(model, 0.0)` for its COCO weights of v1.
NORM_EPSILONS = {COCO_FILES[name]: 0.0 for name in ("maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")}


def norm_epsilon(file):
    """The batch norm epsilon of a published file, or None for other file names."""
    known = {*COCO_FILES.values(), *IMAGENET_FILES.values()}
    return NORM_EPSILONS.get(file, 1e-5) if file in known else None


def find_file(weights, model_name, backbone):
    """Name of the published file behind `weights="coco"` or `weights="imagenet"`.

    Args:
        weights: "coco" or "imagenet". model_name: name of the builder. backbone: "resnet18" .. "resnet152".

    Raises:
        ValueError: no such file is published.
    """
    if weights == "coco" and model_name in COCO_FILES:
        return COCO_FILES[model_name]
    if weights == "imagenet" and backbone in IMAGENET_FILES:
        return IMAGENET_FILES[backbone]
    raise ValueError(
        f'weights must be None, "coco" (for {" and ".join(COCO_FILES)}) or '
        f'"imagenet" (for {", ".join(IMAGENET_FILES)}). '
        f"Received {weights!r} for {model_name} with {backbone}. "
        "For your own file use keras_maskrcnn.load_weights."
    )


def load_published(model, file, make_reference, variant, heads=True):
    """Load a published file into a model, through the cache.

    Args:
        model: MaskRCNN.
        file: from `find_file`.
        make_reference: function without arguments that builds the model that the file belongs to. Called only if
            nothing is cached.
        variant: distinguishes conversions of the same file: "80", "90", "backbone".
        heads: False keeps the model's predictors.

    Returns:
        Receipt.
    """
    converted = cache_folder() / f"{pathlib.Path(file).stem}.{variant}.weights.h5"
    if not is_intact(converted):
        need_writable(converted.parent)
        with locked_file(converted, wait=True):
            if not is_intact(converted):  # another process may have written it meanwhile
                convert(file, converted, make_reference())
    return load_keras_file(model, converted, heads)


def convert(file, target, reference):
    """Fetch a published file and write it as Keras weights with a sidecar of checksums. All writes are atomic.

    Args:
        file: published name. target: path of the `.weights.h5`. reference: MaskRCNN that the file belongs to.
    """
    source = fetch(file)
    need_writable(target.parent)
    receipt = load_state(reference, read_pth(source), file)
    sidecar = target.with_suffix(".json")
    account = {
        "source": file,
        "source_sha256": sha256(source),
        "keras_maskrcnn": package_version(),
        "receipt": str(receipt).splitlines(),
    }

    def write(path):
        if file in IMAGENET_FILES.values():
            write_backbone(reference, path)
        else:
            reference.save_weights(path)
        account["sha256"] = sha256(path)  # of this process's file, even if another process replaces it meanwhile
        sidecar.unlink(missing_ok=True)  # the sidecar comes last: weights without one count as unfinished

    write_atomically(target, write)
    write_json(sidecar, account)


def is_intact(converted):
    """Whether a converted file exists, was written by this version of the package, and is intact."""
    sidecar = converted.with_suffix(".json")
    if not (converted.is_file() and sidecar.is_file()):
        return False
    try:
        account = json.loads(sidecar.read_text(encoding="utf-8"))
        whole = account["keras_maskrcnn"] == package_version() and account["sha256"] == sha256(converted)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        _LOG.info("%s is damaged (%s: %s): the weights are converted again", sidecar, type(error).__name__, error)
        return False
    if not whole:
        _LOG.info("%s is damaged or of another version: the weights are converted again", converted)
    return whole


def fetch(file):
    """The published file in the cache; downloaded if missing.

    Args:
        file: name whose part after the last dash is the start of its SHA-256.

    Returns:
        pathlib.Path.

    Raises:
        OSError: the cache cannot be written to; or the download failed, and the message gives the URL and the place for
            a manual download.
        ValueError: the checksum is wrong. A download is then deleted.
    """
    mirror = os.environ.get(MIRROR, URL)
    return fetch_file(
        cache_folder() / file,
        f"{mirror.rstrip('/')}/{file}",
        lambda path, remedy: _verify(path, file, remedy),
        f"Or set {MIRROR} to a mirror of {URL}",
    )


def local_path(source):
    """The path of a source of weights: of a published file's name the place in the cache, downloaded if missing.

    Args:
        source: path, or a name such as "detectron2/mask_rcnn_R_50_FPN_3x". A file of that path comes first.

    Returns:
        pathlib.Path.

    Raises:
        ValueError: no published file of that program has this name; or the file's checksum is wrong.
        OSError: as of `fetch`.
    """
    path = pathlib.Path(source)
    entry = None if path.suffix in _SUFFIXES or path.exists() else catalogue.find(source)
    return path if entry is None else fetch_published(entry)


def fetch_published(entry):
    """The file of a `catalogue.PublishedFile` in the cache; downloaded if missing.

    With the environment variable `KERAS_MASKRCNN_WEIGHTS_URL` it comes from that mirror, under its own name. A file
    without a known SHA-256 is only compared with the start of its MD5, where the program gives one: a difference is a
    warning, and the receipt's SHA-256 says what was loaded.
    """
    url = f"{os.environ[MIRROR].rstrip('/')}/{entry.file}" if os.environ.get(MIRROR) else entry.url
    return fetch_file(
        cache_folder() / entry.file,
        url,
        lambda path, remedy: _check_digits(path, entry, remedy),
        f"Or set {MIRROR} to a folder on the web that holds {entry.file}",
    )


def _check_digits(path, entry, remedy):
    if entry.sha256:
        _verify(path, entry.file, remedy)
    found = digest(path, "md5").hexdigest() if entry.md5 else ""
    if not found.startswith(entry.md5):
        _LOG.warning(
            "the MD5 of %s starts with %s, not with %s as in its name: it may not be the published one",
            path, found[: len(entry.md5)], entry.md5,
        )  # fmt: skip


def sha256(path):
    """SHA-256 of a file, hexadecimal."""
    return digest(path).hexdigest()


def _verify(path, file, remedy):
    expected = pathlib.Path(file).stem.rsplit("-", 1)[-1]
    found = sha256(path)
    if not found.startswith(expected):
        raise ValueError(
            f"{file} must have a SHA-256 that starts with {expected}, as in its name. Received {found}. {remedy}"
        )


def package_version():
    """The version of this package, stored with converted files."""
    return __version__
