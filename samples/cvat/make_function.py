"""Make the folder that `nuctl deploy` takes: the model, `main.py`, and a `function.yaml` with the model's classes.

    python samples/cvat/make_function.py runs/balloon cvat_function

The README beside this file has the next commands.
"""

import argparse
import json
import pathlib
import shutil
import sys

import yaml

import keras_maskrcnn as km
from keras_maskrcnn.runs.experiment import find_model

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # of the wheel, which has compiled parts


def main(arguments=None):
    """Parse the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or .keras file")
    parser.add_argument("folder", help="for the function; made if it is missing")
    parser.add_argument("--name", default="keras-maskrcnn", help="the function's name in CVAT")
    options = parser.parse_args(arguments)
    folder, model = pathlib.Path(options.folder), find_model(options.model)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, folder / "model.keras")
    shutil.copyfile(pathlib.Path(__file__).with_name("main.py"), folder / "main.py")
    content = function(options.name, km.Predictor(model).config.class_names)
    (folder / "function.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    print(f"{folder}: function.yaml, main.py, model.keras. Put the package's wheel beside them.")


def function(name, class_names):
    """The content of `function.yaml`.

    Args:
        name: str, letters, digits and "-". class_names: names by label.

    Returns:
        dict.
    """
    labels = [{"id": label, "name": name, "type": "mask"} for label, name in enumerate(class_names)]
    install = "pip install --no-cache-dir tensorflow-cpu && pip install --no-cache-dir /opt/nuclio/*.whl"
    return {
        "metadata": {
            "name": name,
            "namespace": "cvat",
            "annotations": {"name": name, "type": "detector", "spec": json.dumps(labels, ensure_ascii=False)},
        },
        "spec": {
            "description": "Mask R-CNN, keras-maskrcnn",
            "runtime": f"python:{PYTHON}",
            "handler": "main:handler",
            "eventTimeout": "120s",
            "env": [{"name": "MODEL", "value": "/opt/nuclio/model.keras"}],
            "build": {
                "image": f"cvat.{name}",
                "baseImage": f"python:{PYTHON}-slim",
                "directives": {"postCopy": [{"kind": "RUN", "value": install}]},
            },
            "triggers": {
                "myHttpTrigger": {
                    "maxWorkers": 1,  # each holds the model
                    "kind": "http",
                    "workerAvailabilityTimeoutMilliseconds": 60000,
                    "attributes": {"maxRequestBodySize": 2**25},
                }
            },
            "platform": {
                "attributes": {"restartPolicy": {"name": "always", "maximumRetryCount": 3}, "mountMode": "volume"}
            },
        },
    }


if __name__ == "__main__":
    main()
