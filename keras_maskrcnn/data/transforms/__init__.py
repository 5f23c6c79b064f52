"""Augmentation: geometry, appearance, copy-paste, and presets."""
