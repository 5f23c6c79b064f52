"""What `train` runs with: options of the command line over those of a run, a file or a proposal, over the defaults.

Reads files and looks at data, but imports no framework: mistakes are told before Keras is imported.
"""

from keras_maskrcnn.cli.options import settled
from keras_maskrcnn.cli.resume import options_of_run
from keras_maskrcnn.cli.sources import inspect_source
from keras_maskrcnn.cli.train_options import OPTIONS, PROPOSED
from keras_maskrcnn.host.processes import place_among_processes
from keras_maskrcnn.runs.folder import COMMAND_LINE, check_new_run


def settle(args):
    """Give every option of `train` its value.

    Args:
        args: parsed arguments, None for options that were not given.

    Returns:
        argparse.Namespace: given on the command line, else in the run (`--resume`), the file (`--config`) or the
        proposal (`--auto`), else the default.

    Raises:
        ValueError: no data, no length, a file or a run that cannot be read.
    """
    plain = settled(args, OPTIONS.values())
    if plain.resume and plain.overwrite:
        raise ValueError("--resume continues a run and --overwrite replaces it. Received both. Give one of them.")
    if plain.resume:
        proposed = options_of_run(plain.run_dir)
    else:
        _check_places(plain)
        if place_among_processes()[0] == 0:  # the others come to a folder that the first one has begun to fill
            check_new_run(plain.run_dir, plain.overwrite, COMMAND_LINE)
        proposed = _proposed(plain)
    _drop_overridden(proposed, args)
    found = settled(args, OPTIONS.values(), proposed)
    if not (found.epochs or found.minutes):
        raise ValueError("Training needs a length. Received none. Give --epochs, --minutes, --auto or --config.")
    if plain.auto and not plain.resume:
        print("proposed:", ", ".join(f"{name} {value}" for name, value in proposed.items()))
    return found


def read_options(path):
    """Read training options from report.json of check-data, or from a JSON object of options alone.

    Returns:
        dict from name to value.

    Raises:
        ValueError: no JSON, options that `train` does not have, or values that they do not accept.
    """
    from keras_maskrcnn.data.readers.folders import read_json

    content = read_json(path)
    options = content.get("proposal", content) if isinstance(content, dict) else None
    if not isinstance(options, dict):
        unknown = [repr(content)[:40]]
    else:
        unknown = [name[:40] for name in options if name not in PROPOSED][:20]
    if unknown:
        raise ValueError(
            f"A config for training is a JSON object with some of {list(PROPOSED)}. Received {path} with {unknown}. "
            "Remove them, or give them as options."
        )
    return {name: OPTIONS[name].from_file(value, path) for name, value in options.items() if value is not None}


def _check_places(args):
    missing = [f"--{name.replace('_', '-')}" for name in ("images", "val_images") if getattr(args, name) is None]
    if missing:
        raise ValueError(
            f"Training needs training and validation images. Received no {' and no '.join(missing)}. "
            "Give the folders of both; `keras-maskrcnn split` divides a dataset in two."
        )


def _proposed(args):
    """The options of `--config` or `--auto`, if one of them is given."""
    if args.config and args.auto:
        raise ValueError("--config reads options and --auto computes them. Received both. Give one of them.")
    if args.config:
        return read_options(args.config)
    if not args.auto:
        return {}
    from keras_maskrcnn.checkup import propose

    source, images = (args.images, None) if args.annotations is None else (args.annotations, args.images)
    return propose(inspect_source(args, source, images, "train"))


def _drop_overridden(proposed, args):
    """Remove what would take effect in place of an option that was given: another length, a scale instead of sizes."""
    for given, others in (
        ("minutes", ("epochs",)),
        ("epochs", ("minutes",)),
        ("min_size", ("image_scale",)),
        ("max_size", ("image_scale",)),
    ):
        if getattr(args, given) is not None:
            for name in others:
                proposed.pop(name, None)
