"""The same R50-FPN on both sides: 91 classes, weights of tests/golden, which give 100 detections on any image.

Or ResNeXt-50 32x4d in its place, with weights by the same rules.
"""

import pathlib
import sys
import tempfile

import numpy as np

STATE = pathlib.Path(tempfile.gettempdir()) / "keras_maskrcnn_benchmark_state.npz"
RESNEXT = "resnext50_32x4d"
TESTS = pathlib.Path(__file__).parents[1] / "tests"


def write_state():
    """Write the state dict for the other interpreter; the parent process calls it once."""
    sys.path.insert(0, str(TESTS))
    from torchvision_golden import golden_state

    np.savez(STATE, **golden_state("v1"))


def read_state(backbone="resnet50"):
    """The state dict that `write_state` wrote, with the 3x3 convolutions of another backbone where one is asked for."""
    state = dict(np.load(STATE))
    return widened(state) if backbone == RESNEXT else state


def widened(state):
    """The state of a ResNeXt-50 32x4d: twice the filters inside a block, 32 groups in its 3x3 convolution."""
    rng = np.random.default_rng(0)
    for name in [name for name in state if ".layer" in name and name.endswith("conv1.weight")]:
        block, inner = name.rsplit(".", 2)[0], 2 * len(state[name])
        shapes = {"conv1": (inner, None, 1, 1), "conv2": (inner, inner // 32, 3, 3), "conv3": (None, inner, 1, 1)}
        for layer, shape in shapes.items():
            old = state[f"{block}.{layer}.weight"]
            shape = tuple(own or kept for own, kept in zip(shape, old.shape))
            spread = np.sqrt(2 / np.prod(shape[1:]))
            state[f"{block}.{layer}.weight"] = rng.standard_normal(shape, dtype="float32") * np.float32(spread)
        for norm in ("bn1", "bn2"):
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{block}.{norm}.{part}"] = np.resize(state[f"{block}.{norm}.{part}"], inner)
    return state


def make_images(count, height, width):
    """uint8 (B, H, W, 3): smooth noise, so that features differ."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, -(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]


def make_truth(count, height, width, objects):
    """Boxes (B, N, 4), labels (B, N) in 1..90, full-size masks (B, N, H, W): an ellipse in each box."""
    rng = np.random.default_rng(1)
    sizes = np.exp(rng.uniform(np.log(30), np.log(300), (count, objects, 2)))
    corners = rng.uniform(0, 1, (count, objects, 2)) * ([width, height] - sizes)
    boxes = np.concatenate([corners, corners + sizes], axis=-1).astype("float32")
    y, x = np.mgrid[:height, :width] + 0.5
    centre, half = corners + sizes / 2, sizes / 2
    masks = [
        [((x - c[0]) / h[0]) ** 2 + ((y - c[1]) / h[1]) ** 2 <= 1 for c, h in zip(*image)]
        for image in zip(centre, half)
    ]
    return boxes, rng.integers(1, 91, (count, objects)), np.array(masks, "uint8")


def our_model(backbone="resnet50", **overrides):
    """The model of this package with these weights."""
    import keras_maskrcnn as km

    model = km.maskrcnn_resnet50_fpn(90, backbone=backbone, **overrides)
    km.load_weights(model, read_state(backbone))
    return model


def their_model(trainable_layers=5, backbone="resnet50", **settings):
    """Torchvision's model, with frozen batch norm as in its published weights."""
    import torch
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.misc import FrozenBatchNorm2d

    trunk = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=trainable_layers
    )
    model = MaskRCNN(trunk, num_classes=91, **settings)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in read_state(backbone).items()})
    return model.to(their_device())


def their_step(count, height, width, num_objects, trainable_layers, low=False, backbone="resnet50"):
    """A training step of torchvision's reference script: a function that returns the loss.

    Args:
        count, height, width: of the images. num_objects: of an image. trainable_layers: of the backbone.
        low: bfloat16 by autocast. backbone: torchvision's name.
    """
    import torch

    device = their_device()
    boxes, labels, masks = make_truth(count, height, width, num_objects)
    model = their_model(trainable_layers, backbone, min_size=min(height, width), max_size=10000).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-6, momentum=0.9)
    images = make_images(count, height, width)
    tensors = [torch.from_numpy(image.transpose(2, 0, 1).astype("float32") / 255) for image in images]
    targets = [
        {"boxes": torch.from_numpy(b), "labels": torch.from_numpy(k.astype("int64")), "masks": torch.from_numpy(m)}
        for b, k, m in zip(boxes, labels, masks)
    ]

    def step():
        here = [{name: values.to(device) for name, values in image.items()} for image in targets]
        with torch.autocast(device, torch.bfloat16, enabled=low):
            loss = sum(model([tensor.to(device) for tensor in tensors], here).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def their_device():
    """The GPU if torch has one; this package (`KERAS_BACKEND=jax`) uses it too."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
