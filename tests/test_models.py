"""Models: one contract for all of them, folding that changes nothing, and published sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables.models import timm_models
from trainables.models.build import build_model, conv_bn_pairs
from trainables.models.check import check_model
from trainables.models.names import MODELS, Model, parse_model
from trainables.models.vit import Layer
from tuner.testing import ModelContract
from tuner.testing.models import shake_batch_norms

GREY8, GREY28, RGB32, RGB64 = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)
CASES = [  # name, shape, conv-BN pairs
    ("cnn", GREY8, 3),
    ("cnn", (3, 9, 12), 3),
    ("cnn", GREY28, 4),
    ("cnn", RGB32, 4),
    ("cnn", RGB64, 4),
    ("cnn:2", GREY8, 3),
    ("resnet18:0.1", GREY8, 20),
    ("resnet18:0.25", RGB32, 20),
    ("resnet18:0.1", RGB64, 20),
    ("preact-resnet18:0.1", GREY8, 8),
    ("preact-resnet18:0.25", RGB32, 8),
    ("wrn-34-10:0.1", GREY8, 15),
    ("wrn-34-10:0.1", RGB32, 15),
    ("wrn-16-1", RGB32, 6),
    ("dm-wrn-28-10:0.1", GREY8, 12),
    ("dm-wrn-16-1", GREY8, 6),
    ("dm-wrn-10-1:0.5", GREY28, 3),
    ("dm-wrn-10-1:0.5", (3, 27, 30), 3),
    ("vit-tiny:0.3", (3, 9, 12), 0),
    ("vit-tiny:0.3", GREY28, 0),
    ("mobilenet_v3_small", RGB32, 34),
    ("mobilenet_v3_small", GREY8, 34),
    ("resnet34", GREY28, 36),
    ("squeezenet1_1", RGB32, 0),
    ("shufflenet_v2_x0_5", RGB32, 56),
    ("regnet_y_400mf", RGB32, 53),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class TestModels(ModelContract):
    cases = CASES


@pytest.mark.parametrize(
    "name, parameters", [("resnet18", 11_173_962), ("wrn-34-10", 46_160_474), ("preact-resnet18", 11_172_170)]
)
def test_sizes_are_those_of_the_published_models(name, parameters):
    """CIFAR ResNet-18 (kuangliu), WRN-34-10 (TRADES), pre-activation ResNet-18 with its final batch norm
    (Rice et al.)."""
    with torch.device("meta"):
        model = build_model(name, 10, RGB32)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_own_preactivation_differs_from_what_a_fold_could_reach():
    """No pair may start in front of a pre-activation batch norm or at the stem, whose output is also the
    shortcut."""
    names = [conv for conv, _ in conv_bn_pairs(build_model("preact-resnet18:0.1", 5, GREY8))]
    assert names == [f"backbone.{i}.body.0" for i in range(1, 9)]


def test_layers_that_do_more_than_their_class_are_not_folded():
    """timm's batch norm of DenseNet activates too, others' convolutions standardise their weights."""
    norm, conv = type("BatchNormAct2d", (nn.BatchNorm2d,), {}), type("StdConv2d", (nn.Conv2d,), {})
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), conv(4, 4, 3), nn.BatchNorm2d(4))
    assert conv_bn_pairs(layers) == []
    assert conv_bn_pairs(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))) == [("0", "1")]


@pytest.mark.parametrize("name", ["cnn", "mobilenet_v3_small"])
def test_cosine_head(name):
    model = shake_batch_norms(build_model(name, 5, GREY8, head="cosine"))
    x = torch.rand(4, *GREY8)
    logits, z = model(x), model.features(x)
    expected = 10 * nn.functional.cosine_similarity(z[:, None], model.head.weight[None], dim=2)
    torch.testing.assert_close(logits, expected)
    assert torch.equal(logits, model.head(z)) and logits.abs().max() <= 10


def test_normalisation_is_inside_and_no_parameter():
    model = build_model("cnn", 5, RGB32, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1.0]).eval()
    plain = build_model("cnn", 5, RGB32, mean=[0.0] * 3, std=[1.0] * 3).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k not in ("mean", "std")}, strict=False)
    x = torch.rand(2, *RGB32)
    by_hand = torch.stack([(x[:, 0] - 0.1) / 0.5, (x[:, 1] - 0.2) / 0.25, x[:, 2] - 0.3], dim=1)
    torch.testing.assert_close(model(x), plain(by_hand))
    assert {"mean", "std"} <= set(dict(model.named_buffers())) and "mean" not in dict(model.named_parameters())


def test_width_changes_the_channels():
    sizes = [build_model(f"cnn{w}", 5, GREY8).head.in_features for w in ("", ":2", ":0.5")]
    assert sizes == [256, 512, 128]
    assert parse_model("resnet18:0.5") == ("resnet18", 0.5) and parse_model("cnn") == ("cnn", 1.0)


def test_same_seed_same_weights():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model("mobilenet_v3_small", 5, RGB32).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(m.values() for m in models)))


@pytest.mark.parametrize(
    "name, shape, sentence",
    [
        (
            "nonsense",
            RGB32,
            "unknown model 'nonsense'; it takes cnn, resnet18, preact-resnet18, wrn-34-10, dm-wrn-28-10, vit-tiny or",
        ),
        ("nonsense:2", RGB32, "unknown model 'nonsense'"),
        ("", RGB32, "unknown model ''"),
        ("ResNet18", RGB32, "unknown model 'ResNet18', did you mean 'resnet18'\\?; it takes cnn, "),
        ("wrn_28_10", RGB32, "unknown model 'wrn_28_10', did you mean 'wrn-28-10'\\?; it takes cnn, "),
        ("WRN-29-10", RGB32, "model 'wrn-29-10' is no WideResNet"),
        ("fcn_resnet50", RGB32, "unknown model 'fcn_resnet50'"),
        ("cnn:", RGB32, "model 'cnn:' has width ''.*0.1 to 16"),
        ("cnn:x", RGB32, "model 'cnn:x' has width 'x'.*0.1 to 16"),
        ("cnn:0", RGB32, "model 'cnn:0' has width '0'"),
        ("cnn:nan", RGB32, "model 'cnn:nan' has width 'nan'"),
        ("cnn:17", RGB32, "model 'cnn:17' has width '17'"),
        ("mobilenet_v3_small:2", RGB32, "'mobilenet_v3_small:2' is not allowed; only cnn, .* take a width"),
        ("cnn", (1, 7, 8), "model 'cnn' does not take images of 7x8 pixels; it takes 8x8 to 64x64"),
        ("resnet18", (3, 96, 96), "does not take images of 96x96 pixels"),
        ("alexnet", RGB32, "'alexnet' does not take images of 32x32"),
        ("vit_b_16", RGB32, "'vit_b_16' does not take images of 32x32"),
    ],
)
def test_wrong_models(name, shape, sentence):
    for attempt in (lambda: check_model(name, shape), lambda: build_model(name, 5, shape)):
        with pytest.raises(ValueError, match=sentence) as caught:
            attempt()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(head="tanh"), "head 'tanh' is not allowed; it takes linear or cosine"),
        (dict(mean=[0.5]), r"mean \[0.5\] .*3 number"),
        (dict(std=[0.5, 0.0, 0.5]), "std .*positive"),
    ],
)
def test_wrong_build_arguments(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_model("cnn", 5, RGB32, **wrong)


def test_names_are_checked_without_torch():
    code = (
        "import sys; from trainables.models.check import check_model\n"
        "from trainables.models.names import MODELS\n"
        "for name in MODELS: check_model(name + ':0.5', (3, 32, 32))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    assert list(MODELS) == ["cnn", "resnet18", "preact-resnet18", "wrn-34-10", "dm-wrn-28-10", "vit-tiny"]


def test_every_model_has_a_case():
    assert {name.partition(":")[0] for name, *_ in CASES} >= set(MODELS.built_in)


def test_a_new_row_is_all_a_model_takes(monkeypatch):
    monkeypatch.setitem(MODELS.built_in, "flat", Model("nothing but pixels", 4, 6, f"{__name__}:flat"))
    model = build_model("flat:2", 3, (1, 4, 4))
    assert model.head.in_features == 16 and model(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    with pytest.raises(ValueError, match="unknown model 'x'; it takes cnn, .*, flat or"):
        check_model("x", (1, 4, 4))


def flat(shape, width):
    assert width == 2
    return nn.Flatten(), shape[0] * shape[1] * shape[2]


def test_a_vision_transformer_by_hand():
    """DeiT-Ti's 5,717,416 weights (Touvron et al. 2021) without its 16x16 patches, 197 places, class token and head of
    1000 classes, with the patches, places and head of 32x32 images of 10 classes."""
    dim = 192
    deit = 5_717_416 - (3 * 16 * 16 * dim + dim) - 197 * dim - dim - (dim * 1000 + 1000)
    with torch.device("meta"):
        model = build_model("vit-tiny", 10, RGB32)
    assert sum(p.numel() for p in model.parameters()) == deit + (3 * 4 * 4 * dim + dim) + 64 * dim + dim * 10 + 10


def test_a_layer_of_it_is_torchs():
    ours, theirs = Layer(32, 4), nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", 1e-6, True, norm_first=True)
    names = {"in_proj_": "qkv.", "out_proj.": "proj."}
    state = {f"self_attn.{t}{w}": getattr(ours.attn, o[:-1]).get_parameter(w) for t, o in names.items() for w in WB}
    state |= {f"linear{i + 1}.{w}": ours.mlp[2 * i].get_parameter(w) for i in (0, 1) for w in WB}
    state |= {f"norm{i}.{w}": getattr(ours, f"norm{i}").get_parameter(w) for i in (1, 2) for w in WB}
    theirs.load_state_dict(state)
    x = torch.rand(3, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


WB = ("weight", "bias")


def test_a_name_of_timm_without_timm(monkeypatch):
    monkeypatch.setattr(timm_models, "find_spec", lambda name: None)
    for attempt in (check_model, lambda name, shape: build_model(name, 5, shape)):
        with pytest.raises(
            ValueError, match=r"^model 'timm:resnet18' needs the package timm; pip install 'robust-tuner\["
        ):
            attempt("timm:resnet18", RGB32)


def test_names_of_timm():
    pytest.importorskip("timm")
    for name in ("timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050"):
        model = build_model(name, 5, (1, 32, 32))
        assert model(torch.rand(2, 1, 32, 32)).shape == (2, 5)
        model(torch.rand(2, 1, 32, 32)).sum().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="'timm:nonsense' is unknown: timm .* has no model 'nonsense'"):
        check_model("timm:nonsense", RGB32)
    with pytest.raises(ValueError, match="'timm:vit_tiny_patch16_224' does not take images of 9x9 pixels"):
        check_model("timm:vit_tiny_patch16_224", (3, 9, 9))
