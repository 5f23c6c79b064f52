"""Read a YAML file of a dataset: dictionaries, lists and text. Called by the reader of YOLO datasets.

All values are text: a class may be called `no`, `null` or `1e3`. Aliases are refused, because they can multiply a small
file to gigabytes.
"""

from keras_maskrcnn.data.limits import YAML_BYTES, YAML_DEPTH
from keras_maskrcnn.data.readers.folders import read_bytes

_NOTHING = ("", "~", "null", "Null", "NULL")


def read_yaml(path):
    """The dictionary in a YAML file.

    Args:
        path: path of the file.

    Returns:
        dict of str to str, dict, list or None; None stands for empty values and `null` at the top level.

    Raises:
        ValueError: the file is missing, too large, is not YAML, has aliases, or does not hold a dictionary.
    """
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # the one in C is fifty times as fast
    try:
        text = read_bytes(path, YAML_BYTES).decode("utf-8-sig")
        _check_events(yaml.parse(text, Loader=loader), path)
        content = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, LookupError, TypeError) as error:
        problem = " ".join(str(error).split())  # PyYAML's own text has several lines
        raise ValueError(f"data.yaml must be YAML. Received {path}: {problem}. Correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"data.yaml must contain `names`, `train` and `val`. Received {path} without them. Add them.")
    return {key: None if value in _NOTHING else value for key, value in content.items()}


def _check_events(events, path):
    """Refuse aliases and deep nesting, before anything is built from them."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(
                f"data.yaml must have no aliases. Received {path} with *{event.anchor}. Write the value out."
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > YAML_DEPTH:
            raise ValueError(
                f"data.yaml may be nested {YAML_DEPTH} deep. Received {path}, which is nested deeper. Correct it."
            )
