"""What every model keeps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainables.models.build import build_model, conv_bn_pairs
from trainables.models.check import check_model
from trainables.models.names import MODELS, check_row


class ModelCase(NamedTuple):
    """A model, perhaps with a width, for images of a shape (C, H, W), and how many of its convolutions are folded into
    the batch norm behind them; None: any number."""

    name: str
    shape: tuple[int, int, int]
    pairs: int | None = None


class ModelContract:
    """``model``: its name; ``cases``: widths and shapes to try, instead of its name with its smallest images, grey and
    in colour."""

    model = ""
    cases: Sequence[ModelCase | tuple] = ()

    def pytest_generate_tests(self, metafunc):
        if "case" in metafunc.fixturenames:
            cases = [ModelCase(*case) for case in self.cases] or self._smallest()
            metafunc.parametrize("case", cases, ids=lambda c: f"{c.name}-{'x'.join(map(str, c.shape))}")
        if "row" in metafunc.fixturenames:
            names = dict.fromkeys(case[0].partition(":")[0] for case in self.cases) or [self.model]
            metafunc.parametrize("row", [name for name in names if name in MODELS])

    def _smallest(self) -> list[ModelCase]:
        side = MODELS[self.model].smallest
        return [ModelCase(self.model, (channels, side, side)) for channels in (1, 3)]

    def test_contract(self, case):
        torch.manual_seed(0)
        shape = case.shape
        model = build_model(case.name, 5, shape, mean=[0.4] * shape[0], std=[0.2] * shape[0])
        x, y = torch.rand(4, *shape, requires_grad=True), torch.arange(4)
        logits = model.train()(x)
        assert logits.shape == (4, 5) and logits.isfinite().all()
        nn.functional.cross_entropy(logits, y).backward()
        assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        shake_batch_norms(model)
        with torch.no_grad():
            z = model.features(x)
            assert z.ndim == 2 and torch.equal(model(x), model.head(z))
            assert (model.head(z) != model.head.bias).any()

            folded = copy.deepcopy(model)
            listed = conv_bn_pairs(folded)
            pairs = len(listed) if case.pairs is None else case.pairs
            assert len(listed) == len(set(listed)) == pairs
            for conv, bn in listed:
                folded.set_submodule(conv, fuse_conv_bn_eval(folded.get_submodule(conv), folded.get_submodule(bn)))
                folded.set_submodule(bn, nn.Identity())
            left = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
            assert left == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) - pairs
            torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-4)

    def test_a_row_is_true(self, row):
        """What it is, its builder, and both ends of the image sizes it claims to take."""
        found = MODELS[row]
        check_row(found)
        assert found.about
        for side in (found.smallest, found.largest):
            with torch.device("meta"):
                assert build_model(f"{row}:0.1", 5, (3, side, side))(torch.rand(2, 3, side, side)).shape == (2, 5)
        for side in (found.smallest - 1, found.largest + 1):
            words = f"takes {found.smallest}x{found.smallest} to {found.largest}x{found.largest}"
            with pytest.raises(ValueError, match=words):
                check_model(row, (3, side, side))


def shake_batch_norms(model: nn.Module) -> nn.Module:
    """Statistics and scales as after training, so that a fold has something to get wrong."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.3)
    return model.eval()
