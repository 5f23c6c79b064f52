"""keras-maskrcnn export | convert: models and weights for other programs."""

from keras_maskrcnn.cli.options import SUCCESS, positive
from keras_maskrcnn.cli.sources import load_model

# export ----------------------------------------------------------------------------------------------------


def export_arguments(command):
    """Add the arguments of export."""
    command.add_argument("model", help="a .keras file or a run folder")
    command.add_argument(
        "target",
        help="savedmodel: the model's folder, with one subfolder for each version; web: the folder to write; other "
        "formats: the file to write",
    )
    command.add_argument("--format", choices=sorted(_EXPORTS), default="savedmodel", help="format to write")
    command.add_argument("--overwrite", action="store_true", help="replace an existing version or file")
    saved_model = command.add_argument_group("savedmodel")
    saved_model.add_argument("--version", type=positive(int), help="number of the version (default: the next free one)")
    saved_model.add_argument(
        "--bfloat16", action="store_true", help="compute convolutions in bfloat16: faster on processors that have it"
    )
    litert = command.add_argument_group("litert")
    litert.add_argument(
        "--image-size", type=positive(int), nargs=2, metavar=("HEIGHT", "WIDTH"), help="size of the images, pixels"
    )
    litert.add_argument(
        "--quantization", choices=["float16", "dynamic_range"], help="store smaller, less exact weights"
    )
    web = command.add_argument_group("web")
    web.add_argument(
        "--onnxruntime-web",
        metavar="PATH",
        help="the npm package onnxruntime-web: its .tgz, or the folder node_modules/onnxruntime-web (default: downloaded "
        "once)",
    )


def check_export(args):
    """Refuse options of another format. Returns the arguments."""
    own = {"savedmodel": ("version", "bfloat16"), "litert": ("image_size", "quantization"), "web": ("onnxruntime_web",)}
    for name, options in own.items():
        given = [option for option in options if getattr(args, option)]
        if given and name != args.format:
            raise ValueError(
                f"--{given[0].replace('_', '-')} is an option of --format {name}. Received: --format {args.format}. "
                "Leave it out: ONNX and LiteRT files always contain float32 weights with batch norm folded in."
            )
    return args


def export(args):
    """Write a SavedModel, a file or a folder for another runtime."""
    written, hint = _EXPORTS[args.format](args, load_model(args.model))
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

    return export_onnx(model, args.target, overwrite=args.overwrite), "run it with onnxruntime"


def _export_litert(args, model):
    from keras_maskrcnn.serving import export_litert

    size = None if args.image_size is None else tuple(args.image_size)
    written = export_litert(model, args.target, size, quantization=args.quantization, overwrite=args.overwrite)
    return written, "run it with ai_edge_litert.interpreter.Interpreter"


def _export_web(args, model):
    from keras_maskrcnn.serving import export_web

    written = export_web(model, args.target, args.onnxruntime_web, args.overwrite)
    return written, f"serve it: python -m http.server --directory {written}, and open http://localhost:8000"


_EXPORTS = {"savedmodel": _export_saved_model, "onnx": _export_onnx, "litert": _export_litert, "web": _export_web}


# convert ---------------------------------------------------------------------------------------------------


def convert_arguments(command):
    """Add the arguments of convert."""
    command.add_argument(
        "source",
        help="weights of torchvision (.pth, .pt, .safetensors), Detectron2 (.pkl, .pth) or matterport (.h5); "
        "or a .keras file or run folder",
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
        help="the Detectron2 config of the weights, such as mask_rcnn_R_50_FPN_3x (default: found out, and printed)",
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
