"""The knobs of the training loop against torch, torchvision and hand calculation: milestones, Nesterov, padding,
FGSM-RS, batch norm of the clean images."""

from dataclasses import asdict, replace

import jsonschema
import pytest
import torch
import torch.nn.functional as F
import yaml
from torchvision.transforms.v2.functional import crop, pad

from search_spaces.param import coerce, describe, params_of
from search_spaces.training import Training
from trainables.augment import random_crop
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.method import Attack
from trainables.schedule import drop_epochs, learning_rate
from trainables.sgd import SGD
from tuner.cli.search_options import key_values
from tuner.errors import UsageError
from tuner.spec.schema import spec_schema
from tuner.spec.search_spec import SearchSpec


@pytest.mark.parametrize(
    "epochs, milestones, drops",
    [
        (110, "auto", [100, 105]),  # Pang et al. 2021
        (100, "0.75,0.9", [75, 90]),  # TRADES
        (120, "0.625,0.75,0.833", [75, 90, 100]),  # MART
        (120, "0.5,0.75,0.917", [60, 90, 110]),  # GAIRAT
        (200, "0.5,0.75", [100, 150]),  # CFA
        (110, "0.909,0.9545", [100, 105]),  # DAFA
        (200, "0.8,0.9", [160, 180]),  # LDAM-DRW
        (100, "0.07,0.29,0.57", [7, 29, 57]),  # 0.57 * 100 and 0.29 * 100 are not whole in binary
        (40, "0.6", [24]),
    ],
)
def test_each_drop_is_at_its_epoch(epochs, milestones, drops):
    rates = [learning_rate("piecewise", epoch, epochs, 0.1, milestones) for epoch in range(epochs)]
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, 0.1)
    for epoch, rate in enumerate(rates):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch
        optimizer.step()
        theirs.step()
    for drop in drops:  # not a step of 390 too early
        before, at = (learning_rate("piecewise", drop - back, epochs, 0.1, milestones) for back in (1 / 390, 0))
        assert before == pytest.approx(10 * at)


def test_auto_is_late_where_twenty_epochs_are_trained():
    assert drop_epochs("auto", 19) == [14.25, pytest.approx(17.1)]
    assert drop_epochs("auto", 20) == [pytest.approx(200 / 11), pytest.approx(210 / 11)]
    assert drop_epochs("auto", 220) == [200, 210]


def test_the_rates_of_earlier_versions_are_the_same_to_the_bit():
    for epochs in (1, 3, 5, 10, 12, 30, 40, 76, 100):
        for step in range(7 * epochs):
            done = step / 7 / epochs
            former = 0.05 * (1.0 if done < 0.75 else 0.1 if done < 0.9 else 0.01)
            if min(abs(done - 0.75), abs(done - 0.9)) > 1e-9:
                assert learning_rate("piecewise", step / 7, epochs, 0.05, "0.75,0.9") == former


MILESTONES = params_of(Training)["milestones"]


@pytest.mark.parametrize(
    "given, kept",
    [
        ("auto", "auto"),
        ("AUTO", "auto"),
        ("0.6,0.9", "0.6,0.9"),
        (" .6, 0.90", "0.6,0.9"),
        (0.5, "0.5"),
        ([0.6, 0.9],) * 2,
    ],
)
def test_milestones_are_kept_as_text(given, kept):
    kept = kept if isinstance(kept, str) else "0.6,0.9"
    assert coerce(MILESTONES, given) == kept == SearchSpec(set={"milestones": given}).set["milestones"]
    assert coerce(MILESTONES, kept) == kept
    if given != "AUTO":
        jsonschema.Draft202012Validator(spec_schema()).validate({"set": {"milestones": given}})


@pytest.mark.parametrize(
    "wrong", ["0.9,0.6", "0.6,0.6", "0,0.5", "0.5,1", "75,90", "", "soon", [], [1, 2], None, True, "nan"]
)
def test_wrong_milestones_are_refused(wrong):
    with pytest.raises(UsageError, match=r"milestones=.* takes auto \| increasing fractions such as 0.6,0.9"):
        SearchSpec(set={"milestones": wrong})
    if wrong not in ("0.9,0.6", "0.6,0.6", ""):  # the schema cannot say that they increase
        assert not jsonschema.Draft202012Validator(spec_schema()).is_valid({"set": {"milestones": wrong}})


def test_milestones_can_be_searched():
    given = yaml.safe_load("milestones: [auto, '0.6,0.9', 0.5]")
    spec = SearchSpec(space=given)
    assert spec.search_space().params["milestones"].range.choices == ("auto", "0.6,0.9", "0.5")
    assert "milestones" in spec.search_space().searched and spec.search_space().default()["milestones"] == "auto"
    assert key_values(["milestones=0.6,0.9"], "--set") == {"milestones": "0.6,0.9"}
    assert describe(MILESTONES.range) == "auto | increasing fractions such as 0.6,0.9"


def test_nesterov_is_torchs_to_the_bit():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    a = SGD(ours.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-2, fused=False, nesterov=True)
    b = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-2, nesterov=True)
    plain = SGD(torch.nn.Linear(5, 3).parameters(), lr=0.1, momentum=0.9, weight_decay=5e-2, fused=False)
    assert not plain.nesterov
    for step in range(4):
        x = torch.rand(7, 5)
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters())), step


@pytest.mark.parametrize("padding, mode", [("zero", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("sides", [(16, 16), (64, 8)])
def test_a_crop_is_torchvisions(padding, mode, sides):
    """An eighth of each side: by one of the height a narrow image left its frame, and could not be mirrored."""
    pads, draws = [side // 8 for side in sides], torch.Generator().manual_seed(3)
    x = torch.rand(50, 3, *sides)
    top, left = (torch.randint(0, 2 * p + 1, (50, 1), generator=draws).flatten().tolist() for p in pads)
    found = random_crop(x, torch.Generator().manual_seed(3), padding)
    for image, cropped, down, right in zip(x, found, top, left):
        assert torch.equal(crop(pad(image, pads[::-1], padding_mode=mode), down, right, *sides), cropped)
    assert len(set(left)) == 2 * pads[1] + 1 and len(set(top)) > pads[0]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    return TrialConfig("at", training=training, home=str(tmp_path_factory.mktemp("home")), max_epochs=3)


def with_training(config, **changes):
    return replace(config, training={**config.training, **changes})


def test_a_clipped_gradient_moves_the_weights_no_further(config):
    def moved(**changes):
        trainer = Trainer(with_training(config, momentum=0.0, weight_decay=0.0, lr=1.0, **changes))
        trainer.optimizer.lr = 1.0
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.model.train()
        trainer._step(torch.arange(32), torch.Generator().manual_seed(0))
        after = trainer.model.parameters()
        return torch.stack([(p - b).norm() for p, b in zip(after, before)]).norm().item()

    free = moved()
    assert free > 0.1 and moved(clip_grad=1000.0) == free
    assert moved(clip_grad=0.01) == pytest.approx(0.01, rel=1e-3)


def test_trainer_takes_the_knobs(config):
    trainer = Trainer(with_training(config, nesterov="on", milestones="0.3,0.6", lr=1.0))
    assert trainer.optimizer.nesterov and not Trainer(config).optimizer.nesterov
    assert [trainer.learning_rate(e) for e in (0.5, 0.9, 1.8)] == [1.0, 0.1, 0.01]
    image = torch.ones(1, 1, 8, 8)
    reflected = Trainer(with_training(config, padding="reflect"))
    generators = [torch.Generator().manual_seed(s) for s in range(9)]
    assert all(reflected._augment(image, g).min() == 1 for g in generators)
    assert any(trainer._augment(image, g).min() == 0 for g in generators)


def test_one_step_of_1_25_eps_is_fgsm_rs(config):
    """Wong et al. 2020, algorithm 3, computed here: delta ~ U(-eps, eps), one step of 1.25 eps, projected."""
    eps = 0.1
    trainer = Trainer(with_training(config, attack_steps=1, step_size=1.25))
    trainer.run_epoch()
    seen = []
    x, y = trainer.splits.train.batch(torch.arange(32))
    trainer.attacked.refresh()
    inner = trainer.attacked.module
    handle = inner.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()))
    t = trainer.training
    found, _ = trainer._attack(
        Attack(t.attack_steps, t.step_size, t.attack_start), x, y, torch.Generator().manual_seed(5)
    )
    handle.remove()
    (start,) = seen  # one forward pass
    assert (start - x).abs().max() <= eps + 1e-6 and 0 <= start.min() and start.max() <= 1
    inside = (start - x)[(x > eps) & (x < 1 - eps)]
    assert inside.std().item() == pytest.approx(eps / 3**0.5, rel=0.1)
    trainer.model.eval()
    z = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(trainer.model(z), y), z)
    delta = (start - x + 1.25 * eps * gradient.sign()).clamp(-eps, eps)
    expected = (x + delta).clamp(0, 1)
    assert (found - expected).abs().max() < 1e-6
    assert (found - x).abs().max().item() == pytest.approx(eps, rel=1e-5)


def test_clean_images_pass_batch_norm_once_or_twice(config):
    """TRADES' code (trades_loss): clean, adversarial, clean, all in training mode; the loss is the same."""
    config = replace(config, method="trades")
    orders, losses, running = {}, {}, {}
    for passes in ("once", "twice"):
        trainer = Trainer(with_training(config, clean_bn=passes, augment="none"))
        trainer.model.train()
        bn = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
        bn.reset_running_stats()
        means = []
        bn.register_forward_pre_hook(lambda module, given: means.append(given[0].detach().mean((0, 2, 3)).clone()))
        rows = torch.arange(32)
        _, losses[passes] = trainer._step(rows, torch.Generator().manual_seed(0))
        running[passes] = bn.running_mean.clone()
        orders[passes] = means
    (adversarial, clean), (first, second, third) = orders["once"], orders["twice"]
    assert torch.equal(first, clean) and torch.equal(second, adversarial) and torch.equal(third, clean)
    assert not torch.allclose(clean, adversarial)
    assert losses["once"] == losses["twice"]
    torch.testing.assert_close(running["once"], 0.09 * adversarial + 0.1 * clean)
    torch.testing.assert_close(running["twice"], 0.081 * clean + 0.09 * adversarial + 0.1 * clean)
