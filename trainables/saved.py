"""Where exported models' cards of version 0.1 import from; the code is in `trainables.model_io`."""

from trainables.model_io import load_model

__all__ = ["load_model"]
