"""keras-maskrcnn export | convert: models and weights for other programs."""

import collections.abc
import typing

from keras_maskrcnn.cli.export_int8 import INT8, calibrated, check_int8
from keras_maskrcnn.cli.options import SUCCESS, Option, add_options, positive
from keras_maskrcnn.cli.sources import load_model

# export ----------------------------------------------------------------------------------------------------


class Format(typing.NamedTuple):
    """A format of `export`. To add one, write its function and put its row into `FORMATS`.

    Args:
        write: function from arguments and a MaskRCNN to (what was written, a hint on how to use it).
        options: the Options that this format accepts besides --overwrite. Several formats may share one.
    """

    write: collections.abc.Callable
    options: tuple = ()


VERSION = Option("--version", "number of the version (default: the next free one)", type=positive(int))
BFLOAT16 = Option("--bfloat16", "compute in bfloat16: faster on processors that have it", type=bool)
OPSET = Option("--opset", "version of the ONNX operator set (default: 17)", type=positive(int))
FP16 = Option("--fp16", "weights in float16: half the file, with small differences", type=bool)
IMAGE_SIZE = Option(
    "--image-size", "size of the images, pixels", type=positive(int), nargs=2, metavar=("HEIGHT", "WIDTH")
)
MAX_BATCH = Option("--max-batch", "most images that the server puts into one batch", 8, positive(int))
ONNXRUNTIME_WEB = Option(
    "--onnxruntime-web",
    "the npm package onnxruntime-web: its .tgz, or the folder node_modules/onnxruntime-web (default: downloaded once)",
    metavar="PATH",
)
QUANTIZATION = Option("--quantization", "store smaller, less exact weights", choices=("float16", "dynamic_range"))


def export_arguments(command):
    """Add the arguments of export."""
    command.add_argument("model", help="a .keras file or a run folder")
    command.add_argument(
        "target",
        help="savedmodel: the model's folder, with one subfolder for each version; openvino, web, triton: a folder; "
        "other formats: the file to write",
    )
    command.add_argument("--format", choices=sorted(FORMATS), default="savedmodel", help="format to write")
    command.add_argument("--overwrite", action="store_true", help="replace an existing version or file")
    options = dict.fromkeys(option for row in FORMATS.values() for option in row.options)
    for names in dict.fromkeys(_formats_of(option) for option in options):
        group = command.add_argument_group(", ".join(names))
        add_options(group, [option for option in options if _formats_of(option) == names], late_defaults=True)


def check_export(args):
    """Refuse options of another format. Returns the arguments."""
    for option in dict.fromkeys(option for row in FORMATS.values() for option in row.options):
        if getattr(args, option.name) is not None and option not in FORMATS[args.format].options:
            names = " and ".join(f"--format {name}" for name in _formats_of(option))
            raise ValueError(
                f"{option.flag} is an option of {names}. Received: --format {args.format}. Leave {option.flag} out."
            )
    return check_int8(args)


def _formats_of(option):
    return tuple(name for name, row in FORMATS.items() if option in row.options)


def export(args):
    """Write a model in another program's format."""
    written, hint = FORMATS[args.format].write(args, load_model(args.model))
    print(f"wrote {written}; {hint}")
    return SUCCESS


def _export_saved_model(args, model):
    from keras_maskrcnn.serving import export_saved_model

    written = export_saved_model(
        model,
        args.target,
        version=args.version,
        overwrite=args.overwrite,
        dtype="bfloat16" if args.bfloat16 else None,
    )
    return written, f"inspect it with: saved_model_cli show --dir {written} --all"


def _export_onnx(args, model):
    from keras_maskrcnn.serving import export_onnx

    options = {} if args.opset is None else {"opset": args.opset}
    with calibrated(args, model) as (images, finish):
        written = export_onnx(
            model,
            args.target,
            overwrite=args.overwrite,
            dtype="float16" if args.fp16 else None,
            calibration=images,
            **options,
        )
        finish(written)
    return written, f"run it with keras-maskrcnn predict {written} IMAGES, or in onnxruntime"


def _export_openvino(args, model):
    from keras_maskrcnn.serving import export_openvino

    dtype = "bfloat16" if args.bfloat16 else "float16" if args.fp16 else None
    with calibrated(args, model) as (images, finish):
        written = export_openvino(model, args.target, overwrite=args.overwrite, dtype=dtype, calibration=images)
        finish(written)
    return written, f"run it with keras-maskrcnn predict {written} IMAGES"


def _export_triton(args, model):
    from keras_maskrcnn.serving import export_triton

    options = {} if args.max_batch is None else {"max_batch": args.max_batch}
    written = export_triton(model, args.target, overwrite=args.overwrite, **options)
    return written, f"serve it: tritonserver --model-repository={written.parent.absolute()}"


def _export_web(args, model):
    from keras_maskrcnn.serving import export_web

    written = export_web(model, args.target, args.onnxruntime_web, args.overwrite)
    return written, f"serve it: python -m http.server --directory {written}, and open http://localhost:8000"


def _export_litert(args, model):
    from keras_maskrcnn.serving import export_litert

    size = None if args.image_size is None else tuple(args.image_size)
    written = export_litert(model, args.target, size, quantization=args.quantization, overwrite=args.overwrite)
    return written, f"run it with keras-maskrcnn predict {written} IMAGES, or in ai_edge_litert.interpreter.Interpreter"


FORMATS = {
    "savedmodel": Format(_export_saved_model, (VERSION, BFLOAT16)),
    "onnx": Format(_export_onnx, (OPSET, FP16, *INT8)),
    "openvino": Format(_export_openvino, (BFLOAT16, FP16, *INT8)),
    "litert": Format(_export_litert, (IMAGE_SIZE, QUANTIZATION)),
    "triton": Format(_export_triton, (MAX_BATCH,)),
    "web": Format(_export_web, (ONNXRUNTIME_WEB,)),
}


# convert ---------------------------------------------------------------------------------------------------


def convert_arguments(command):
    """Add the arguments of convert."""
    command.add_argument(
        "source",
        help="weights of torchvision (.pth, .pt, .safetensors), Detectron2 (.pkl, .pth), MMDetection (.pth), "
        "tensorpack (.npz) or matterport (.h5); published ones by name, such as detectron2/mask_rcnn_R_50_FPN_3x; or a "
        ".keras file or run folder",
    )
    command.add_argument(
        "target",
        help="file to write: .keras or .weights.h5; for a model of this package .safetensors with torchvision's names",
    )
    command.add_argument(
        "--all-rows", action="store_true", help="keep the 90 class rows of COCO's weights instead of its 80 categories"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing file")
    command.add_argument(
        "--architecture",
        metavar="NAME",
        help="the Detectron2 or MMDetection config of the weights, such as mask_rcnn_R_50_FPN_3x (default: found out, "
        "and printed)",
    )
    command.add_argument(
        "--warm-start",
        action="store_true",
        help="take the weights alone, for more training with this package's arithmetic: the numbers differ",
    )
    command.add_argument("--min-size", type=positive(int), help="short side of the network image, pixels")
    command.add_argument("--max-size", type=positive(int), help="longest side of the network image, pixels")


def convert(args):
    """Convert other programs' weights to a model of this package, or one to torchvision's names."""
    from keras_maskrcnn.weights.convert import convert_file

    sizes = {name: getattr(args, name) for name in ("min_size", "max_size") if getattr(args, name)}
    options = {"architecture": args.architecture, "warm_start": args.warm_start, **sizes}
    print(convert_file(args.source, args.target, args.all_rows, args.overwrite, **options))
    print(f"wrote {args.target}")
    return SUCCESS
