"""Inference over many images and machines: rows in, rows out, and the engines that carry them.

`rows.py` has the one class that computes. `sources.py` lists and reads images, `store.py` keeps results so that a run
goes on where it was killed, `on_ray.py` puts them together on Ray Data. Importing them imports neither Keras nor Ray.
"""
