"""A training run: the loop around `fit`, its folder, its optimizer, its callbacks."""
