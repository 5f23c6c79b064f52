"""Tensorpack's pyramid, heads and cascade in numpy, from the tensors of a file: channels first, float64.

Written from the lines of `examples/FasterRCNN/modeling/`; nothing of the package is used. Boxes are
(n, [x1, y1, x2, y2]) in network pixels, pooled features (n, C, S, S). Background is the first class.
"""

import numpy as np

STAGE_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


def conv(state, name, maps, strides=1):
    """Conv2D: k // 2 cells of zeros around, and the bias where the file has one."""
    kernel = state[f"{name}/W"].astype(np.float64)
    side = len(kernel)
    padded = np.pad(maps, [(0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))[:, :, ::strides, ::strides]
    found = np.einsum("nchwij,ijco->nohw", windows, kernel, optimize=True)
    return found + state[f"{name}/b"][:, None, None] if f"{name}/b" in state else found


def group_norm(state, name, maps, groups=32):
    """GroupNorm of backbone.py: the moments of a group's channels and cells, epsilon 1e-5."""
    n, channels, height, width = maps.shape
    grouped = maps.reshape(n, groups, channels // groups, height, width)
    mean, variance = grouped.mean((2, 3, 4), keepdims=True), grouped.var((2, 3, 4), keepdims=True)
    whole = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(maps.shape)
    return whole * state[f"{name}/gamma"][:, None, None] + state[f"{name}/beta"][:, None, None]


def relu(maps):
    return np.maximum(maps, 0)


def head_convs(state, place, kind, maps):
    """Convolution, ReLU, GroupNorm, as often as the file has them."""
    index = 0
    while f"{place}/{kind}{index}/W" in state:
        maps = relu(conv(state, f"{place}/{kind}{index}", maps))
        maps = group_norm(state, f"{place}/gn{index}", maps) if f"{place}/gn{index}/gamma" in state else maps
        index += 1
    return maps


def pyramid(state, features):
    """fpn_model without P6: C2..C5 -> P2..P5. Convolution with bias, GroupNorm, no ReLU."""
    lateral = [
        group_norm(state, f"fpn/gn_c{level}", conv(state, f"fpn/lateral_1x1_c{level}", each))
        for level, each in enumerate(features, start=2)
    ]
    for fine in (2, 1, 0):
        lateral[fine] = lateral[fine] + lateral[fine + 1].repeat(2, axis=2).repeat(2, axis=3)
    return [
        group_norm(state, f"fpn/gn_p{level}", conv(state, f"fpn/posthoc_3x3_p{level}", each))
        for level, each in enumerate(lateral, start=2)
    ]


def box_head(state, place, outputs, pooled):
    """fastrcnn_Xconv1fc_head or fastrcnn_2fc_head, and fastrcnn_outputs: scores (n, K + 1), deltas (n, M)."""
    features = head_convs(state, place, "conv", pooled).reshape(len(pooled), -1)
    for name in ("fc", "fc6", "fc7"):
        if f"{place}/{name}/W" in state:
            features = relu(features @ state[f"{place}/{name}/W"] + state[f"{place}/{name}/b"])
    logits, deltas = (
        features @ state[f"{outputs}/{kind}/W"] + state[f"{outputs}/{kind}/b"] for kind in ("class", "box")
    )
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True), deltas


def decoded(deltas, boxes, longest):
    """decode_bbox_target: dw and dh up to log(MAX_SIZE / 16)."""
    size, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    grown = np.exp(np.minimum(deltas[:, 2:], np.log(longest / 16))) * size
    middle = deltas[:, :2] * size + centre
    return np.concatenate([middle - grown / 2, middle + grown / 2], axis=1)


def cascade(state, crop, boxes, size, longest):
    """CascadeRCNNHead: the mean of three stages' scores, and the boxes of the third.

    Args:
        crop: function of boxes to pooled features. size: (height, width) of the image. longest: MAX_SIZE.
    """
    scores = []
    for number, weights in enumerate(STAGE_WEIGHTS, start=1):
        scope = f"cascade_rcnn_stage{number}"
        found, deltas = box_head(state, f"{scope}/head", f"{scope}/outputs", crop(boxes))
        scores.append(found)
        boxes = np.clip(decoded(deltas / weights, boxes, longest), 0, [size[1], size[0]] * 2)
    return sum(scores) / 3, boxes


def mask_logits(state, pooled):
    """maskrcnn_upXconv_head: (n, K, 2S, 2S)."""
    maps = head_convs(state, "maskrcnn", "fcn", pooled)
    n, _, height, width = maps.shape
    parts = np.einsum("nchw,ijoc->nohiwj", maps, state["maskrcnn/deconv/W"].astype(np.float64), optimize=True)
    wide = parts.reshape(n, -1, 2 * height, 2 * width) + state["maskrcnn/deconv/b"][:, None, None]
    return conv(state, "maskrcnn/conv", relu(wide))
