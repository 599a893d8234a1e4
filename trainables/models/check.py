"""Whether a model takes images of a given size, before anything is trained."""

from __future__ import annotations

from trainables.models.names import MODELS, TIMM, find_model, parse_model


def check_model(name: str, shape: tuple[int, int, int]) -> None:
    """`ValueError` unless ``name`` can take images of ``shape`` (C, H, W). Imports torch only for
    names of torchvision's and timm's."""
    base, width = parse_model(name)
    if base.startswith(TIMM):
        from trainables.models.timm_models import timm_backbone

        timm_backbone(base, shape)
        return None
    MODELS.refuse_broken(base)
    row = find_model(base)
    if row is None:
        from trainables.models.torchvision_models import check_torchvision  # heavy, and rarely needed

        return check_torchvision(base, width, shape)
    if package := MODELS.source(base):
        from trainables.models.torchvision_models import check_own_name

        check_own_name(base, package)
    low, high = row.smallest, row.largest
    if not (low <= min(shape[1:]) and max(shape[1:]) <= high):
        raise ValueError(
            f"model {base!r} does not take images of {shape[1]}x{shape[2]} pixels; "
            f"it takes {low}x{low} to {high}x{high}"
        )
