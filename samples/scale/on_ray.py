"""Find instances with Ray Data in a pipeline of your own: `km.RowPredictor` in `map_batches`.

    python on_ray.py run photos/ found/

For images in, Parquet out, `keras-maskrcnn predict --engine ray` does more: it goes on where it was killed.
"""

import argparse

import ray

import keras_maskrcnn as km


def detect(images, model, actors=1, cpus=1, gpus=0, **options):
    """A Ray Dataset with a row for each image.

    Args:
        images: Ray Dataset with `path` and `bytes`.
        model: `.keras` file, run folder or SavedModel that all machines see, or a function that returns a predictor.
        actors: int, processes with the model. cpus, gpus: of each.
        **options: of RowPredictor.
    """
    return images.map_batches(
        km.RowPredictor,
        fn_constructor_args=(model,),
        fn_constructor_kwargs=options,
        batch_size=32,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus,
    )


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a .keras file, run folder or SavedModel")
    parser.add_argument("images", help="folder or address with images")
    parser.add_argument("output", help="folder or address for Parquet files")
    parser.add_argument("--actors", type=int, default=1, help="processes with the model")
    parser.add_argument("--gpus", type=float, default=0, help="of each of them")
    args = parser.parse_args()
    images = ray.data.read_binary_files(args.images, include_paths=True)
    detect(images, args.model, args.actors, gpus=args.gpus, score_threshold=0.5).write_parquet(args.output)


if __name__ == "__main__":
    main()
