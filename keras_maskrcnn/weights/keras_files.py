"""Load `.weights.h5` and `.keras` files with a receipt, also into models with other classes.

Keras defines the layout of these files. The model saves its weights to a temporary file; matching datasets of the
source replace those in it, and Keras loads the result. So a load that is interrupted or raises changes nothing. A first
convolution for RGB is adapted to other channels (`inflation.py`). `h5_files.py` and `archive.py` check what is read.
"""

import contextlib
import copy
import json
import pathlib
import re
import shutil
import tempfile
import zipfile

import h5py

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.host.files import scratch_folder, write_atomically
from keras_maskrcnn.weights.archive import open_archive
from keras_maskrcnn.weights.h5_files import array_shapes, open_h5, read_array
from keras_maskrcnn.weights.inflation import inflate, inflates, note
from keras_maskrcnn.weights.limits import reading
from keras_maskrcnn.weights.receipt import Receipt, check_account

# Optimizer state and sampler state belong to a run, not to the weights.
NOT_WEIGHTS = re.compile(r"^(optimizer/|vars/seed_state$)")
BACKBONE = "backbone/"
FIRST_CONV = "backbone/stem/conv/vars/0"
MEMBER, CONFIG = "model.weights.h5", "config.json"  # inside a .keras archive
EXPECTED = "a file that Keras saved, whole: .keras, or .weights.h5"
REMEDY = "Copy or download it again, or save it again from the model."


def load_keras_file(model, path, heads=True, skip_mismatch=False):
    """Load the weights of a Keras file into a model of the same architecture.

    Args:
        model: MaskRCNN.
        path: path of a `.weights.h5` or `.keras` file.
        heads: False keeps the model's class, box and mask predictors.
        skip_mismatch: True loads all datasets that match and skips the others.

    Returns:
        Receipt.

    Raises:
        WeightFileError: the file is damaged, forged, or holds something else than finite numbers.
        ValueError: datasets are missing, have another shape, or are unknown.
    """
    with scratch_folder(tempfile.gettempdir()) as folder, open_weights(path) as theirs:
        merged = pathlib.Path(folder) / "merged.weights.h5"
        model.save_weights(merged)
        receipt = _merge(theirs, merged, str(path), None if heads else _predictors(model.config), skip_mismatch)
        model.load_weights(merged)
    return receipt


@contextlib.contextmanager
def open_weights(path):
    """Open the weights of a `.weights.h5` or `.keras` file, after the checks of `h5_files.py`.

    Yields:
        h5py.File. Errors that the block raises while it reads from the file are the caller's to name: use `reading`.
    """
    with contextlib.ExitStack() as stack:
        with reading(path, EXPECTED, REMEDY):
            folder = pathlib.Path(stack.enter_context(scratch_folder(tempfile.gettempdir())))
            file = stack.enter_context(open_h5(_weights_file(pathlib.Path(path), folder)))
        yield file


def write_backbone(model, path):
    """Write only the backbone's weights, as a `.weights.h5` file for `load_keras_file`."""
    with scratch_folder(tempfile.gettempdir()) as folder:
        whole = pathlib.Path(folder) / "whole.weights.h5"
        model.save_weights(whole)
        with h5py.File(whole, "r") as source, h5py.File(path, "w") as target:
            for key in _weight_shapes(source):
                if key.startswith(BACKBONE):
                    target[key] = source[key][...]


def write_fields(path, output, fields):
    """Write a `.keras` file with other values of some of its config's fields; all else stays byte for byte.

    Args:
        path: a `.keras` file of a MaskRCNN. output: the file to write, perhaps the same.
        fields: dict of fields of MaskRCNNConfig that no layer depends on.

    Raises:
        WeightFileError: the file is damaged, or of another model. ValueError: a wrong field.
    """
    with reading(path, EXPECTED, REMEDY), open_archive(path) as (archive, _):
        stored = json.loads(archive.read(CONFIG))
        config = stored["config"]["config"]
    config.update(MaskRCNNConfig.from_dict(config | fields).to_dict())
    write_atomically(output, lambda partial: _copy_archive(path, partial, {CONFIG: json.dumps(stored)}))


def _copy_archive(path, target, texts):
    """Copy a zip archive, with other contents of some members: dict of name to str."""
    with open_archive(path) as (archive, members), zipfile.ZipFile(target, "w") as written:
        for name, info in members.items():
            entry = copy.copy(info)  # writing changes it
            if name in texts:
                written.writestr(entry, texts[name])
                continue
            with archive.open(info) as source, written.open(entry, "w", force_zip64=info.file_size > 2**31) as place:
                shutil.copyfileobj(source, place)


def _weights_file(path, folder):
    if path.suffix != ".keras":
        return path
    with open_archive(path) as (archive, members):
        if MEMBER not in members:
            raise ValueError(f"an archive without {MEMBER}")
        with archive.open(MEMBER) as member, open(folder / "source.weights.h5", "wb") as file:
            shutil.copyfileobj(member, file)  # at its end the checksum is compared
    return folder / "source.weights.h5"


def _predictors(config):
    """A pattern for the datasets of the layers with one output per class."""
    layers = ["box_head/classes", "box_head/deltas", r"box_head/stage\d+/classes"]  # a cascade's deltas are of no class
    layers += [f"{branch.name}_head/{layer}" for branch in config.branches for layer in branch.class_layers]
    return re.compile(rf"(^|/)({'|'.join(layers)})/")


def _merge(theirs, merged, name, left_out, skip_mismatch):
    """Copy matching datasets of the open file `theirs` to `merged`. A backbone-only file needs to match only that.

    Datasets whose names match the pattern `left_out` are not copied; None copies all.
    """
    with h5py.File(merged, "r+") as ours:
        with reading(name, EXPECTED, REMEDY):
            have, want = _weight_shapes(theirs), _weight_shapes(ours)
        asked = {key for key in want if left_out is None or not left_out.search(key)}
        if have and all(key.startswith(BACKBONE) for key in have):
            asked = {key for key in asked if key.startswith(BACKBONE)}
        inflated = {FIRST_CONV} & asked if inflates(have.get(FIRST_CONV, ()), want.get(FIRST_CONV, ()), 2) else set()
        fitting = [key for key in asked if have.get(key) == want[key] or key in inflated]
        problems = {
            "missing": [f"{key} {want[key]}" for key in sorted(asked - set(have))],
            "shape": [
                f"{key}: {have[key]}; the model has {want[key]}"
                for key in sorted(asked & set(have))
                if have[key] != want[key] and key not in inflated
            ],
            "unknown": [f"{key} {have[key]}" for key in sorted(set(have) - set(want))],
        }
        skipped = check_account(name, problems, skip_mismatch)
        with reading(name, EXPECTED, REMEDY):
            for key in sorted(fitting):
                values = read_array(theirs, key, name)
                ours[key][...] = inflate(values, want[key][2], 2) if key in inflated else values
        used = [(key, have[key]) for key in want if key in fitting]
        missing = [(key, want[key]) for key in want if key not in fitting]
        left_over = [(key, have[key]) for key in have if key not in fitting]
    notes = tuple(note(key, want[key][2]) for key in inflated)
    return Receipt(name, tuple(used), tuple(left_over), tuple(missing), skipped, notes)


def _weight_shapes(file):
    return {key: shape for key, shape in array_shapes(file).items() if not NOT_WEIGHTS.search(key)}
