"""Shared by the REST and the gRPC client: images to inputs, responses to pictures, error messages.

A client provides a model with `predict(signature, inputs)`, arrays in and arrays out. The programs are rest_client.py
and grpc_client.py.
"""

import argparse
import io
import pathlib
import sys
import time

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as rle

from keras_maskrcnn.geometry.extents import filled_box
from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn_launcher import quiet_tensorflow

with quiet_tensorflow():
    from keras_maskrcnn import MaskRCNNConfig, draw_instances
    from keras_maskrcnn.data import read_image
    from keras_maskrcnn.serving import coco_rle, found_instances

SUCCESS, MISTAKE = 0, 2  # exit status, as in keras-maskrcnn
SERVED_FORMATS = ("JPEG", "PNG", "BMP", "GIF")  # formats that serve_bytes and serve_rle decode
ENCODED, PIXELS = ("serve_bytes", "serve_rle"), "serving_default"


def run_client(description, add_connection, open_model, argv=None):
    """Run a client: parse the command line, send each image, draw the response.

    Args:
        description: description of the program for --help.
        add_connection: function that adds the arguments for the connection to the server.
        open_model: function from the parsed arguments to a model.
        argv: list of str, or None for the arguments of the process.

    Returns:
        Exit status: 0 for success; 2 for a wrong argument, or a server that does not respond or rejects the request.
    """
    args = build_parser(description, add_connection).parse_args(argv)
    try:
        draw_all(open_model(args), args.images, args.signature, args.output, args.score)
    except (ValueError, OSError) as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return MISTAKE
    return SUCCESS


def build_parser(description, add_connection):
    """The argparse parser of a client."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("images", nargs="+", help="image files")
    add_connection(parser)
    add_model(parser)
    parser.add_argument("--signature", choices=(*ENCODED, PIXELS), default=ENCODED[0], help="signature to call")
    parser.add_argument("--output", default="found", help="folder for the pictures")
    parser.add_argument("--score", type=float, default=0.5, help="detections with lower scores are left out")
    return parser


def add_model(parser):
    """Arguments for the model on the server, and the timeout."""
    parser.add_argument("--model", default="maskrcnn", help="the model's name on the server")
    parser.add_argument("--version", type=version, help="number or label of a version (default: the newest)")
    parser.add_argument("--timeout", type=seconds, default=60.0, help="seconds for one call")


def version(text):
    """A version's number as int, or its label as str."""
    return int(text) if text.isdigit() else text


def seconds(text):
    """A number of seconds above zero, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive and finite, received {text}")
    return value


def draw_all(model, paths, signature, output, min_score):
    """Send images one by one; write `0000-name.png` for each into `output` and a line for each to standard output."""
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(map(pathlib.Path, paths)):
        image = read_image(path)
        inputs = {"images": image[None]} if signature == PIXELS else {"image_bytes": [encoded(path, image)]}
        start = time.perf_counter()
        outputs = model.predict(signature, inputs)
        took = time.perf_counter() - start
        found = found_in(outputs, 0)
        if found.image_size != image.shape[:2]:
            raise ValueError(
                "Server and client must read the same image. Received a response for (height, width) "
                f"{found.image_size}, and {path} has {image.shape[:2]}. Rotate the file itself, not by EXIF alone."
            )
        target = output / f"{i:04d}-{path.stem}.png"
        write_atomically(target, Image.fromarray(draw_instances(image, found, min_score)).save)
        shown = [f"{found.class_names[label]} {score:.2f}" for label, score in zip(found.labels, found.scores)]
        shown = shown[: int((found.scores >= min_score).sum())]
        print(f"{path}: {len(shown)} instances in {took:.2f} s -> {target}", *shown[:5], sep="\n    ")


def encoded(path, image):
    """The bytes to send: those of the file if the server decodes its format, else the image as PNG."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.format in SERVED_FORMATS:
                return data
    except UnidentifiedImageError:
        pass  # a TIFF that read_image reads through scikit-image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def found_in(outputs, row):
    """The instances of one image in a response of any signature.

    Args:
        outputs: dict from output name to an array of B rows.
        row: position of the image, 0..B-1.

    Returns:
        FoundInstances, in image pixels after EXIF rotation. `masks` are pasted with the default of `mask_pasting`,
        because the response does not contain it; `mask_rle` has been pasted by the model's own rule.

    Raises:
        ValueError: the server could not read the image.
    """
    problem = text(outputs["problems"][row]) if "problems" in outputs else ""
    if problem:
        raise ValueError(
            f"The server must be able to read the image. Received: {problem}. Save it as PNG and send that."
        )
    one = {name: values[row] for name, values in outputs.items()}
    valid = one["valid"]
    names = dict(zip(one["labels"][valid].tolist(), map(text, one["class_names"][valid]), strict=True))
    class_names = [names.get(label, f"class {label}") for label in range(max(names, default=0) + 1)]
    config = MaskRCNNConfig(num_classes=len(class_names), class_names=class_names)
    if "mask_rle" not in one:
        return found_instances(one, config)
    found = found_instances(one | {"masks": np.zeros((len(one["valid"]), 0, 0))}, config)
    codes = coco_rle(one["mask_rle"], one["image_sizes"])
    # One at a time: a stack of full-size masks of many objects in a large photo takes gigabytes.
    found.mask_windows = [window(rle.decode(code), box) for code, box in zip(codes, found.boxes, strict=True)]
    return found


def window(mask, box):
    """A mask (H, W) cropped to its box, or to its own extent if that is larger: (bool (h, w), x0, y0)."""
    x0, y0, x1, y1 = np.maximum(np.ceil(box - 0.5), 0).astype(int)
    filled = filled_box(mask)
    if filled is not None:
        x0, y0 = min(x0, filled[0]), min(y0, filled[1])
        x1, y1 = max(x1, filled[2]), max(y1, filled[3])
    return mask[y0:y1, x0:x1].astype(bool), int(x0), int(y0)


def text(value):
    """A string output: bytes from gRPC, str from JSON."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def nobody_there(address, reason, option):
    """The error for a server that does not respond at the given address."""
    return ConnectionError(
        f"TF Serving must listen at {address}. Received: {reason}. Start it as in the README, or pass its address "
        f"with {option}."
    )


def too_late(address, timeout):
    """The error for a server that did not respond within `timeout` seconds."""
    return TimeoutError(
        f"The server must respond within {timeout:g} s. Received: nothing from {address}. The first call of a model "
        "takes longer than others. Try again, or use a larger --timeout."
    )


def refused(address, status, said):
    """The error for a server that returned an error."""
    return ValueError(
        f"The server must accept the request. Received: {status} from {address}: {said}. Check the model's name, "
        "version and signature. GET /v1/models/NAME/metadata on the REST port lists them."
    )
