"""What is predicted for each RoI beside class and box: one branch a file, named in `MaskRCNNConfig.branches`.

Read `branch.py` (what a branch declares), then `head.py` (the layer behind it), then `mask.py` and `mask_head.py`, or
`keypoint.py` and `keypoint_head.py`, or `pointrend.py` and `pointrend_head.py`.
"""

from keras_maskrcnn.branches.branch import Branch
from keras_maskrcnn.branches.field import Field
from keras_maskrcnn.branches.keypoint import KeypointBranch
from keras_maskrcnn.branches.mask import MaskBranch
from keras_maskrcnn.branches.pointrend import PointRendMask

__all__ = ["Branch", "BranchHead", "Field", "KeypointBranch", "MaskBranch", "PointRendMask"]

BUILT_IN = {"mask": MaskBranch, "keypoints": KeypointBranch, "pointrend": PointRendMask}
_TAKEN = ("backbone", "fpn", "rpn", "box")  # names of the model's other parts


def resolve(branches):
    """The branches that a config names.

    Args:
        branches: sequence of a built-in's name, a Branch, or a dict from `describe`.

    Returns:
        tuple of Branch.

    Raises:
        ValueError: an unknown name, another object, a name or a loss used twice, a class that is not registered.
    """
    if not isinstance(branches, (tuple, list)):
        raise ValueError(f"branches is a sequence. Received: {branches!r}. Write branches=({branches!r},).")
    found = tuple(_resolve_one(branch) for branch in branches)
    names = [branch.name for branch in found]
    losses = [loss for branch in found for loss in branch.losses]
    keys = [f"{name}_head" for name in names] + losses
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    unusable = [name for name in names if not name.isidentifier() or name in _TAKEN]
    if repeated or unusable:
        raise ValueError(
            f"Branches need unique names, which are identifiers other than {_TAKEN}, and unique loss names. "
            f"Received the names {names} and the losses {losses}. Rename one."
        )
    return found


def describe(branches):
    """Branches as JSON-ready values, which `resolve` reads: the name of a built-in without options, or a dict."""
    return [_describe_one(branch) for branch in branches]


def for_dataset(names, dataset):
    """Built-in branches for a dataset, with what its annotations say: a tuple of Branch.

    Args:
        names: keys of `BUILT_IN`. dataset: Dataset.

    Raises:
        ValueError: an unknown name, or the dataset has nothing for a branch to learn.
    """
    resolve(names)
    return tuple(BUILT_IN[name].for_dataset(dataset) for name in names)


def _resolve_one(branch):
    if isinstance(branch, Branch):
        return branch
    if isinstance(branch, str) and branch in BUILT_IN:
        return BUILT_IN[branch]()
    if isinstance(branch, dict) and branch.get("built_in") in BUILT_IN:
        return _with_options(branch)
    if isinstance(branch, dict):
        return _deserialize(branch)
    raise ValueError(
        f"A branch is one of {sorted(BUILT_IN)}, or an object of a subclass of keras_maskrcnn.branches.Branch. "
        f"Received: {branch!r}. Pass an object, not its class."
    )


def _describe_one(branch):
    if BUILT_IN.get(branch.name) is type(branch):
        options = branch.get_config()
        return {"built_in": branch.name, **options} if options else branch.name
    import keras  # a framework: only models with branches of their users need it here

    return keras.saving.serialize_keras_object(branch)


def _with_options(description):
    """A built-in from the dictionary that `describe` makes of it."""
    options = {key: value for key, value in description.items() if key != "built_in"}
    try:
        return BUILT_IN[description["built_in"]].from_config(options)
    except TypeError as error:
        raise ValueError(
            f"The branch `{description['built_in']}` must have options of its class. Received: {sorted(options)}: "
            f"{error}. Remove the unknown ones."
        ) from error


def _deserialize(description):
    if not isinstance(description.get("class_name"), str):
        raise ValueError(
            "A branch in a file is a dictionary with its class_name, as `describe` writes it. "
            f"Received: {repr(description)[:200]}. Correct the file."
        )
    import keras

    name = description.get("registered_name") or description.get("class_name")
    problem = f"The model has a branch of the class {name}, which is not registered in this process."
    try:
        branch = keras.saving.deserialize_keras_object(description)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"{problem} Received: {repr(description)[:200]}. {_remedy(description)}") from error
    if not isinstance(branch, Branch):
        raise ValueError(f"{problem} Received: {repr(branch)[:200]}. {_remedy(description)}")
    return branch


def _remedy(description):
    return (
        f"Import the module that defines it ({description.get('module')}) before loading the model, and decorate the "
        "class with keras.saving.register_keras_serializable."
    )


def __getattr__(name):
    if name == "BranchHead":  # a Keras layer: loaders and data commands come here without a framework
        from keras_maskrcnn.branches.head import BranchHead

        return BranchHead
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
