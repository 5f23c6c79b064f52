"""Find instances in many images with Spark: `km.RowPredictor` in `mapInPandas`.

    spark-submit on_spark.py run photos/ found/

Spark reads the images as bytes, each task loads the model once, and the results are Parquet files.
"""

import argparse

import keras_maskrcnn as km


def detector(model, **options):
    """The function that `mapInPandas` takes: from an iterator of frames to an iterator of frames.

    Args:
        model: `.keras` file, run folder or SavedModel that all workers see, or a function that returns a predictor.
        **options: of RowPredictor.
    """

    def detect(frames):
        predictor = km.RowPredictor(model, **options)
        yield from map(predictor, frames)

    return detect


def detect_folder(spark, model, images, output, **options):
    """Write the instances of all images below a folder or address as Parquet."""
    files = (
        spark.read.format("binaryFile")
        .option("recursiveFileLookup", "true")
        .option("pathGlobFilter", "*.{jpg,jpeg,png,JPG,JPEG,PNG}")
    )
    rows = files.load(images).selectExpr("path", "content as bytes")
    found = rows.mapInPandas(detector(model, **options), km.RowPredictor.SPARK_SCHEMA)
    found.write.mode("error").parquet(output)


def main():
    """Parse the command line and run."""
    from pyspark.sql import SparkSession

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a .keras file, run folder or SavedModel")
    parser.add_argument("images", help="folder or address with images")
    parser.add_argument("output", help="folder or address for Parquet files")
    parser.add_argument("--score", type=float, default=0.5, help="leave out detections with a lower score")
    args = parser.parse_args()
    # Few rows at a time: a batch of Arrow holds the encoded images.
    spark = SparkSession.builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 32).getOrCreate()
    detect_folder(spark, args.model, args.images, args.output, score_threshold=args.score)


if __name__ == "__main__":
    main()
