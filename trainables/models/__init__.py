"""Models with one shape: ``features(x)`` (B, D), ``head`` on top, normalisation inside, images in [0, 1].

``names`` and ``check`` need no torch (but for torchvision's models), so that the command line stays quick.
"""
