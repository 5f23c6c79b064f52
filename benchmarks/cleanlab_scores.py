"""cleanlab's quality score of the labels of each image, low for bad ones. Run by bench_suspicious.py.

    PYTHON benchmarks/cleanlab_scores.py data.json        # writes data.out

Runs in an environment of its own, which has cleanlab and not this package. cleanlab's license is the AGPL: nothing of
it is used anywhere else.
"""

import json
import pathlib
import sys

import numpy as np
from cleanlab.object_detection.rank import get_label_quality_scores


def main(path):
    """Read boxes of labels and detections, and write the scores."""
    data = json.loads(path.read_text())
    corners = lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]  # noqa: E731
    place = {key: k for k, key in enumerate(data["categories"])}
    labels, predictions = [], []
    for image in data["images"]:
        own = [one for one in data["truth"] if one["image_id"] == image]
        labels.append(
            {
                "bboxes": np.array([corners(one["bbox"]) for one in own], np.float32).reshape(-1, 4),
                "labels": np.array([place[one["category_id"]] for one in own], int),
            }
        )
        found = [[] for _ in place]
        for one in data["found"]:
            if one["image_id"] == image:
                found[place[one["category_id"]]].append([*corners(one["bbox"]), one["score"]])
        predictions.append(
            np.array([np.array(rows, np.float32).reshape(-1, 5) for rows in found] + [None], object)[:-1]
        )
    scores = get_label_quality_scores(labels, predictions, verbose=False)
    path.with_suffix(".out").write_text(json.dumps([float(score) for score in scores]))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
