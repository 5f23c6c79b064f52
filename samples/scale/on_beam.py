"""Find instances in many images with Beam: `km.RowPredictor` in `RunInference`.

    python on_beam.py run "photos/*.jpg" found --runner DirectRunner

Each worker loads the model once; the results are JSON lines.
"""

import argparse
import json

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.ml.inference.base import ModelHandler, RunInference

import keras_maskrcnn as km


class InstanceHandler(ModelHandler):
    """What `RunInference` needs to know: how to load the model, and how to run it on a batch of rows.

    Args:
        model: `.keras` file, run folder or SavedModel that all workers see, or a function that returns a predictor.
        most: int, rows that Beam gathers for one call.
        **options: of RowPredictor.
    """

    def __init__(self, model, most=32, **options):
        self.model = model
        self.most = most
        self.options = options

    def load_model(self):
        """Called once in each worker."""
        return km.RowPredictor(self.model, **self.options)

    def run_inference(self, batch, model, inference_args=None):
        """From rows to rows.

        Args:
            batch: list of dicts with `path`, and `bytes` if the file was read. model: RowPredictor.
        """
        return model(list(batch))

    def batch_elements_kwargs(self):
        """How many rows Beam gathers."""
        return {"max_batch_size": self.most}


def as_row(file):
    """A row for RowPredictor of a file that Beam has matched, here or at an address."""
    return {"path": file.metadata.path, "bytes": file.read()}


def main():
    """Parse the command line and run. Beam takes the options that are not listed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a .keras file, run folder or SavedModel")
    parser.add_argument("images", help="pattern of paths or addresses")
    parser.add_argument("output", help="beginning of the names of the results")
    parser.add_argument("--score", type=float, default=0.5, help="leave out detections with a lower score")
    args, options = parser.parse_known_args()
    with beam.Pipeline(argv=options) as pipeline:
        (
            pipeline
            | fileio.MatchFiles(args.images)
            | fileio.ReadMatches()
            | beam.Map(as_row)
            | RunInference(InstanceHandler(args.model, score_threshold=args.score))
            | beam.Map(json.dumps)
            | beam.io.WriteToText(args.output, file_name_suffix=".jsonl")
        )


if __name__ == "__main__":
    main()
