"""`keras-maskrcnn convert`: convert a weight file to another format, including the architecture."""

import dataclasses
import pathlib

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.model import MaskRCNN
from keras_maskrcnn.runs.folder import find_model
from keras_maskrcnn.weights import catalogue, published
from keras_maskrcnn.weights.keras_files import write_backbone
from keras_maskrcnn.weights.limits import naming
from keras_maskrcnn.weights.loading import load_state, read_state, write_state
from keras_maskrcnn.weights.matterport_files import is_layer_file
from keras_maskrcnn.weights.models import load_model
from keras_maskrcnn.weights.receipt import Receipt
from keras_maskrcnn.weights.safetensors_files import library
from keras_maskrcnn.weights.torchvision import is_classifier, torchvision_state_dict
from keras_maskrcnn.weights.zoo import config_for_state

OTHERS = (".pth", ".pt", ".pkl", ".npz", ".h5", ".hdf5", ".safetensors")
KERAS = (".keras", ".weights.h5")


def convert_file(source, target, all_rows=False, overwrite=False, architecture=None, warm_start=False, **overrides):
    """Convert other programs' weights to a Keras file, or a model of this package to torchvision's names.

    Args:
        source: `.pth`, `.pt` or `.safetensors` of a torchvision Mask R-CNN or ResNet classifier; `.pkl` or `.pth` of
            Detectron2, `.pth` of MMDetection, `.npz` of tensorpack or `.h5` of matterport; a name of published weights,
            such as "detectron2/mask_rcnn_R_50_FPN_3x"; or a `.keras` file or run folder of this package.
        target: `.keras` (the whole model) or `.weights.h5` for the others; `.safetensors` for a model of this package.
        all_rows: keep all 90 rows of a COCO detector of torchvision; otherwise only COCO's 80 categories.
        overwrite: replace an existing target.
        architecture: name of the Detectron2 or MMDetection config that the file was trained with; None finds out, and
            the receipt says how.
        warm_start: take the weights alone, into a model with this package's arithmetic. Its numbers differ from the
            file's program, for a training that goes on from them.
        **overrides: fields of MaskRCNNConfig, for what was changed in training, such as min_size.

    Returns:
        Receipt.

    Raises:
        ValueError: the format is unknown, the target exists, or the weights belong to another kind of model.
        OSError: another process writes the target, or it cannot be written.
    """
    target = pathlib.Path(target)
    _check_new(target, overwrite)
    source = published.local_path(source)
    if source.suffix in OTHERS and not source.is_file():
        raise FileNotFoundError(f"There must be a file of weights at {source}. There is none. Check its path.")
    is_other = _is_other(source)
    endings = KERAS if is_other else (".safetensors",)
    if not target.name.endswith(endings):
        raise ValueError(f"{source} is converted to {' or '.join(endings)}. Received: {target.name}.")
    options = {"all_rows": all_rows, "architecture": architecture, "warm_start": warm_start, **overrides}
    if not is_other:
        _check_no_options(options)
    with locked_file(target):
        _check_new(target, overwrite)
        return _from_other(source, target, options) if is_other else _to_torch(source, target)


def _is_other(source):
    """Whether a file is another program's; `.weights.h5` may be of Keras 2."""
    if source.name.endswith(".weights.h5") and not is_layer_file(source):
        raise ValueError(
            "The weights of a model of this package are converted from its .keras file or run folder, which say what "
            f"model it is. Received: {source}, which holds weights alone, or is damaged. Load it by "
            "keras_maskrcnn.load_weights into the model, and save that as .keras."
        )
    return source.suffix in OTHERS


def _check_no_options(options):
    given = [argument(name, value) for name, value in options.items() if name != "all_rows" and value]
    if given:
        raise ValueError(
            f"A model of this package is converted as it is. Received {', '.join(given)}, which is for the weights of "
            "other programs. Leave it out."
        )


def _check_new(target, overwrite):
    if target.exists() and not overwrite:
        raise ValueError(
            f"Nothing is overwritten unasked. Received: {target}, which exists. "
            f"Choose another name, or replace it: {argument('overwrite', True)}."
        )


def build_model(state, source, all_rows=False, architecture=None, warm_start=False, **overrides):
    """The model of another program's file, with its weights.

    Args:
        state: what `read_state` read from it.
        source: path of the file. The name of a published file says what is not stored, such as torchvision's batch norm
            epsilon.
        all_rows: keep all 90 rows of a COCO detector; otherwise only COCO's 80 categories.
        architecture, warm_start: as for `convert_file`.
        **overrides: fields of MaskRCNNConfig.

    Returns:
        (MaskRCNN, Receipt). The model's `origin` says where the weights come from; it is saved with the model.
    """
    source = pathlib.Path(source)
    epsilon = published.norm_epsilon(source.name)
    known = {} if epsilon is None else {"norm_epsilon": epsilon}
    with naming(source):
        config, notes = config_for_state(state, known | overrides, all_rows, source, architecture, warm_start)
    model = MaskRCNN(config)
    receipt = load_state(model, state, str(source))
    digest = published.sha256(source) if source.is_file() else ""
    receipt = dataclasses.replace(receipt, notes=(*notes, *receipt.notes), sha256=digest)
    if receipt.family:
        model.origin = {"file": source.name, "family": receipt.family, "licence": receipt.licence, "sha256": digest}
        known = catalogue.of_file(source.name)
        model.origin |= {} if known is None else {"url": known.url}
    return model, receipt


def _from_other(source, target, options):
    state = read_state(source)
    if is_classifier(state) and target.suffix == ".keras":
        raise ValueError(
            f"{source.name} is a classifier: it becomes the weights of a backbone, not a model. "
            f"Received: {target.name}. Name a .weights.h5 file, and load it with keras_maskrcnn.load_weights."
        )
    model, receipt = build_model(state, source, **options)
    if is_classifier(state):
        write_atomically(target, lambda path: write_backbone(model, path))
    else:
        write_atomically(target, model.save if target.suffix == ".keras" else model.save_weights)
    return receipt


def _to_torch(source, target):
    library()  # missing, it is told of before a model is loaded
    model = load_model(find_model(source))
    state = torchvision_state_dict(model)
    write_state(state, target)
    return Receipt(str(source), tuple((name, array.shape) for name, array in state.items()))
