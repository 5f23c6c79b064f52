"""The paper, one stage a file: backbone, feature pyramid, anchors and RPN, RoIAlign, box head, detections.

Stages do not import each other; `model.py` joins them. `layers.py` and `padding.py` hold what they share.
"""
