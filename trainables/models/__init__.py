"""Models with one shape: ``features(x)`` (B, D), ``head`` on top, normalisation inside, images in [0, 1]."""

from trainables.model_names import MODELS, check_model, parse_model
from trainables.models.build import Classifier, CosineHead, build_model, conv_bn_pairs

__all__ = ["MODELS", "Classifier", "CosineHead", "build_model", "check_model", "conv_bn_pairs", "parse_model"]
