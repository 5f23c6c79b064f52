"""What `train` optimises with, as arguments: learning rate, schedule, accumulation, averages, precision, freezing."""

from keras_maskrcnn.cli.options import positive

POLICIES = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def recipe_arguments(group):
    """The arguments."""
    group.add_argument("--batch-size", type=positive(int), default=4, help="images a step")
    group.add_argument(
        "--accumulate",
        type=positive(int),
        default=1,
        metavar="STEPS",
        help="average the gradients of so many steps into one update: a larger batch's effect in a small one's memory",
    )
    group.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="sgd: the paper's, momentum 0.9")
    group.add_argument(
        "--learning-rate",
        type=positive(float),
        help="peak, after a linear warm-up and before a cosine to zero (default: by the batch that counts; "
        "adamw 5e-4, with pre-trained weights 1e-4, times sqrt(batch / 4), Malladi et al. 2022; "
        "sgd 0.02, for a pre-trained detector 0.002, times batch / 16, Goyal et al. 2017)",
    )
    group.add_argument("--weight-decay", type=float, default=1e-4, help="the paper's is 1e-4")
    group.add_argument(
        "--ema",
        type=float,
        nargs="?",
        const=0.999,
        metavar="MOMENTUM",
        help="measure and keep a moving average of the weights; without a number 0.999, about the last 1000 updates",
    )
    group.add_argument(
        "--mixed-precision",
        choices=tuple(POLICIES),
        nargs="?",
        const="bfloat16",
        help="compute convolutions and dense layers in 16 bits, weights, boxes and losses in 32; without a word "
        "bfloat16, which needs no loss scaling (Kalamkar et al. 2019); float16 for NVIDIA GPUs before Ampere",
    )
    group.add_argument(
        "--freeze",
        nargs="+",
        metavar="PART",
        help="train all but these: stem, stage1 to stage4 (with the stages before), backbone, fpn, rpn, box_head, "
        "mask_head; none trains everything (default: stem and stage1 with pre-trained weights, else none)",
    )


def prepare_model(args, model):
    """The model in the precision asked for, with the parts frozen that were named; prints what is trained."""
    from keras_maskrcnn.runs.freezing import format_parameters, freeze

    if args.mixed_precision and model.dtype_policy.name != POLICIES[args.mixed_precision]:
        model = _with_policy(model, POLICIES[args.mixed_precision])
    if args.freeze is not None:
        freeze(model, [part for part in args.freeze if part != "none"])
    print(format_parameters(model))
    return model


def recipe_of(args, loader):
    """The Recipe of the arguments for a loader's batches; printed in a line."""
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
    """What the weights at the start are, in the words of `choose_recipe`."""
    if args.start_from is None and args.weights in (None, "imagenet"):
        return "random" if args.weights is None else "backbone"
    return "detector"


def _with_policy(model, policy):
    """The same model under another dtype policy; the weights are the same float32 numbers."""
    from keras_maskrcnn.model import MaskRCNN

    if model.custom_backbone:
        raise ValueError(
            "Mixed precision is chosen when a model is made, and one with a backbone of its own cannot be made anew. "
            f"Received such a model and --mixed-precision for {policy}. Make both with dtype={policy!r} in Python."
        )
    other = MaskRCNN(model.config, seed=model.seed, dtype=policy)
    other.set_weights(model.get_weights())
    return other
