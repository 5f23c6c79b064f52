"""Training targets and losses: matching, sampling, targets, losses. Read in that order.

Pure functions without layers. Called by `model.py` and `branches/`.
"""
