"""The mask branch (Mask R-CNN section 3): what it needs of a batch and adds to a detection. The layer: mask_head.py."""

import re

from keras_maskrcnn.branches.branch import Branch
from keras_maskrcnn.branches.field import Field, first_true
from keras_maskrcnn.geometry.pasting import PASTING_RULES, paste_mask_windows, stack_windows

__all__ = ["PASTING_RULES", "TARGET_RULES", "MaskBranch"]

# Of mask_targets. Torchvision's `project_masks_on_boxes` is RoIAlign in its first, unaligned form with about one point
# a pixel; Detectron2's `BitMasks.crop_and_resize` is the aligned form, cut at one half.
TARGET_RULES = {
    "subpixel": {"sampling_ratio": 2, "aligned": True},
    "torchvision": {"sampling_ratio": 0, "aligned": False},
    "detectron2": {"sampling_ratio": 0, "aligned": True, "rounded": True},
}


class MaskBranch(Branch):
    """A binary mask for each detection, in the frame of its box, pasted into the image on request."""

    name = "mask"
    losses = ("mask_loss",)
    coco_iou_type = "segm"
    survives_tiling = False  # merged masks are windows of the image
    class_layers = ("logits",)

    def truth(self, config):
        """gt_masks, and gt_mask_boxes where masks do not lie in the frame of the ground-truth box."""
        return self.fields(config.gt_mask_size)

    @staticmethod
    def fields(gt_mask_size):
        """The arrays of `truth` for masks of so many cells per side."""
        frame = "0 or 1, in the frame of the gt box: row 0 at y1, the last row ends at y2"
        return {
            "gt_masks": Field((gt_mask_size, gt_mask_size), "uint8", frame, ("M", "M"), free=True),
            "gt_mask_boxes": Field(
                (4,), "float32", "network pixels: the window of gt_masks", ("[x1, y1, x2, y2]",), optional=True
            ),
        }

    def make_truth(self, seen, config):
        """The mask of one object, sampled in its visible box."""
        return {"gt_masks": seen.cells(config.gt_mask_size)}

    def check_truth(self, batch, config):
        """Masks are square and hold 0 and 1."""
        masks = batch["gt_masks"]
        if masks.shape[2] != masks.shape[3]:
            raise ValueError(
                f"`gt_masks` must be square, (B, N, M, M). Received shape {masks.shape}. "
                "Resample each mask to M x M cells inside its box."
            )
        if masks.size and masks.max() > 1:
            row, instance = first_true((masks > 1).any((2, 3)))
            raise ValueError(
                f"`gt_masks` must hold 0 and 1. Received {masks[row, instance].max()} in instance "
                f"{instance} of image {row}. Divide by 255, or threshold."
            )

    def make_head(self, config, dtype):
        """The paper's head: 3x3 convolutions, a deconvolution, one mask a class."""
        from keras_maskrcnn.branches.mask_head import MaskHead

        return MaskHead(
            num_classes=config.num_classes,
            channels_in=config.fpn_channels,
            channels=config.mask_channels,
            pool_size=config.mask_pool_size,
            mask_size=config.mask_size,
            num_convs=config.mask_convs,
            norm=config.head_norm,
            norm_epsilon=config.head_norm_epsilon,
            norm_place=config.head_norm_place,
            target_rule=TARGET_RULES[config.mask_targets],
            **self.head_options(config, dtype) | {"max_rois": config.max_mask_rois},
        )

    def found(self, config):
        """masks: probabilities in the frame of each box."""
        side = config.mask_size
        return {"masks": Field((side, side), "float32", "probabilities in the frame of each box")}

    def views(self):
        """box_masks (n, M, M), mask_windows (cut to each object) and masks (n, H, W), pasted at the first access."""
        return {"box_masks": _box_masks, "mask_windows": _windows, "masks": _pasted}

    def coco_results(self, found):
        """The segmentation of each instance: compressed run lengths of the image."""
        size = [int(side) for side in found.image_size]
        return [{"segmentation": {"size": list(size), "counts": code}} for code in _codes(found)]

    # Torchvision: models/detection/mask_rcnn.py. Before version 0.12 layers were counted from 1.
    torchvision_renames = (
        (
            r"roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)",
            lambda name: f"roi_heads.mask_head.{int(name[1]) - 1}.0.{name[2]}",
        ),
    )

    def torchvision_table(self, head):
        """Convolutions, deconvolutions (a second one continues torchvision's numbering), mask logits."""
        for index, conv in enumerate(head.convs):
            yield conv, f"roi_heads.mask_head.{index}", False
        for index, deconv in enumerate(head.deconvs):
            yield deconv, f"roi_heads.mask_predictor.conv{5 + index}_mask", False
        yield head.logits, "roi_heads.mask_predictor.mask_fcn_logits", True

    def torchvision_fields(self, state):
        """Number and width of the convolutions."""
        convs = [name for name in state if re.fullmatch(r"roi_heads\.mask_head\.(\d+)\.0\.weight", name)]
        if not convs:
            return None
        return {"mask_convs": len(convs), "mask_channels": len(state["roi_heads.mask_head.0.0.weight"])}

    def check_torchvision_export(self, config):
        """Torchvision's head doubles the pooled square once."""
        if config.mask_size != 2 * config.mask_pool_size:
            raise ValueError(
                "Torchvision's mask head has one deconvolution: mask_size must be twice mask_pool_size to be exported. "
                f"Received mask_size={config.mask_size}, mask_pool_size={config.mask_pool_size}."
            )


def _box_masks(found):
    """Float32 (n, M, M), probabilities in the frame of each box."""
    if "masks" not in found.values:
        raise AttributeError("Instances merged from tiles have no box_masks: take mask_windows, or masks.")
    return found.values["masks"]


def _windows(found):
    """List of n windows (bool (h, w), x0, y0), image pixels: needs no (n, H, W) stack."""
    return paste_mask_windows(found.values["masks"], found.boxes, found.image_size, pasting=found.config.mask_pasting)


def _pasted(found):
    """Bool (n, H, W): every mask pasted into the image."""
    return stack_windows(found.mask_windows, found.image_size)


def _codes(found):
    """List of n str, compressed run lengths of the image; windows that are there already are not pasted again."""
    from keras_maskrcnn.geometry.codes import paste_codes, window_code  # pycocotools, which the network needs not

    if "mask_windows" in vars(found) or "masks" not in found.values:
        return [window_code(*window, found.image_size) for window in found.mask_windows]
    return paste_codes(found.values["masks"], found.boxes, found.image_size, pasting=found.config.mask_pasting)
