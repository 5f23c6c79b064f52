"""What int8 costs in accuracy: AP of a model, of its ONNX file, and of int8 in onnxruntime and OpenVINO.

python benchmarks/bench_int8.py best.keras --calibrate nuclei/train/images --val nuclei/val

Prints segm and bbox AP, the change from the model, file sizes, and seconds an image. `--val-images N` measures on the
first N images alone.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import keras_maskrcnn as km
from keras_maskrcnn.cli.export_int8 import spread
from keras_maskrcnn.cli.results import image_paths
from keras_maskrcnn.cli.sources import load_model

COLUMNS = ("segm_AP", "segm_AP50", "bbox_AP", "bbox_AP50")


def main():
    """Export, measure, print."""
    args = parse()
    model = load_model(args.model)
    paths = spread(image_paths([args.calibrate]), args.calibration_images)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        dataset = open_val(args, model.config)
        forms = {
            "float32, onnxruntime": lambda: km.export_onnx(model, scratch / "float32.onnx"),
            "int8, onnxruntime": lambda: km.export_onnx(model, scratch / "int8.onnx", calibration=paths),
            "float32, OpenVINO": lambda: km.export_openvino(model, scratch / "openvino"),
            "int8, OpenVINO": lambda: km.export_openvino(model, scratch / "openvino8", calibration=paths),
        }
        print(f"{len(paths)} images to calibrate, {len(dataset)} of {dataset.name} to measure")
        print(f"{'':22}" + "".join(f"{name:>11} {'change':>8}" for name in COLUMNS) + f"{'MB':>8} {'s/image':>8}")
        before = row("model", model, model, dataset, args.model)
        for name, export in forms.items():
            if args.only and args.only not in name:
                continue
            began = time.perf_counter()
            path = export()
            print(f"# {name}: written in {time.perf_counter() - began:.0f} s", flush=True)
            row(name, km.Predictor(path), model, dataset, path, before)


def row(name, predictor, model, dataset, path, before=None):
    """Measure and print one line. Returns the figures."""
    found = km.evaluate_coco(predictor, dataset)
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    cells = [f"{found[key]:11.4f} {found[key] - (before or found)[key]:+8.4f}" for key in COLUMNS]
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{name:22}{''.join(cells)}{size:8.1f} {found['seconds_per_image']:8.3f}", flush=True)
    return found


def open_val(args, config):
    """The dataset, or its first images."""
    source, folder = (args.val_annotations, args.val) if args.val_annotations else (args.val, None)
    dataset = km.open_dataset(source, folder, part="val", class_names=config.class_names)
    if args.val_images:
        dataset.records = list(dataset.records)[: args.val_images]
    return dataset


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a trained .keras file")
    parser.add_argument("--calibrate", required=True, help="folder of images")
    parser.add_argument("--calibration-images", type=int, default=100, help="how many of them")
    parser.add_argument("--val", required=True, help="dataset, or its images with --val-annotations")
    parser.add_argument("--val-annotations")
    parser.add_argument("--val-images", type=int, help="measure on the first ones alone")
    parser.add_argument("--only", help="forms whose name contains this")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
