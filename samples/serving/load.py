"""Ask a server of one's own for a bounded number of answers, and report latency against batch size; see README.md."""

import argparse
import concurrent.futures
import ipaddress
import pathlib
import sys
import time
import urllib.parse

import numpy as np
from drawing_client import ENCODED, MISTAKE, SUCCESS, add_model, encoded, read_image
from grpc_client import GrpcModel
from rest_client import RestModel

from keras_maskrcnn.host.files import write_json

MOST_REQUESTS, MOST_CONCURRENT, MOST_IMAGES = 10_000, 64, 64  # in all; at once; in one request
PERCENTILES = (50, 90, 99)


def build_parser():
    """The argparse parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("images", nargs="+", help="image files, sent in turn")
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="http://HOST:PORT, or grpc://HOST:PORT")
    add_model(parser)
    parser.add_argument("--signature", choices=ENCODED, default=ENCODED[0], help="what to call")
    parser.add_argument("--layout", choices=("row", "column"), default="row", help="of the JSON, with http://")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4], help="images in one request")
    parser.add_argument("--requests", type=int, default=20, help="measured requests for each batch size")
    parser.add_argument("--concurrency", type=int, default=2, help="requests under way at once")
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    parser.add_argument(
        "--my-own-server",
        action="store_true",
        help="needed where the address is not of this machine: the server is mine",
    )
    return parser


def check(args):
    """Refuse what would be an attack or a slip of the keyboard."""
    for name, values, most in (
        ("--requests for all batch sizes together", [args.requests * len(args.batch_sizes)], MOST_REQUESTS),
        ("--concurrency", [args.concurrency], MOST_CONCURRENT),
        ("--batch-sizes", args.batch_sizes, MOST_IMAGES),
    ):
        if not all(1 <= value <= most for value in values):
            raise ValueError(f"{name} must lie between 1 and {most}. Received: {values}. This is no stress tool.")
    host = urllib.parse.urlsplit(args.url).hostname or ""
    if not is_loopback(host) and not args.my_own_server:
        raise ValueError(
            f"Load goes to this machine unless you say that the server is yours. Received: {args.url}. "
            "Add --my-own-server if it is, and if its other users can bear it."
        )


def is_loopback(host):
    """Whether a host's name or address is certainly this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_model(args):
    """The client that the address asks for."""
    scheme, _, server = args.url.partition("://")
    if scheme == "grpc":
        return GrpcModel(server, args.model, args.version, args.timeout)
    return RestModel(args.url, args.model, args.version, args.timeout, args.layout)


def measure(model, signature, files, batch_size, num_requests, concurrency):
    """Send requests of one batch size and time them.

    Args:
        model: RestModel or GrpcModel.
        signature: its name.
        files: list of encoded images, taken in turn.
        batch_size: images in a request.
        num_requests: requests that count; one for each at once goes before, to warm up.
        concurrency: requests under way at once.

    Returns:
        dict of batch_size, concurrency, requests, errors, first_error, unread (images that the server could not read),
        seconds, images_per_second (of answered requests), and p50_ms, p90_ms, p99_ms of the answered, None without any.
    """

    def ask(number):
        batch = [files[(number * batch_size + i) % len(files)] for i in range(batch_size)]
        start = time.perf_counter()
        try:
            outputs = model.predict(signature, {"image_bytes": batch})
        except (ValueError, OSError) as error:
            return time.perf_counter() - start, str(error), 0
        return time.perf_counter() - start, None, int((outputs["problems"].astype(str) != "").sum())

    with concurrent.futures.ThreadPoolExecutor(concurrency) as workers:
        list(workers.map(ask, range(concurrency)))
        start = time.perf_counter()
        answers = list(workers.map(ask, range(num_requests)))
        seconds = time.perf_counter() - start
    times = np.array([took for took, error, _ in answers if error is None]) * 1000
    errors = [error for _, error, _ in answers if error is not None]
    percentiles = np.percentile(times, PERCENTILES).tolist() if len(times) else [None] * len(PERCENTILES)
    return {
        "batch_size": batch_size,
        "concurrency": concurrency,
        "requests": num_requests,
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "unread": sum(unread for _, _, unread in answers),
        "seconds": seconds,
        "images_per_second": len(times) * batch_size / seconds,
        **{f"p{q}_ms": value for q, value in zip(PERCENTILES, percentiles, strict=True)},
    }


def format_table(results):
    """The figures as a Markdown table, one line for each batch size."""
    names = ["batch_size", "concurrency", "requests", "errors", "images_per_second", *(f"p{q}_ms" for q in PERCENTILES)]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    for result in results:
        cells = ["-" if result[name] is None else f"{result[name]:.4g}" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv=None):
    """Run it. Returns the exit status: 2 for a mistake, or where a batch size got no answer at all."""
    args = build_parser().parse_args(argv)
    try:
        check(args)
        files = [encoded(path, read_image(path)) for path in map(pathlib.Path, args.images)]
        model = open_model(args)
        results = [
            measure(model, args.signature, files, size, args.requests, args.concurrency) for size in args.batch_sizes
        ]
        if args.json:
            write_json(args.json, results)
    except (ValueError, OSError) as error:
        print(f"load.py: {error}", file=sys.stderr)
        return MISTAKE
    print(format_table(results))
    for result in results:
        if result["errors"]:
            print(f"batch size {result['batch_size']}: {result['first_error']}", file=sys.stderr)
    return MISTAKE if any(result["p50_ms"] is None for result in results) else SUCCESS


if __name__ == "__main__":
    sys.exit(main())
