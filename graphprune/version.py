"""The version of graphprune."""

__version__ = "0.1.0"
