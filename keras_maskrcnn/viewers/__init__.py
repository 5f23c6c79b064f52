"""Hooks of image viewers: layers of napari."""
