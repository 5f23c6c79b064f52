"""What the options of `train` about optimization mean: an optimizer's recipe, the precision, the frozen parts."""

from keras_maskrcnn.cli.train_options import POLICIES


def settle_precision(args):
    """Replace `--mixed-precision auto` by what is faster on this device, and print it."""
    if args.mixed_precision != "auto":
        return
    from keras_maskrcnn import backend

    device = backend.fast_bfloat16()
    args.mixed_precision = "bfloat16" if device else None
    reason = f"faster on this device, {device}" if device else f"no faster bfloat16 on {', '.join(backend.devices())}"
    print(f"precision: {args.mixed_precision or 'float32'} ({reason})")


def prepare_model(args, model):
    """Give the model the precision of `--mixed-precision` and freeze the parts of `--freeze`; print what is trained."""
    from keras_maskrcnn.runs.freezing import format_parameters, freeze

    if args.mixed_precision and model.dtype_policy.name != POLICIES[args.mixed_precision]:
        model = _with_policy(model, POLICIES[args.mixed_precision])
    if args.freeze is not None:
        freeze(model, [part for part in args.freeze if part != "none"])
    print(format_parameters(model))
    return model


def recipe_of(args, loader):
    """Choose the Recipe for the options and the number of batches, and print it in one line."""
    from keras_maskrcnn.runs.recipe import choose_recipe

    recipe = choose_recipe(
        args.batch_size,
        len(loader),
        epochs=args.epochs,
        optimizer=args.optimizer,
        start=_start(args),
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        accumulate=args.accumulate,
        ema=args.ema,
    )
    print(f"optimization: {recipe.describe()}")
    return recipe


def _start(args):
    """Which weights training starts from, as `choose_recipe` names them."""
    if args.start_from is None and args.weights in (None, "imagenet"):
        return "random" if args.weights is None else "backbone"
    return "detector"


def _with_policy(model, policy):
    """Rebuild the model with another dtype policy and the same float32 weights."""
    from keras_maskrcnn.model import MaskRCNN

    if model.custom_backbone:
        raise ValueError(
            "A model's precision is fixed when it is built, and the command line cannot rebuild a model whose backbone "
            f"was built in Python. Received such a model and --mixed-precision {policy.removeprefix('mixed_')}. "
            f"Build both with dtype={policy!r} in Python."
        )
    other = MaskRCNN(model.config, seed=model.seed, dtype=policy)
    other.set_weights(model.get_weights())
    return other
