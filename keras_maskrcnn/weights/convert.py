"""`keras-maskrcnn convert`: convert a weight file to another format, including the architecture."""

import pathlib

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.runs.experiment import find_model
from keras_maskrcnn.weights import published
from keras_maskrcnn.weights.keras_files import write_backbone
from keras_maskrcnn.weights.limits import naming
from keras_maskrcnn.weights.loading import read_state, write_state
from keras_maskrcnn.weights.models import load_model
from keras_maskrcnn.weights.receipt import Receipt
from keras_maskrcnn.weights.torchvision import current_names, is_classifier, load_state, torchvision_state_dict
from keras_maskrcnn.weights.zoo import model_for_state

TORCH = (".pth", ".pt", ".safetensors")
KERAS = (".keras", ".weights.h5")


def convert_file(source, target, all_rows=False, overwrite=False):
    """Convert torchvision weights to a Keras file, or a model of this package to torchvision's names.

    Args:
        source: `.pth`, `.pt` or `.safetensors` of a torchvision Mask R-CNN or ResNet classifier; or a `.keras` file or
            run folder of this package.
        target: `.keras` (the whole model) or `.weights.h5` for the former; `.safetensors` for the latter.
        all_rows: keep all 90 rows of a COCO detector; otherwise only COCO's 80 categories.
        overwrite: replace an existing target.

    Returns:
        Receipt.

    Raises:
        ValueError: the format is unknown, the target exists, or the weights belong to another kind of model.
    """
    target = pathlib.Path(target)
    if target.exists() and not overwrite:
        raise ValueError(
            f"Nothing is overwritten unasked. Received: {target}, which exists. "
            f"Choose another name, or replace it: {argument('overwrite', True)}."
        )
    source_is_torch = pathlib.Path(source).suffix in TORCH
    endings = KERAS if source_is_torch else (".safetensors",)
    if not target.name.endswith(endings):
        raise ValueError(f"{source} is converted to {' or '.join(endings)}. Received: {target.name}.")
    return _from_torch(pathlib.Path(source), target, all_rows) if source_is_torch else _to_torch(source, target)


def build_model(state, source, all_rows=False, **overrides):
    """The model of a torchvision file, with its weights.

    Args:
        state: what `read_state` read from it.
        source: path of the file. The name of a published file determines the batch norm epsilon, which is not stored.
        all_rows: keep all 90 rows of a COCO detector; otherwise only COCO's 80 categories.
        **overrides: fields of MaskRCNNConfig.

    Returns:
        (MaskRCNN, Receipt).
    """
    epsilon = published.norm_epsilon(pathlib.Path(source).name)
    known = {} if epsilon is None else {"norm_epsilon": epsilon}
    with naming(source):
        model = model_for_state(state, all_rows, **known, **overrides)
    return model, load_state(model, state, str(source))


def _from_torch(source, target, all_rows):
    if not source.is_file():
        raise FileNotFoundError(f"There must be a file of weights at {source}. There is none.")
    with naming(source):
        state = current_names(read_state(source))
    if is_classifier(state) and target.suffix == ".keras":
        raise ValueError(
            f"{source.name} is a classifier: it becomes the weights of a backbone, not a model. "
            f"Received: {target.name}. Name a .weights.h5 file, and load it with keras_maskrcnn.load_weights."
        )
    model, receipt = build_model(state, source, all_rows)
    if is_classifier(state):
        write_atomically(target, lambda path: write_backbone(model, path))
    else:
        write_atomically(target, model.save if target.suffix == ".keras" else model.save_weights)
    return receipt


def _to_torch(source, target):
    model = load_model(find_model(source))
    state = torchvision_state_dict(model)
    write_state(state, target)
    return Receipt(str(source), tuple((name, array.shape) for name, array in state.items()))
