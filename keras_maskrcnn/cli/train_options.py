"""The options of `train`, in the groups of its help; `preview-augmentation` shares those about images.

A value comes from the command line, else from `--resume`, `--config` or `--auto`, else it is the default here.
"""

from keras_maskrcnn.cli.options import Option, count_or_all, count_or_auto, finite, positive, seed
from keras_maskrcnn.cli.sources import DATASET

ARCHITECTURES = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn")
BRANCHES = ("mask", "pointrend", "keypoints")
POLICIES = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}  # --mixed-precision -> Keras dtype policy

DATA = (
    *DATASET,
    Option("--val-images", "folder of the validation images"),
    Option("--val-annotations", "annotations of the validation images, unless --val-images holds them"),
    Option(
        "--repeat-threshold",
        "show images of rare classes more often: if a share f of the images, f below SHARE, holds a class, they are "
        "shown sqrt(SHARE / f) times as often (repeat factors of LVIS, Gupta et al. 2019, which uses 0.001; try 0.1 "
        "for small datasets; default: every image once an epoch)",
        type=positive(float),
        metavar="SHARE",
    ),
    Option(
        "--negatives",
        "share of images without objects in an epoch, 0 to below 1; 0 leaves them out (default: as in the data)",
        type=finite,
        metavar="SHARE",
    ),
    Option(
        "--allow-empty",
        "train even if the training or validation data have no object that counts (crowd regions do not)",
        False,
        bool,
    ),
    Option(
        "--workers",
        "threads or processes that read and augment images, or auto: by the cores and the size of the data",
        "auto",
        count_or_auto,
        metavar="N|auto",
    ),
    Option(
        "--worker-type",
        "thread, process, or auto: threads on small machines and where all decoded images fit into memory. The batches "
        "are the same",
        "auto",
        choices=("auto", "thread", "process"),
    ),
)

RUN = (
    Option("--run-dir", "folder for weights, metrics and pictures", "run"),
    Option(
        "--config",
        "read options from this file: report.json of check-data, or a JSON object of options. Options given on the "
        "command line override the file",
    ),
    Option(
        "--resume",
        "continue the stopped run in --run-dir with the batch after the last save, with its options, or write its "
        "missing report. Only the paths of the data, --workers, --worker-type, --devices, --save-minutes and "
        "--tensorboard may differ",
        False,
        bool,
    ),
    Option(
        "--save-minutes",
        "within long epochs save after each so many minutes what --resume needs",
        10.0,
        positive(float),
        metavar="MINUTES",
    ),
    Option("--overwrite", "start anew in --run-dir even if it holds an unfinished run", False, bool),
    Option(
        "--tensorboard",
        "write losses, learning rates, AP and pictures into RUN_DIR/tensorboard. Needs tensorboardX (the extra "
        "'tensorboard'). View them with: tensorboard --logdir RUN_DIR/tensorboard",
        False,
        bool,
    ),
    Option(
        "--devices",
        "train on so many devices, or on all, each with its part of every batch (default: one; all where TF_CONFIG or "
        "KERAS_DISTRIBUTION_NUM_PROCESSES names several processes, docs/devices.md)",
        type=count_or_all,
        metavar="N|all",
    ),
    Option("--auto", "check the data first, then train with the options that check-data proposes", False, bool),
    Option("--evaluate-every", "epochs from one COCO evaluation to the next", 1, positive(int)),
    Option("--start-from", "fine-tune the model in this .keras file or run folder; its config is kept"),
    Option("--seed", "seed of all random numbers", 0, seed),
)

LENGTH = (  # one of them at most
    Option("--minutes", "stop after this time, which includes evaluations", type=positive(float)),
    Option("--epochs", "number of passes over the training images", type=positive(int)),
)

OPTIMIZATION = (
    Option("--batch-size", "images in a step", 4, positive(int)),
    Option(
        "--accumulate",
        "average the gradients of this many steps into one update: a larger batch in the memory of a small one",
        1,
        positive(int),
        metavar="STEPS",
    ),
    Option("--optimizer", "sgd is the paper's, with momentum 0.9", "adamw", choices=("adamw", "sgd")),
    Option(
        "--learning-rate",
        "peak learning rate. It is reached after a linear warm-up and falls to zero along a cosine (default: depends "
        "on the effective batch: images in a step times --accumulate. adamw: 5e-4, or 1e-4 from pre-trained weights, "
        "times sqrt(batch / 4), Malladi et al. 2022; sgd: 0.02, or 0.002 from a pre-trained detector, times "
        "batch / 16, Goyal et al. 2017)",
        type=positive(float),
    ),
    Option("--weight-decay", "weight decay; the paper uses 1e-4", 1e-4, finite),
    Option(
        "--ema",
        "evaluate and save an exponential moving average of the weights. Without a number the momentum is 0.999, "
        "about the last 1000 updates",
        type=finite,
        nargs="?",
        const=0.999,
        metavar="MOMENTUM",
    ),
    Option(
        "--mixed-precision",
        "compute convolutions and dense layers in 16 bits; weights, boxes and losses stay in 32. Without a word it is "
        "bfloat16, which needs no loss scaling (Kalamkar et al. 2019); float16 is for NVIDIA GPUs before Ampere; auto "
        "is bfloat16 where the device computes it faster (TPUs, NVIDIA GPUs from Ampere, on TensorFlow CPUs with AMX), "
        "else 32 bits",
        choices=(*POLICIES, "auto"),
        nargs="?",
        const="bfloat16",
    ),
    Option(
        "--freeze",
        "do not train these parts: stem, stage1 to stage4 (each with the stages before it), backbone, fpn, rpn, "
        "box_head, mask_head. 'none' trains everything (default: stem and stage1 with pre-trained weights, else none)",
        nargs="+",
        metavar="PART",
    ),
)

SIZES = (
    Option("--min-size", "short side of the network's image, pixels", 800, positive(int)),
    Option("--max-size", "upper limit of the long side of the network's image, pixels", 1333, positive(int)),
    Option(
        "--image-scale",
        "scale every image by this factor instead; --min-size and --max-size are then unused",
        type=positive(float),
    ),
)

PIXELS = (  # check-data measures them
    Option(
        "--pixel-mean", "mean of each channel (default: ImageNet's, for RGB)", type=finite, nargs="+", metavar="VALUE"
    ),
    Option(
        "--pixel-std",
        "standard deviation of each channel (default: ImageNet's, for RGB)",
        type=finite,
        nargs="+",
        metavar="VALUE",
    ),
    Option("--image-dtype", "read images as this type", "uint8", choices=("uint8", "uint16", "float32")),
)

MODEL = (
    Option(
        "--weights",
        "start from torchvision's published weights, coco (a whole detector) or imagenet (the backbone), from another "
        "program's, such as detectron2/mask_rcnn_R_50_FPN_3x, matterport/mask_rcnn_coco or "
        "tensorpack/COCO-MaskRCNN-R50FPN2x, or from a file of one of them. The last layers are new, for the dataset's "
        "classes",
    ),
    Option(
        "--architecture",
        "which of torchvision's models --weights coco or imagenet builds",
        ARCHITECTURES[0],
        choices=ARCHITECTURES,
        old_flag="--recipe",
    ),
    Option(
        "--backbone",
        "resnet18, resnet34, resnet50, resnet101, resnet152, or resnet10, which has no published weights; or "
        "keras:NAME for a model of keras.applications, such as keras:ConvNeXtTiny (default: resnet50)",
    ),
    Option("--norm", "batch, group or frozen_batch (default: batch; with --weights that of the architecture)"),
    Option(
        "--branches",
        "what is predicted beside class and box: mask, or pointrend (masks with sharper edges), keypoints (those that "
        "the dataset's categories name), or masks and keypoints (default: mask)",
        choices=BRANCHES,
        nargs="+",
        metavar="BRANCH",
    ),
    Option(
        "--cascade",
        "three box heads in a row, each on the boxes of the one before: better boxes, slower (Cai and Vasconcelos "
        "2018). Not with --weights coco",
        False,
        bool,
    ),
    *SIZES,
    *PIXELS,
    Option(
        "--anchor-sizes",
        "square roots of the anchors' areas on the five pyramid levels, network pixels",
        (32, 64, 128, 256, 512),
        int,
        nargs=5,
        metavar="SIZE",
    ),
    Option(
        "--max-instances", "objects in an image that training uses (default: all, at least 100)", type=positive(int)
    ),
    Option(
        "--max-detections",
        "detections in an image (default: the largest number of objects in a training image, at least 100)",
        type=positive(int),
    ),
    Option(
        "--roi-samples",
        "RoIs in an image that train the box head (default: 512, the paper's, for GPUs; try 128 on CPUs)",
        type=positive(int),
    ),
    Option(
        "--mask-samples",
        "upper limit of the RoIs in an image that train the mask head (default: all that match an object, up to a "
        "quarter of --roi-samples)",
        type=positive(int),
    ),
)

AUGMENT = Option(
    "--augment",
    "flip: left and right; light: flips, moderate changes of scale and colour; strong: flips, scales from 0.1 to 2, "
    "copy-paste, hue, blur, noise, JPEG artefacts",
    "flip",
    choices=("none", "flip", "light", "strong"),
)
AUGMENTATION = (
    AUGMENT,
    Option("--crop", "train on random square crops of this side, network pixels", type=positive(int)),
    Option(
        "--any-way-up",
        "the images have no top: add quarter turns and vertical flips, and with strong any rotation",
        False,
        bool,
    ),
)

GROUPS = {
    "data": DATA,
    "run": RUN,
    "length of the training (one of them)": LENGTH,
    "optimization (train prints the chosen values and keeps them in config.json)": OPTIMIZATION,
    "model (not with --start-from)": MODEL,
    "augmentation (preview-augmentation draws it)": AUGMENTATION,
}
OPTIONS = {option.name: option for group in GROUPS.values() for option in group}
PROPOSED = (  # options that a proposal of check-data may set
    "min_size", "max_size", "image_scale", "crop", "anchor_sizes", "max_instances", "max_detections", "batch_size",
    "epochs", "pixel_mean", "pixel_std", "image_dtype",
)  # fmt: skip


def pixel_fields(args):
    """The config's fields that the options of `PIXELS` set."""
    fields = {name: tuple(getattr(args, name)) for name in ("pixel_mean", "pixel_std") if getattr(args, name)}
    return fields | {"image_dtype": args.image_dtype}
