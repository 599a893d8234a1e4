"""RandAugment and AutoAugment for batches: each image as torchvision's transforms.v2 makes it alone."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from search_spaces.param import params_of
from search_spaces.training import Training
from trainables.augment import POLICIES, augment
from trainables.policies import APPLY, BINS, BOTH_WAYS, CIFAR10, MAGNITUDE, POLICY_BINS, RAND, auto_augment, magnitude
from trainables.policies import rand_augment as ours

THEIRS = v2.RandAugment()
POLICY = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)


def images(n, shape, seed=0):
    """With dark and bright ones, and ramps, so that every operation has something to do."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, *shape), generator=g, dtype=torch.uint8)
    x[0] = x[0] // 3
    x[1] = torch.arange(shape[-1], dtype=torch.uint8) * 7 % 200
    return x


def theirs(image, name, value):
    return THEIRS._apply_image_or_video_transform(
        image, name, value, interpolation=v2.InterpolationMode.NEAREST, fill={}
    )


@pytest.mark.parametrize("name", APPLY)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 24, 40)])
def test_an_operation_is_torchvisions(name, shape):
    x = images(8, shape)
    space = {**v2.RandAugment._AUGMENTATION_SPACE, **v2.AutoAugment._AUGMENTATION_SPACE}
    values, signed = space[name]
    assert signed == (name in BOTH_WAYS)
    for bins, levels in ((BINS, (MAGNITUDE,)), (POLICY_BINS, range(POLICY_BINS))):
        table = values(bins, *shape[1:])
        for level in levels:
            value = magnitude(name, level, bins, *shape[1:])
            expected = 0.0 if table is None else float(table[level])
            assert table is None or value == pytest.approx(expected, abs=1e-5)
            for way in (1, -1) if signed else (1,):
                alone = torch.stack([theirs(image, name, way * expected) for image in x])
                assert torch.equal(APPLY[name](x.clone(), way * value), alone), (level, way)


def test_the_table_is_torchvisions():
    found = tuple(tuple((name, p, level or 0) for name, p, level in line) for line in POLICY._policies)
    assert found == CIFAR10 and set(RAND) == set(v2.RandAugment._AUGMENTATION_SPACE)


def test_each_image_gets_what_it_drew():
    x = images(64, (3, 32, 32)).float() / 255
    found = ours(x, torch.Generator().manual_seed(3))
    drawn = torch.randint(0, 2 * len(RAND), (2, 64), generator=torch.Generator().manual_seed(3))
    for i, image in enumerate((x * 255).round().to(torch.uint8)):
        for code in drawn[:, i].tolist():
            name = RAND[code // 2]
            table, signed = v2.RandAugment._AUGMENTATION_SPACE[name]
            levels = table(BINS, 32, 32)
            value = 0.0 if levels is None else float(levels[MAGNITUDE]) * (-1 if signed and code % 2 else 1)
            image = theirs(image, name, value)
        assert torch.equal((found[i] * 255).round().to(torch.uint8), image)
    assert drawn.unique().numel() > 20 and not torch.equal(found, x)


def test_every_line_is_drawn_as_often_as_it_says():
    """An image that only the second operation of the line ("TranslateY", "AutoContrast") can shift: of a white image
    with a black border, translations move the border; 25 lines have TranslateX or TranslateY in 6 places."""
    x = torch.ones(20_000, 1, 8, 8)
    moved = (auto_augment(x, torch.Generator().manual_seed(0)) == 0).flatten(1).any(1).double().mean().item()
    shifting = ("TranslateX", "TranslateY", "Rotate", "ShearX", "ShearY", "Invert")

    def untouched(line):
        share = 1.0
        for name, p, level in line:
            if name in shifting and (name not in ("TranslateX", "TranslateY") or level * 150 / 331 * 8 / 9 >= 1):
                share *= 1 - p
        return share

    # Solarize inverts white as Invert does, wherever its threshold is not above white
    expected = [untouched(tuple(("Invert" if n == "Solarize" else n, p, m) for n, p, m in line)) for line in CIFAR10]
    assert moved == pytest.approx(1 - sum(expected) / len(expected), abs=0.02)


@pytest.mark.parametrize("kind", POLICIES)
def test_augment_takes_them_after_crop_and_flip(kind):
    x = images(32, (3, 16, 16)).float() / 255
    found = augment(x, kind, torch.Generator().manual_seed(1))
    assert found.shape == x.shape and found.dtype == x.dtype and 0 <= found.min() and found.max() <= 1
    assert torch.equal(found, augment(x, kind, torch.Generator().manual_seed(1)))
    assert not torch.equal(found, augment(x, "crop-flip", torch.Generator().manual_seed(1)))
    assert kind in params_of(Training)["augment"].range.choices
