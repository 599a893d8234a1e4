"""Weights that others made: each public layout gives the logits of its own code, and what does not fit is said."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save

from tests.layouts import CifarResNet18, DeepMindWideResNet, Scaled, TradesWideResNet, trained
from trainables.foreign import fit, read_state, state_in
from trainables.models.build import build_model
from trainables.models.names import find_model
from trainables.reading import Damaged

SHAPE, CLASSES = (3, 16, 16), 5
WIDTHS = (6, 13, 26, 51)  # of resnet18:0.1
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


def images(shape=SHAPE):
    return torch.rand(32, *shape, generator=torch.Generator().manual_seed(1))


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def prefixed(state, prefix):
    return OrderedDict((prefix + name, value) for name, value in state.items())


def loaded(data, model, shape=SHAPE):
    """Our model with the weights of a file, and the notes."""
    read = state_in(data, "weights.pt")
    net = build_model(model, CLASSES, shape)
    found = fit(read.state, net)
    net.load_state_dict(found.weights)
    return net.eval(), [*read.notes, *found.notes]


LAYOUTS = {
    "trades": ("wrn-10-1", lambda: TradesWideResNet(10, 1, CLASSES)),
    "trades, deeper": ("wrn-16-2", lambda: TradesWideResNet(16, 2, CLASSES)),
    "trades with unused layers": ("wrn-10-1", lambda: TradesWideResNet(10, 1, CLASSES, unused=True)),
    "rice 2020": ("wrn-10-2", lambda: TradesWideResNet(10, 2, CLASSES, mu=0.5)),
    "deepmind": ("dm-wrn-16-1", lambda: DeepMindWideResNet(16, 1, CLASSES)),
    "pytorch-cifar": ("resnet18:0.1", lambda: CifarResNet18(WIDTHS, CLASSES)),
    "pytorch-cifar, pre-activation": ("preact-resnet18:0.1", lambda: CifarResNet18(WIDTHS, CLASSES, pre=True)),
    "robustbench's normalize_model": ("resnet18:0.1", lambda: Scaled(CifarResNet18(WIDTHS, CLASSES), MEAN, STD)),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("wrapped", ["plain", "module.", "nested", "safetensors"])
def test_logits_are_those_of_the_public_code(name, wrapped):
    ours, build = LAYOUTS[name]
    theirs = trained(build())
    state = theirs.state_dict()
    files = {
        "plain": lambda: saved(state),
        "module.": lambda: saved(prefixed(state, "module.")),
        "nested": lambda: saved({"epoch": 3, "state_dict": prefixed(state, "module."), "best_prec1": 0.5}),
        "safetensors": lambda: save({k: v.clone() for k, v in state.items()}),  # in the order of their names
    }
    model, notes = loaded(files[wrapped](), ours)
    with torch.no_grad():
        expected, found = theirs(images()), model(images())
    assert expected.std(0).min() > 1e-3  # else any model would do
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found.argmax(1) == expected.argmax(1)).all()
    said = "; ".join(notes)
    assert "keys renamed: " in said
    assert ("'module.'" in said or "'module.model.'" in said) == (wrapped in ("module.", "nested"))
    assert ("read under 'state_dict'" in said) == (wrapped == "nested")
    assert ("normalisation of the file kept" in said) == (name in ("rice 2020", "robustbench's normalize_model"))
    assert ("never uses: sub_block1" in said) == (name == "trades with unused layers")


def test_a_library_s_own_names_load_and_its_head_moves():
    torchvision = pytest.importorskip("torchvision.models")
    theirs = trained(torchvision.mobilenet_v3_small(num_classes=CLASSES))
    model, notes = loaded(saved(theirs.state_dict()), "mobilenet_v3_small", (3, 32, 32))
    x = images((3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), rtol=1e-3, atol=1e-4)
    assert "classifier.3.weight" not in model.state_dict() and "renamed" in notes[-1]


def test_a_model_of_ours_loads_as_it_is():
    theirs = trained(build_model("cnn", CLASSES, (1, 8, 8), mean=[0.3], std=[0.2]))
    net = build_model("cnn", CLASSES, (1, 8, 8))
    found = fit(state_in(saved({"average": None, "model": theirs.state_dict(), "epoch": 3}), "x").state, net)
    assert found.normalised and not found.notes
    assert all(torch.equal(value, found.weights[name]) for name, value in theirs.state_dict().items())
    assert state_in(saved({"average": {"a": torch.ones(1)}, "model": {"a": torch.zeros(1)}}), "x").state["a"] == 1


def test_without_counters_of_batch_norm():
    state = trained(CifarResNet18(WIDTHS, CLASSES)).state_dict()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    loaded(saved(old), "resnet18:0.1")


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


def test_what_does_not_fit_is_named_in_one_sentence():
    state = CifarResNet18(WIDTHS, CLASSES).state_dict()
    cases = [
        (without(state, "layer2.1.conv1.weight"), "resnet18:0.1", ["1 missing (backbone.6.body.0.weight)"]),
        ({**state, "extra.weight": torch.ones(2)}, "resnet18:0.1", ["1 unexpected (extra.weight)"]),
        (state, "resnet18:0.2", ["of another shape (", " is 6x3x3x3 there, 13x3x3x3 here"]),
        ({**state, "init_conv.weight": state["conv1.weight"]}, "resnet18:0.1", ["DeepMind"]),
        (
            {**state, "fc.bias": state["linear.bias"]},
            "resnet18:0.1",
            ["two of its tensors are head.bias: linear.bias, fc.bias"],
        ),
        (state, "preact-resnet18:0.1", ["15 unexpected (layer2.0.shortcut.1.weight, "]),
        (CifarResNet18(WIDTHS, 7).state_dict(), "resnet18:0.1", ["its head has 7 classes, the data have 5"]),
        (DeepMindWideResNet(10, 1, 5).state_dict(), "wrn-10-1", ["DeepMind", "are dm-wrn-D-W here"]),
        (TradesWideResNet(10, 1, 5).state_dict(), "dm-wrn-10-1", ["do not have the names of DeepMind's code"]),
    ]
    for case, model, parts in cases:
        with pytest.raises(ValueError) as wrong:
            loaded(saved(case), model)
        assert "\n" not in str(wrong.value) and all(part in str(wrong.value) for part in parts), wrong.value
    flat = Scaled(CifarResNet18(WIDTHS, CLASSES), MEAN, [0.25, 0.0, 0.25])
    with pytest.raises(ValueError, match="divides by a number that is not positive"):
        loaded(saved(flat.state_dict()), "resnet18:0.1")


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("was-run",)


def packed():
    """A checkpoint that is packed, as torch never writes one: what a bomb needs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(9)}))) as source:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
            for entry in source.infolist():
                target.writestr(entry.filename, source.read(entry))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data, part",
    [
        (saved({"state_dict": Evil()}), "holds no weights that can be loaded safely"),
        (packed(), "it is packed"),
        (saved({"a": torch.ones(3)})[:-40], "holds no weights that can be loaded safely"),
        (b"not weights at all", "holds no weights that can be loaded safely (Weights only load failed); what"),
        (b"", "holds no weights that can be loaded safely"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "holds no weights that can be loaded safely"),
        (saved([torch.ones(3)]), "holds no state dict"),
        (saved({"epoch": 3}), "holds no state dict"),
    ],
    ids=["code", "packed", "cut off", "text", "empty", "half of safetensors", "a list", "a number"],  # bytes have times
)
def test_only_numbers_are_loaded(tmp_path, monkeypatch, data, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(data)
    with pytest.raises(Damaged) as wrong:
        read_state(tmp_path / "weights.pt")
    assert "\n" not in str(wrong.value) and part in str(wrong.value) and "weights.pt" in str(wrong.value)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(6, 3, 3, 3).to_sparse(),
        torch.ones(6, 3, 3, 3, dtype=torch.complex64),
        torch.ones(6, 3, 3, 3, device="meta"),
        torch.quantize_per_tensor(torch.ones(6, 3, 3, 3), 1.0, 0, torch.qint8),
    ],
    ids=lambda t: f"{t.layout} {t.dtype} {t.device}",
)
def test_only_plain_arrays_are_weights(odd):
    state = CifarResNet18(WIDTHS, CLASSES).state_dict()
    with pytest.raises(Damaged, match="its tensor 'conv1.weight' is no plain array of real numbers"):
        state_in(saved({**state, "conv1.weight": odd}), "x.pt")


def test_a_tensor_that_claims_more_than_it_holds_is_refused_before_it_is_made():
    state = CifarResNet18(WIDTHS, CLASSES).state_dict()
    state["conv1.weight"] = torch.zeros(1).expand(10**6, 10**6)  # 4 bytes in the file, 4 TB as a tensor
    with pytest.raises(ValueError, match="backbone.0.weight is 1000000x1000000 there"):
        loaded(saved(state), "resnet18:0.1")


@pytest.mark.parametrize(
    "name, millions", [("wrn-40-1", 0.6), ("wrn-40-2", 2.2), ("wrn-40-4", 8.9), ("wrn-16-8", 11.0), ("wrn-22-8", 17.2)]
)
def test_wide_resnets_have_the_published_size(name, millions):
    """Zagoruyko & Komodakis 2016, tables 4 and 5."""
    with torch.device("meta"):
        model = build_model(name, 10, (3, 32, 32))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def by_hand(depth, width, classes=10):
    """Weights of a WideResNet: convolutions, two numbers for each channel of a batch norm, the head."""
    n, (a, b, c) = (depth - 4) // 6, (16 * width, 32 * width, 64 * width)
    convs = 3 * 16 * 9
    norms = 0
    for cin, cout in ((16, a), (a, b), (b, c)):
        convs += 9 * cin * cout + 9 * cout * cout + cin * cout + (n - 1) * 18 * cout * cout
        norms += 2 * cin + 2 * cout + (n - 1) * 4 * cout
    return convs + norms + 2 * c + c * classes + classes


@pytest.mark.parametrize("name, depth, width", [("wrn-28-10", 28, 10), ("wrn-70-16", 70, 16), ("dm-wrn-28-10", 28, 10)])
def test_wide_resnets_by_hand(name, depth, width):
    with torch.device("meta"):
        model = build_model(name, 10, (3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == by_hand(depth, width)
    assert by_hand(28, 10) == 36_479_194 and by_hand(34, 10) == 46_160_474  # as others count them


@pytest.mark.parametrize("name", ["wrn-12-1", "wrn-4-1", "wrn-28-0", "dm-wrn-27-10", "wrn-28-33"])
def test_wide_resnets_that_there_are_not(name):
    with pytest.raises(ValueError, match=f"model '{name}' is no WideResNet; in (dm-)?wrn-D-W the depth"):
        find_model(name)
