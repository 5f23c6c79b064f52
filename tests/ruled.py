"""A Mask R-CNN with weights made by rule, which detects what is drawn in its images: squares of 32 pixels.

Images have four float channels. Channel 0 holds the objectness at the centre of each object, channels 1 and 2 the
evidence of the two classes all over it. Only P2 sees anything. Boxes are the anchors themselves, which stand every four
pixels; masks fill their boxes.
"""

import keras
import numpy as np

import keras_maskrcnn as km

SIDE, STRIDE, CHANNELS = 32, 4, 4


@keras.saving.register_keras_serializable("ruled")
class NoFeatures(keras.layers.Layer):
    def call(self, features):
        return features * 0


def ruled_config(**overrides):
    values = {
        "num_classes": 2,
        "class_names": ("square", "block"),
        "pixel_mean": (0.0,) * CHANNELS,
        "pixel_std": (1.0,) * CHANNELS,
        "image_dtype": "float32",
        "image_scale": 1.0,
        "fpn_channels": CHANNELS,
        "anchor_sizes": (SIDE, 64, 128, 256, 512),
        "anchor_ratios": (1.0,),
        "test_pre_nms": 200,
        "test_post_nms": 40,
        "box_fcs": 1,
        "box_features": CHANNELS,
        "mask_convs": 1,
        "mask_channels": 1,
        "mask_pool_size": 7,
        "mask_size": 14,
        "max_detections": 10,
        "detection_candidates": 400,
    }
    return km.MaskRCNNConfig(**(values | overrides))


def _backbone():
    images = keras.Input((None, None, CHANNELS))
    maps = [keras.layers.MaxPooling2D(STRIDE, name="p2")(images)]
    for level in range(3, 6):
        maps.append(NoFeatures(name=f"p{level}")(keras.layers.MaxPooling2D(2)(maps[-1])))
    return keras.Model(images, maps)


def ruled_model(rpn_delta=0.0, box_delta=0.0, mask=5.0, **overrides):
    """The model; `rpn_delta` and `box_delta` move all boxes to the right, `mask` is the logit of every mask cell."""
    model = km.MaskRCNN(ruled_config(**overrides), backbone=_backbone())
    for weight in model.weights:
        if not weight.path.endswith("seed_generator_state"):
            weight.assign(np.zeros(weight.shape, "float32"))
    identity = np.eye(CHANNELS, dtype="float32")
    for conv in (*model.fpn.laterals, *model.fpn.outputs, *model.rpn.convs):
        kernel = np.zeros(conv.conv.kernel.shape, "float32")
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = identity
        conv.conv.kernel.assign(kernel)
    objectness = np.zeros(model.rpn.objectness.kernel.shape, "float32")
    objectness[..., 0, 0] = 1
    model.rpn.objectness.kernel.assign(objectness)
    model.rpn.objectness.bias.assign([-5.0])
    model.rpn.deltas.bias.assign([rpn_delta, 0, 0, 0])
    cells = model.config.box_pool_size**2
    classes = np.zeros((CHANNELS, 3), "float32")
    classes[1, 0] = classes[2, 1] = 10.0  # an evidence of 1 all over the box gives a logit of 5
    for head in model.box_head.stages():
        head.fcs[0].kernel.assign(np.tile(identity / cells, (cells, 1)))
        head.classes.kernel.assign(classes)
        head.classes.bias.assign([-5.0, -5.0, 0.0])
        head.deltas.bias.assign([box_delta, 0, 0, 0] * (head.deltas.bias.shape[0] // 4))
    for head in model.branch_heads().values():
        head.logits.bias.assign([mask, mask])
    return model


def ruled_image(objects, size=(160, 160)):
    """An image of objects (x, y, label, objectness, evidence): float32 (H, W, 4); x, y the centre, multiples of 4."""
    image = np.zeros((*size, CHANNELS), np.float32)
    half = SIDE // 2
    for x, y, label, _, evidence in objects:
        image[y - half : y + half, x - half : x + half, 1 + label] = evidence
    for x, y, _, objectness, _ in objects:
        image[y, x, 0] = objectness
    return image


def ruled_truth(objects, size=(160, 160)):
    """Their annotations, with masks that fill the boxes."""
    half = SIDE // 2
    truth = []
    for number, (x, y, label, *_) in enumerate(objects):
        corners = [[x - half, y - half, x + half, y - half, x + half, y + half, x - half, y + half]]
        box = [x - half, y - half, SIDE, SIDE]
        truth.append(
            {"id": 7 + number, "category_id": label + 1, "bbox": box, "segmentation": corners, "area": SIDE**2}
        )
    return truth
