"""Operators on PyTorch: convolution without padded copies, RoIAlign as sums of table rows, torchvision's NMS.

PyTorch runs operator by operator, so the sixteen gathers of `generic` cost a pass over memory each. RoIAlign on CPUs is
one `embedding_bag` instead: 1000 boxes of 7x7 in (256, 256, 256) take 0.30 s and the gradient 0.70, with torchvision's
operator 1.71 and 3.19 (two busy cores). On GPUs it is torchvision's where that is installed. torchvision is imported
when it is first needed, because the import takes seconds.
"""

import functools

import torch
from keras import ops
from torch.nn import functional

from keras_maskrcnn.backend import generic
from keras_maskrcnn.backend.checks import check_convolution

MOST_POINTS = 1 << 22  # of a box with one point per cell; 128 MiB


@functools.cache
def torchvision_operators():
    """The module `torchvision.ops`, or None where torchvision is not installed.

    Raises:
        ImportError: torchvision is installed and does not fit the installed torch.
    """
    try:
        import torchvision.ops
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        return None
    except RuntimeError as error:  # such as "operator torchvision::nms does not exist"
        raise ImportError(
            "torchvision must be the release that was built for the installed torch. Received: torch "
            f"{torch.__version__} and a torchvision that fails to load ({error}). Install both together: "
            "pip install --upgrade torch torchvision; or remove torchvision, which is optional here."
        ) from error
    return torchvision.ops


def operators():
    """What computes RoIAlign and NMS here, in words."""
    has_torchvision = torchvision_operators() is not None
    crops = "torchvision" if has_torchvision and _default_device() != "cpu" else "embedding_bag of PyTorch"
    return f"{crops}; NMS: {'torchvision' if has_torchvision else 'keras.ops, slower; install torchvision'}"


def _default_device():
    return ops.convert_to_tensor(0.0).device.type


def known_values(tensor):
    """As `generic.known_values`: known, but for tensors without values (`meta`) and while torch.compile traces."""
    if not isinstance(tensor, torch.Tensor) or tensor.is_meta or torch.compiler.is_compiling():
        return None
    return tensor.detach().cpu().numpy()


def apply_relu(features, cells=None, added=None):
    """As `generic.apply_relu`, with the cells set to zero first: then the gradient keeps the result alone."""
    features = features if added is None else features + added
    return functional.relu(features if cells is None else features * cells)


def convolve(maps, kernel, bias=None, strides=1, relu=False, groups=1):
    """As `generic.convolve`, with the padding inside the convolution and ReLU in place: no copy of a map is kept."""
    kernel = ops.convert_to_tensor(kernel)
    check_convolution(maps, kernel, bias, strides, groups)
    bias = None if bias is None else ops.convert_to_tensor(bias)
    weight, side = kernel.permute(3, 2, 0, 1), kernel.shape[0] // 2
    outputs = []
    for features in maps:
        # The permuted map is in PyTorch's "channels last" format, which its kernels read and write without a copy.
        channels_first = ops.convert_to_tensor(features).permute(0, 3, 1, 2)
        sums = functional.conv2d(channels_first, weight, bias, strides, side, groups=groups)
        sums = functional.relu_(sums) if relu else sums
        outputs.append(sums.permute(0, 2, 3, 1))
    return outputs


def multilevel_roi_align(pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation):
    """Crop every box from its own level. Arguments and result as in `generic.multilevel_roi_align`."""
    boxes, box_batch, levels = (ops.convert_to_tensor(each) for each in (boxes, box_batch, levels))
    pyramid, boxes = [ops.convert_to_tensor(level) for level in pyramid], generic.finite_boxes(boxes.detach())
    frame = generic.box_frames(boxes, levels, scales, aligned)
    if sampling_ratio == 0 and not (aggregation == "average" and _has_few_points(frame)):
        return generic.multilevel_roi_align(
            pyramid, boxes, box_batch, levels, scales, output_size, sampling_ratio, aligned, aggregation
        )
    sums_cells = sampling_ratio > 0 and (pyramid[0].device.type == "cpu" or torchvision_operators() is None)

    def crop(bins, ratio):
        if sums_cells:
            return _sum_cells(pyramid, frame, box_batch, levels, bins, ratio)
        return crop_by_torchvision(pyramid, boxes, box_batch, levels, scales, bins, ratio, aligned)

    crops = generic.aggregate(crop, output_size, sampling_ratio, aggregation)
    return ops.cast(crops, pyramid[0].dtype)


trainable_multilevel_roi_align = multilevel_roi_align


def _has_few_points(frame):
    """Whether torchvision's operator can take one point per cell of every box: it keeps a list of a box's points."""
    _, _, height, width = frame
    points = torch.clamp(height, min=1) * torch.clamp(width, min=1)
    return torchvision_operators() is not None and bool((points <= MOST_POINTS).all())


def _sum_cells(pyramid, frame, box_batch, levels, output_size, ratio):
    """Each bin as a weighted sum of the cells that it reads. Arguments and result as in `generic.pool_by_gathers`."""
    taps = list(generic.bin_taps(pyramid, frame, box_batch, levels, output_size, ratio))
    places, weights = (torch.stack(column, dim=-1).reshape(-1, len(taps)) for column in zip(*taps, strict=True))
    cells = generic.flatten_pyramid(pyramid).float()
    sums = functional.embedding_bag(places, cells, per_sample_weights=weights, mode="sum")
    return sums.reshape(-1, *output_size, cells.shape[-1])


def crop_by_torchvision(pyramid, boxes, box_batch, levels, scales, output_size, ratio, aligned):
    """Average the points of each bin by torchvision's operator, level after level.

    Args:
        pyramid, boxes, box_batch, levels, scales, aligned: as for `generic.multilevel_roi_align`; finite boxes.
        output_size: (h, w), bins.
        ratio: points per bin and axis; 0: one per cell.

    Returns:
        float32 (R, h, w, C).
    """
    rows = torch.cat([box_batch[:, None].float(), boxes], dim=1)
    own = [torch.nonzero(levels == number)[:, 0] for number in range(len(pyramid))]
    crops = [
        torchvision_operators().roi_align(
            level.permute(0, 3, 1, 2).float(), rows[places], output_size, scale, ratio, aligned
        )
        for level, scale, places in zip(pyramid, scales, own, strict=True)
    ]
    order = torch.argsort(torch.cat(own))
    return torch.cat(crops)[order].permute(0, 2, 3, 1)


def non_max_suppression(boxes, scores, iou_threshold, max_outputs, classes, valid):
    """Exact NMS with torchvision's operator, else as in `generic`. Arguments and result as there.

    One call for each image and class, as torchvision's own offset of the boxes by class rounds them.
    """
    if torchvision_operators() is None:
        return generic.non_max_suppression(boxes, scores, iou_threshold, max_outputs, classes, valid)
    boxes, scores = (ops.convert_to_tensor(each).detach() for each in (boxes, scores))
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image, rows in _rows_by_group(scores.shape, scores.device, classes, valid):
        best = torchvision_operators().nms(boxes[image, rows], scores[image, rows], _threshold(iou_threshold, image))
        kept[image, rows[best]] = True
    return _best_kept(scores, kept, max_outputs)


def non_max_suppression_by_level(boxes, scores, sizes, iou_threshold, max_outputs, valid):
    """NMS of each level by itself: a level counts as a class. As `generic.non_max_suppression_by_level`."""
    levels = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(torch.tensor(sizes))
    levels = ops.convert_to_tensor(levels).expand(scores.shape)
    return non_max_suppression(boxes, scores, iou_threshold, max_outputs, levels, valid)


def _threshold(iou_threshold, image):
    """An image's threshold as the nearest float32: the operator compares it with float32 as a double."""
    thresholds = torch.as_tensor(iou_threshold, dtype=torch.float32).reshape(-1)
    return float(thresholds[image if len(thresholds) > 1 else 0])


def _rows_by_group(shape, device, classes, valid):
    """The valid rows of a table (B, N, ...) by image and class.

    Yields:
        image, an int, and rows, int64 (V,), in ascending order.
    """
    num_images, num_boxes = shape
    for image in range(num_images):
        rows = torch.arange(num_boxes, device=device) if valid is None else torch.nonzero(valid[image])[:, 0]
        if classes is None:
            yield image, rows
            continue
        own, order = torch.sort(classes[image, rows], stable=True)
        counts = torch.unique_consecutive(own, return_counts=True)[1].tolist()
        yield from ((image, group) for group in torch.split(rows[order], counts))


def _best_kept(scores, kept, max_outputs):
    """The best `max_outputs` kept boxes of each image, with a fixed shape. Equal scores by lower index."""
    best, indices = torch.sort(torch.where(kept, scores, -torch.inf), dim=1, descending=True, stable=True)
    keep = best[:, :max_outputs] > -torch.inf
    indices = torch.where(keep, indices[:, :max_outputs], 0).int()
    missing = (0, max_outputs - keep.shape[1])
    return functional.pad(indices, missing), functional.pad(keep, missing)
