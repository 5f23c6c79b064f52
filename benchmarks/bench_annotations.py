"""Seconds and memory to open a COCO file of COCO's size: 118,000 images, 825,000 polygons; pycocotools beside it.

    python benchmarks/bench_annotations.py [--folder FOLDER] [--images 118000] [--objects 825000] [--only TEXT]

Writes the JSON file and the image files (hard links to eight small JPEGs) once. Each case is a process of its own: its
peak is the largest resident memory of that process, its steady memory what is resident at the end, of which "private"
is what no other process can share. The cache is in the folder, too.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

FOLDER = pathlib.Path(tempfile.gettempdir()) / "coco118k"
HEIGHT, WIDTH, CLASSES, KINDS = 48, 64, 80, 8

BARE = "import sys, keras_maskrcnn_launcher as launcher; launcher.register_package()\n"  # without Keras
OURS = BARE + "from keras_maskrcnn.data.readers.opener import open_dataset; found = open_dataset(PATH)"
CASES = {
    "pycocotools": "from pycocotools.coco import COCO; found = COCO(PATH)",
    "json.load": "import json; found = json.load(open(PATH))",
    "first": OURS,
    "cached": OURS,
    "no cache": OURS,
    "check-data": BARE + "sys.argv[1:] = ['check-data', PATH, '--output', OUTPUT]; launcher.main()",
    "headers": "import pathlib\nfrom PIL import Image\n"
    "for file in (pathlib.Path(PATH).parent / 'images').iterdir():\n  with Image.open(file) as image: image.size",
}
MEASURE = """
import resource, sys, time
PATH, OUTPUT = sys.argv[1:]
started, used = time.monotonic(), time.process_time()
try:
    exec(CODE)
except SystemExit:
    pass
seconds, used = time.monotonic() - started, time.process_time() - used
status = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
resident, private = (sum(int(status[name].split()[0]) for name in names) // 1024
                     for names in (["Rss"], ["Private_Clean", "Private_Dirty"]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
memory = f"peak {peak} MB, steady {resident} MB, private {private} MB"
print(f"RESULT {seconds:.1f} s, {used:.1f} s of CPU, {memory}", flush=True)
"""


def write_images(folder, count):
    """Tiny JPEGs, hard links to a few files."""
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for kind in range(KINDS):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / f"kind{kind}.jpg", quality=90)
    for number in range(1, count + 1):
        place = folder / "images" / f"{number:012d}.jpg"
        if not place.exists():
            os.link(folder / f"kind{number % KINDS}.jpg", place)


def write_annotations(path, images, objects):
    """Polygons of 8 to 40 corners, 24 on average, in random order of images, as in COCO; `categories` comes last."""
    import numpy as np

    rng = np.random.default_rng(1)
    owners = rng.integers(1, images + 1, objects)
    with open(path, "w") as file:
        file.write('{"info": {"description": "generated"}, "licenses": [], "images": [')
        for number in range(1, images + 1):
            entry = {
                "license": 1 + number % 8,
                "file_name": f"{number:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": f"http://farm9.staticflickr.com/8186/{number:010d}_1c5b7d9bfb_z.jpg",
                "id": number,
            }
            file.write(", " * (number > 1) + json.dumps(entry))
        file.write('], "annotations": [')
        for number, owner in enumerate(owners.tolist(), start=1):
            corners = int(rng.integers(8, 41))
            radii = rng.uniform(3, 12, 2)[:, None] * rng.uniform(0.7, 1.0, corners)
            turns = np.linspace(0, 2 * np.pi, corners, endpoint=False)
            centre = rng.uniform([12, 12], [WIDTH - 12, HEIGHT - 12])
            points = (centre + np.stack([np.cos(turns), np.sin(turns)], 1) * radii.T).clip(0, [WIDTH, HEIGHT]).round(2)
            low, high = points.min(0), points.max(0)
            x, y = points.T
            entry = {
                "segmentation": [points.ravel().tolist()],
                "area": round(float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2), 4),
                "iscrowd": 0,
                "image_id": owner,
                "bbox": [round(value, 2) for value in (*low.tolist(), *(high - low).tolist())],
                "category_id": int(rng.integers(1, CLASSES + 1)),
                "id": number,
            }
            file.write(", " * (number > 1) + json.dumps(entry))
        categories = [{"supercategory": "thing", "id": k, "name": f"thing {k}"} for k in range(1, CLASSES + 1)]
        file.write('], "categories": ' + json.dumps(categories) + "}")


def measure(name, path, home):
    """Run a case in a process of its own and print its figures."""
    environment = os.environ | {"KERAS_HOME": str(home), "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    if name in ("first", "no cache"):
        shutil.rmtree(home, ignore_errors=True)
    if name == "no cache":
        environment["KERAS_MASKRCNN_KEEP_ANNOTATIONS"] = "0"
    code = f"CODE = {CASES[name]!r}\n{MEASURE}"
    arguments = [sys.executable, "-c", code, str(path), str(path.parent / "check")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    print(f"{name:12} {found[0][7:] if found else 'failed: ' + done.stderr[-2000:]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--objects", type=int, default=825_000)
    parser.add_argument("--only", default="", help="cases whose names contain this text")
    args = parser.parse_args()
    path = args.folder / "instances.json"
    if not path.exists():
        started = time.monotonic()
        write_images(args.folder, args.images)
        write_annotations(path, args.images, args.objects)
        print(f"wrote {path}, {path.stat().st_size / 1e6:.0f} MB, in {time.monotonic() - started:.0f} s")
    for name in CASES:
        if args.only in name:
            measure(name, path, args.folder / "home")


if __name__ == "__main__":
    main()
