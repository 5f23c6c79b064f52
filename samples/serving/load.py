"""Send a limited number of requests to your own server, and report latency by batch size. See README.md."""

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

MOST_REQUESTS, MOST_CONCURRENT, MOST_IMAGES = 10_000, 64, 64  # in total; concurrent; images per request
PERCENTILES = (50, 90, 99)


def build_parser():
    """The argparse parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("images", nargs="+", help="image files, sent in turn")
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="http://HOST:PORT, or grpc://HOST:PORT")
    add_model(parser)
    parser.add_argument("--signature", choices=ENCODED, default=ENCODED[0], help="signature to call")
    parser.add_argument("--layout", choices=("row", "column"), default="row", help="JSON format, for http://")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4], help="images per request")
    parser.add_argument("--requests", type=int, default=20, help="measured requests for each batch size")
    parser.add_argument("--concurrency", type=int, default=2, help="concurrent requests")
    parser.add_argument("--json", type=pathlib.Path, help="file for the results")
    parser.add_argument(
        "--my-own-server",
        action="store_true",
        help="required for other machines: confirms that the server is yours",
    )
    return parser


def check(args):
    """Check the arguments, to prevent attacks and typing errors."""
    for name, values, most in (
        ("--requests for all batch sizes together", [args.requests * len(args.batch_sizes)], MOST_REQUESTS),
        ("--concurrency", [args.concurrency], MOST_CONCURRENT),
        ("--batch-sizes", args.batch_sizes, MOST_IMAGES),
    ):
        if not all(1 <= value <= most for value in values):
            raise ValueError(f"{name} must be between 1 and {most}. Received: {values}. This is not a stress test.")
    host = urllib.parse.urlsplit(args.url).hostname or ""
    if not is_loopback(host) and not args.my_own_server:
        raise ValueError(
            f"The server must be on this machine unless you confirm that it is yours. Received: {args.url}. "
            "Add --my-own-server if it is yours and its other users accept the load."
        )


def is_loopback(host):
    """Whether a host name or address is certainly this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_model(args):
    """The client for the scheme of the address."""
    scheme, _, server = args.url.partition("://")
    if scheme == "grpc":
        return GrpcModel(server, args.model, args.version, args.timeout)
    return RestModel(args.url, args.model, args.version, args.timeout, args.layout)


def measure(model, signature, files, batch_size, num_requests, concurrency):
    """Send requests of one batch size and time them.

    Args:
        model: RestModel or GrpcModel.
        signature: its name.
        files: list of encoded images, used in turn.
        batch_size: images per request.
        num_requests: measured requests; `concurrency` warm-up requests come first.
        concurrency: concurrent requests.

    Returns:
        dict of batch_size, concurrency, requests, errors, first_error, unread (images that the server could not read),
        seconds, images_per_second, and p50_ms, p90_ms, p99_ms. Only successful requests count; None if there are none.
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
    """The results as a Markdown table, one line per batch size."""
    names = ["batch_size", "concurrency", "requests", "errors", "images_per_second", *(f"p{q}_ms" for q in PERCENTILES)]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    for result in results:
        cells = ["-" if result[name] is None else f"{result[name]:.4g}" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv=None):
    """Run the program. Returns the exit status: 2 for a wrong argument, or if all requests of a batch size failed."""
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
