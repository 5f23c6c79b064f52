"""Do SavedModels and `.keras` files of an earlier commit give the same detections with this tree's code?

Two steps. The first writes files and that code's detections; run it with the earlier commit in front:

    git worktree add /tmp/base 0d7ef1d
    PYTHONPATH=/tmp/base:tests python benchmarks/check_old_exports.py --write /tmp/compat/exports
    PYTHONPATH=.:tests python benchmarks/check_old_exports.py /tmp/compat/exports

The second loads them with this tree's code: the `.keras` file through `Predictor`, the SavedModel through
`SavedModelPredictor` and through `keras-maskrcnn predict --saved-model`. It prints the largest distances, and ends with
status 1 where one is too large. The models are those of tests/old_files.py.
"""

import argparse
import json
import pathlib
import sys

import keras
import numpy as np
from old_files import batch_of, read_cases, write_archive

import keras_maskrcnn as km
from keras_maskrcnn.serving import SavedModelPredictor

SAME = {"boxes": 2e-3, "scores": 1e-5, "masks": 0.0}  # the same graph, or the same arithmetic
FOLDED = {"boxes": 0.05, "scores": 1e-3, "masks": 1e-3}  # batch norm folded into the convolutions; as `doctor` allows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="what the earlier code wrote, or is to write")
    parser.add_argument("--write", action="store_true", help="write; to be run with the earlier code")
    args = parser.parse_args()
    print(f"code: {pathlib.Path(km.__file__).parent}", flush=True)
    if args.write:
        for name, case in read_cases().items():
            write(case, args.folder / name)
        return 0
    folders = sorted(path for path in args.folder.iterdir() if (path / "image.npy").is_file())
    return 0 if folders and all([check(folder) for folder in folders]) else 1


def write(case, folder):
    """One case: model.keras, an export, an image, and the detections of both."""
    folder.mkdir(parents=True, exist_ok=True)
    model = keras.saving.load_model(write_archive(case, folder / "model.keras"), compile=False)
    image = batch_of(model.config)["images"][0]
    np.save(folder / "image.npy", image)
    km.export_saved_model(model, folder / "export")
    store(folder / "model.npz", km.Predictor(model)(image))
    store(folder / "export.npz", SavedModelPredictor(folder / "export")(image))
    print(f"{folder}: written", flush=True)


def check(folder):
    """Compare what this code finds with what the earlier code found; True where all is close."""
    image = np.load(folder / "image.npy")
    of_model, of_export = (dict(np.load(folder / f"{name}.npz")) for name in ("model", "export"))
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    found = arrays(km.Predictor(model)(image))
    exported = arrays(SavedModelPredictor(folder / "export")(image))
    return all(
        [
            is_close(f"{folder.name}: .keras file, this code against the earlier", found, of_model, SAME),
            is_close(f"{folder.name}: SavedModel, this code against the earlier", exported, of_export, SAME),
            is_close(f"{folder.name}: SavedModel against the model", exported, found, FOLDED),
            is_close(f"{folder.name}: predict --saved-model", predicted(folder), of_export, SAME),
        ]
    )


def predicted(folder):
    """What the command line finds, from its detections.json; mask areas stand for masks."""
    from keras_maskrcnn.cli import main as command_line

    output = folder / "predictions"
    command = ["predict", "--saved-model", folder / "export", "--score", "0", "--output", output, folder / "image.npy"]
    status = command_line([str(part) for part in command])
    if status:
        raise RuntimeError(f"predict should end with status 0. Received: {status}. Run it by hand: {command}")
    results = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    boxes = np.array([result["bbox"] for result in results]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {"boxes": boxes, "scores": np.array([result["score"] for result in results])}


def store(path, found):
    np.savez_compressed(path, **arrays(found))


def arrays(found):
    return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "masks": found.masks}


def is_close(what, found, expected, limits):
    """Print the distances; True where none passes its limit. Of masks: the share of pixels that differ."""
    if len(found["scores"]) != len(expected["scores"]):
        print(f"{what}: {len(found['scores'])} detections instead of {len(expected['scores'])}: DIFFERS", flush=True)
        return False
    apart = {name: np.abs(found[name] - expected[name]).max(initial=0) for name in ("boxes", "scores")}
    if "masks" in found:
        apart["masks"] = (found["masks"] != expected["masks"]).sum() / max(expected["masks"].sum(), 1)
    same_labels = "labels" not in found or np.array_equal(found["labels"], expected["labels"])
    fine = same_labels and all(value <= limits[name] for name, value in apart.items())
    numbers = ", ".join(f"{name} {value:.1e}" for name, value in apart.items())
    count = len(found["scores"])
    print(f"{what}: {count} detections, largest distances: {numbers}: {'same' if fine else 'DIFFERS'}", flush=True)
    return fine


if __name__ == "__main__":
    sys.exit(main())
