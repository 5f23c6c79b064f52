"""Export to a folder for browsers: the model, onnxruntime-web and one page. Any server of static files can serve it.

    index.html, *.js, style.css   the page, from `serving/browser/`
    model.onnx                    of `export_onnx`
    model.json                    class names, category ids, lowest score, rule of pasting, size of the model
    onnxruntime/                  onnxruntime-web, from its npm package

The page computes in the browser, by WebAssembly; images are sent nowhere. Nothing is fetched from other servers.
onnxruntime-web is downloaded once into the user's cache folder, and checked, or taken from a path. docs/browser.md says
how to serve the folder and how to embed its parts. Called by users and by the command line.
"""

import base64
import hashlib
import json
import pathlib
import tarfile

from keras_maskrcnn.host.caches import cache_folder
from keras_maskrcnn.host.downloads import digest, fetch
from keras_maskrcnn.host.files import write_folder
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.serving.converting import check_graph_arguments, check_new_folder, describe
from keras_maskrcnn.serving.onnx import export_onnx

RUNTIME_VERSION = "1.30.0"  # of onnxruntime-web, with the integrity that `npm view onnxruntime-web dist` prints
RUNTIME_URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{RUNTIME_VERSION}.tgz"
RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# Of its package: WebAssembly for CPUs with the JavaScript around it, the licence's name, the authors' page.
RUNTIME_FILES = ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm", "package.json", "README.md")

MODEL, ABOUT, WORKER = "model.onnx", "model.json", "service-worker.js"
_PAGE = pathlib.Path(__file__).parent / "browser"


def export_web(model, directory, onnxruntime_web=None, overwrite=False):
    """Write a folder with a page on which the model finds objects in the user's images, in the browser.

    Args:
        model: MaskRCNN, on the TensorFlow backend, for uint8 images of one or three channels. Not changed.
        directory: folder to write.
        onnxruntime_web: None downloads the npm package once, into the user's cache folder. Or a path: the .tgz of
            `npm pack onnxruntime-web@VERSION`, or the folder `node_modules/onnxruntime-web`.
        overwrite: replace an existing export.

    Returns:
        The folder as a pathlib.Path.

    Raises:
        ValueError: the images of the model are of another kind, the folder exists, or the path holds another version.
        OSError: the download failed; the message says where to put the file by hand.
        ImportError: tf2onnx is not installed.
    """
    directory = pathlib.Path(directory)
    _check_images(model.config)
    check_new_folder(directory, ABOUT, overwrite)
    check_graph_arguments(directory, "web", "uint8", model.config)
    runtime = _read_runtime(onnxruntime_web)  # before the conversion, which takes longer
    with locked_file(directory):
        write_folder(directory, lambda folder: _fill(folder, model, runtime))
    return directory


def _check_images(config):
    if config.image_dtype != "uint8" or config.num_channels not in (1, 3):
        raise ValueError(
            "In a browser a model sees gray or RGB images of 8 bits. Received: a model for "
            f"{config.num_channels} channels of {config.image_dtype}. Export it as ONNX, and run that on a server."
        )


def _fill(folder, model, runtime):
    """Write all files of the export into a new folder."""
    (folder / "onnxruntime").mkdir(parents=True)
    for name, content in runtime.items():
        (folder / "onnxruntime" / name).write_bytes(content)
    for path in sorted(_PAGE.iterdir()):
        (folder / path.name).write_bytes(path.read_bytes())
    export_onnx(model, folder / MODEL, "uint8")
    _write_about(folder, model)
    _write_worker(folder)


def _write_about(folder, model):
    """Write model.json. The size of the model tells the page how much of it is left to load."""
    described, config = describe(model), model.config
    about = {
        "package": described["package"],
        "class_names": list(config.class_names),
        "category_ids": [int(number) for number in config.category_ids],
        "num_channels": config.num_channels,
        "score_threshold": config.lowest_score,
        "mask_pasting": config.mask_pasting,
        "fingerprint": described["fingerprint"],
        "onnxruntime_web": RUNTIME_VERSION,
        "model_bytes": (folder / MODEL).stat().st_size,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _write_worker(folder):
    """Tell the service worker which files it keeps, and the digest of all: browsers then notice a new export."""
    names = _names(folder)
    version = hashlib.sha256()
    for name in names:
        version.update(f"{name} {digest(folder / name).hexdigest()}\n".encode())
    kept = [name for name in names if name not in (MODEL, WORKER) and not name.endswith(("package.json", ".md"))]
    text = (folder / WORKER).read_text(encoding="utf-8")
    text = text.replace("@VERSION@", version.hexdigest()).replace('"@FILES@"', json.dumps(kept)[1:-1])
    (folder / WORKER).write_text(text, encoding="utf-8")


def _names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# onnxruntime-web ---------------------------------------------------------------------------------------------


def _read_runtime(source):
    """The files of onnxruntime-web that a page needs: dict from name to bytes."""
    if source is None:
        path = cache_folder() / f"onnxruntime-web-{RUNTIME_VERSION}.tgz"
        source = fetch(path, RUNTIME_URL, _verify, f"Or give the path of a copy: {argument('onnxruntime_web')}.")
        return _from_archive(source)
    source = pathlib.Path(source)
    if source.is_dir():
        return _from_folder(source)
    if not source.is_file():
        raise ValueError(_wanted(f"{source}, which does not exist"))
    _verify(source, f"Make it anew: npm pack onnxruntime-web@{RUNTIME_VERSION}.")
    return _from_archive(source)


def _verify(path, remedy):
    found = base64.b64encode(digest(path, "sha512").digest()).decode()
    if found != RUNTIME_SHA512:
        raise ValueError(
            f"The npm package onnxruntime-web {RUNTIME_VERSION} has the integrity sha512-{RUNTIME_SHA512}. "
            f"Received {path} with sha512-{found}. {remedy}"
        )


def _from_archive(path):
    with tarfile.open(path) as archive:
        return {
            pathlib.PurePosixPath(name).name: archive.extractfile(f"package/{name}").read() for name in RUNTIME_FILES
        }


def _from_folder(folder):
    try:
        version = json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]
        files = {pathlib.PurePosixPath(name).name: (folder / name).read_bytes() for name in RUNTIME_FILES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(_wanted(f"{folder} ({error})")) from error
    if version != RUNTIME_VERSION:
        raise ValueError(_wanted(f"{folder} of version {version}"))
    return files


def _wanted(received):
    return (
        f"{argument('onnxruntime_web')} must be the npm package onnxruntime-web {RUNTIME_VERSION}: its .tgz, or the "
        f"folder node_modules/onnxruntime-web. Received: {received}. "
        f"Make it: npm pack onnxruntime-web@{RUNTIME_VERSION}."
    )
