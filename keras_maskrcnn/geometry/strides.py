"""Strides of the feature maps: network pixels from one cell to the next.

Read by the backbones, the feature pyramid, the RPN, RoIAlign and the anchor statistics of `check-data`.
"""

BACKBONE_STRIDES = (4, 8, 16, 32)  # of C2..C5, and of P2..P5, the levels that RoIAlign reads
PYRAMID_STRIDES = (*BACKBONE_STRIDES, 64)  # of P2..P6
