"""The one figure by which epochs, checkpoints and runs are compared."""

_BEST_FIRST = ("segm_AP", "bbox_AP")


def main_figure(names):
    """Choose the main figure among measured ones: the AP of masks, or the AP of boxes if no masks were measured.

    Args:
        names: an epoch's logs ("val_segm_AP", ...), the metrics of `evaluate_coco` ("segm_AP", ...) or their names.

    Returns:
        str, one of the names; None if there is neither.
    """
    for name in _BEST_FIRST:
        for candidate in (f"val_{name}", name):
            if candidate in names:
                return candidate
    return None
