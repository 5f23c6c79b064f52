"""What training adds to the model: matching, sampling, targets, losses and the optimizer's recipe.

Read in that order. Only `model.py` calls in, and for the recipe the command line; nothing here knows about layers.
"""
