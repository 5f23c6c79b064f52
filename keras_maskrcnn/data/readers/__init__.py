"""Readers: annotation files -> records. One format per module; `opener.py` detects the format."""
