"""Train a Mask R-CNN on generated shapes. See the README beside this file."""

import argparse

from keras_maskrcnn_launcher import quiet_tensorflow

with quiet_tensorflow():
    from keras_maskrcnn import format_metrics
    from keras_maskrcnn.cli.demo import train_on_shapes


def main(arguments=None):
    """Parse the command line, train, print the COCO metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default="runs/shapes", help="folder for data and run")
    parser.add_argument("--minutes", type=float, default=5, help="wall-clock time of training")
    args = parser.parse_args(arguments)
    _, _, metrics = train_on_shapes(args.directory, args.minutes)
    print(format_metrics(metrics))


if __name__ == "__main__":
    main()
