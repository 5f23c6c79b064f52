"""The version of the package; setup.py and every module read it here."""

__version__ = "0.1.0"
