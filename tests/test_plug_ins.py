"""Methods that another installed package provides: an entry point is all it takes, and a broken one hides nothing."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from search_spaces import METHODS, method_space
from search_spaces.param import choice, param, uniform
from search_spaces.registry import HELPERS, Unusable, check_space
from trainables.config import TrialConfig
from trainables.datasets import training_for
from trainables.loop import Trainer
from trainables.methods import method_class
from trainables.stem import code_version, open_fork, run_to_fork, sources

SPACE = """
from dataclasses import dataclass
from search_spaces.param import param, uniform

PAPER = "none: an example"
SUMMARY = "cross-entropy times a factor"
METHOD = "cool_equation"


@dataclass(frozen=True)
class Params:
    factor: float = param(2.0, uniform(0.5, 4.0), "factor on the loss")
    start: float = param(0.5, uniform(0.0, 0.9), "fraction of the epochs before the factor acts")
"""
EQUATION = """
from trainables.method import Batch, Method
from trainables.methods.at import At


class Scaled(Method):
    name = "scaled"

    def forward(self, batch: Batch):
        factor = self.params.factor if self.started(batch.epoch) else 1.0
        return factor * batch.mean(batch.cross_entropy(batch.logits_adv))
"""
FILES = {
    "cool_space.py": SPACE,
    "cool_equation.py": EQUATION,
    "no_params.py": "PAPER = SUMMARY = METHOD = 'x'",
    "torn.py": "import a_module_that_is_not_there",
    "elsewhere.py": SPACE.replace("cool_equation", "cool_space"),
}
ENTRIES = {
    "cool_methods-1.2": {
        "scaled": "cool_space",
        "srat": "cool_space",  # a built-in name
        "torn": "torn",
        "empty": "no_params",
        "Loud!": "cool_space",
        "twice": "cool_space",
        "classless": "elsewhere",
    },
    "other-0.1": {"twice": "cool_space"},
}
PROBLEMS = {
    "Loud!": "method 'Loud!' of package cool-methods 1.2 is not used: a name takes small letters, digits, '_' and '-', "
    "and begins with a letter",
    "empty": "method 'empty' of package cool-methods 1.2 is not used: its Params must be a dataclass",
    "srat": "method 'srat' of package cool-methods 1.2 is not used: a built-in method has this name",
    "torn": "method 'torn' of package cool-methods 1.2 is not used: ModuleNotFoundError: No module named "
    "'a_module_that_is_not_there'",
    "twice": "method 'twice' of package cool-methods 1.2 and of package other 0.1 is not used: two packages give the "
    "same name",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder as an installer leaves it: modules, and what describes two distributions."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for distribution, entries in ENTRIES.items():
        info = folder / f"{distribution}.dist-info"
        info.mkdir()
        name, version = distribution.split("-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[tuner.methods]", *lines, ""]))
    return folder


@pytest.fixture
def installed(site, monkeypatch):
    """In this process, for the time of a test."""
    monkeypatch.syspath_prepend(site)
    METHODS.__dict__.pop("_found", None)
    yield site
    METHODS.__dict__.pop("_found", None)
    for file in FILES:
        sys.modules.pop(file.removesuffix(".py"), None)


def started_with(site, *args):
    """The command line in a process that finds the packages of ``site``: entry points are read once a process."""
    return subprocess.run(
        [sys.executable, "-m", "tuner.cli", *args],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


def test_the_command_line_finds_them_and_names_the_broken_ones(site):
    done = started_with(site, "methods", "--json")
    assert done.returncode == 0
    methods = {method["name"]: method for method in json.loads(done.stdout)}
    assert list(methods)[-2:] == ["classless", "scaled"] and list(methods)[:-2] == list(METHODS.built_in)
    assert [p["name"] for p in methods["scaled"]["params"]] == ["factor", "start"]
    assert methods["srat"]["paper"].startswith("Wang"), "a plug-in took a built-in method's place"
    assert done.stderr.splitlines() == list(PROBLEMS.values())
    done = started_with(site, "space", "scaled")
    assert done.returncode == 0 and "factor on the loss" in done.stdout and done.stderr == ""
    done = started_with(site, "space", "torn")
    assert done.returncode == 2 and PROBLEMS["torn"] in " ".join(done.stderr.split())


def test_unknown_names_are_answered_with_the_usable_ones(installed):
    with pytest.raises(ValueError) as refused:
        method_space("nonesuch")
    assert "robal, scaled, sovr, srat" in str(refused.value) and "torn" not in str(refused.value)
    assert METHODS.problems == PROBLEMS
    assert "scaled" in METHODS and "torn" not in METHODS and len(METHODS) == len(list(METHODS)) == len(set(METHODS))


def test_a_trial_trains_it_and_forks_from_the_stem_of_all(installed, tmp_path):
    torch.set_num_threads(1)
    training = asdict(training_for("digits", passes=1, attack_steps=2, eval_attack=2))
    config = TrialConfig("scaled", {"factor": 3.0}, training, home=str(tmp_path), max_epochs=2, fork=1, stem=training)
    trainer, built_in = Trainer(config), Trainer(replace(config, method="bsl", params={}))
    assert type(trainer.method) is method_class("scaled") and trainer.method.params.factor == 3.0
    assert open_fork(trainer).name == open_fork(built_in).name
    assert [row["epoch"] for row in run_to_fork(trainer)] == [1]
    last = trainer.run_epoch()
    plain = Trainer(replace(config, method="at", params={}, fork=0))
    first, other = plain.run_epoch(), plain.run_epoch()
    assert 0 < first["train_loss"] and last["train_loss"] > 2 * other["train_loss"] > 0


def test_its_version_is_its_files(installed):
    assert installed / "cool_equation.py" in sources("scaled")
    before, of_stem = code_version("scaled"), code_version("at")
    (installed / "cool_equation.py").write_text(EQUATION + "# edited\n")
    code_version.cache_clear()
    assert code_version("scaled") != before and code_version("at") == of_stem
    (installed / "cool_equation.py").write_text(EQUATION)
    code_version.cache_clear()


def test_without_its_class_it_is_not_trained(installed):
    with pytest.raises(ValueError) as refused:
        method_class("classless")
    assert str(refused.value) == (
        "method 'classless' of package cool-methods 1.2 cannot be trained: ImportError: cool_space has no subclass of "
        "trainables.method.Method with name = 'classless'"
    )


def test_built_in_methods_are_the_files_and_need_no_installed_package():
    """Asking for one neither reads what is installed nor imports the others."""
    code = (
        "import sys, importlib.metadata as m\n"
        "def fail(**_): raise SystemExit('entry points were read')\n"
        "m.entry_points = fail\n"
        "from search_spaces import METHODS, method_space\n"
        "method_space('srat')\n"
        "assert 'trades' in METHODS\n"
        "print([x for x in sys.modules if x.startswith('search_spaces.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = {f"search_spaces.{name}" for name in ("number", "param", "registry", "srat")}
    assert set(eval(done.stdout)) == loaded, done.stderr
    assert not set(HELPERS) & set(METHODS.built_in)


def sound(**changes):
    fields = {"PAPER": "p", "SUMMARY": "s", "Params": method_space("wmmr").Params, **changes}
    return type("Space", (), fields)


def params(**lines):
    from dataclasses import make_dataclass

    return sound(Params=make_dataclass("Params", [(name, object, line) for name, line in lines.items()]))


@pytest.mark.parametrize(
    "space, reason",
    [
        (sound(PAPER=None), "its PAPER must be a line of text"),
        (sound(Params=3), "its Params must be a dataclass"),
        (params(a=1.0), "its parameter a must be given by param(default, range, meaning)"),
        (params(a=param(5.0, uniform(0, 1), "m")), "a=5.0 is not allowed; a takes [0, 1]"),
        (params(a=param("0.5", uniform(0, 1), "m")), "a default of its parameter a is not of the type of the range"),
        (
            params(a=param(0.5, uniform(0, 1), "m", when={"b": (1,)}), b=param(1, choice(1, 2), "m")),
            "its parameter a depends on b, which is no earlier choice with these values",
        ),
        (
            params(b=param(1, choice(1, 2), "m"), a=param(0.5, uniform(0, 1), "m", by={"b": {3: 0.5}})),
            "its parameter a depends on b, which is no earlier choice with these values",
        ),
    ],
    ids=["paper", "params", "plain-field", "range", "type", "when", "by"],
)
def test_an_unsound_space_is_refused(space, reason):
    check_space(sound())
    with pytest.raises(ValueError) as refused:
        check_space(space)
    assert str(refused.value) == reason and isinstance(refused.value, (Unusable, ValueError))


@pytest.mark.parametrize("name", METHODS)
def test_every_built_in_space_is_sound_and_has_its_class(name):
    check_space(METHODS[name])
    assert method_class(name).name == name
