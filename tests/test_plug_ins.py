"""What another installed package provides: an entry point is all it takes, and a broken one hides nothing."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from search_spaces import METHODS, method_space
from search_spaces.param import choice, param, uniform
from search_spaces.plug_ins import Unusable
from search_spaces.registry import HELPERS, check_space
from trainables.config import TrialConfig
from trainables.data import DataError, DataSpec, check
from trainables.datasets import DATASETS, training_for
from trainables.gpu_packing import measure
from trainables.loop import Trainer
from trainables.methods import method_class
from trainables.models.build import build_model
from trainables.models.check import check_model
from trainables.models.names import MODELS
from trainables.stem import code_version, open_fork, run_to_fork, stem_key
from trainables.threats import THREATS
from trainables.threats import pattern as threat_pattern
from tuner.errors import Failed, UsageError
from tuner.execution import driver, nodes
from tuner.home import Home
from tuner.remote import doctor, submission
from tuner.report.text import headline
from tuner.results.listener import LISTENERS, installed_listeners
from tuner.results.searches import load_search
from tuner.spec import plug_ins
from tuner.spec.search_spec import SearchSpec
from tuner.testing import ThreatContract
from tuner.verification.verify import check_ball

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
ROWS = """
import numpy as np
from torch import nn

from trainables.data.decoded import Decoded
from trainables.datasets import Dataset
from trainables.models.names import Model
from trainables.threats import Norm
from tuner.results.listener import Listener

STRIPES = Dataset("dark and light images", "cool_rows:load", {"eps": 0.2, "batch_size": 8})
PIXELS = Model("no features but the pixels", 4, 8, "cool_rows:build")
NO_RADIUS = Dataset("dark and light images", "cool_rows:load", {"radius": 0.2})
NO_BUILD = Model("nothing", 4, 8, "cool_rows")


def load(raw):
    labels = np.arange(40) % 2
    images = np.repeat(labels.astype(np.uint8) * 99, 16).reshape(-1, 1, 4, 4)
    return Decoded((images, labels), (images[:8], labels[:8]), ["dark", "light"])


def build(shape, width):
    return nn.Flatten(), shape[0] * shape[1] * shape[2]


TILE = Norm("tile", lambda values: 1.0, "cool_ball:Tile")
NO_BALL = Norm("nothing", lambda values: 1.0, "cool_ball")
OTHER_BALL = Norm("another's", lambda values: 1.0, "trainables.threat_model:L2")


class Quiet(Listener):
    name = "quiet"


class Fails(Listener):
    def __init__(self):
        raise OSError("no bell")
"""
BALL = """
from trainables.threat_model import LInf


class Tile(LInf):
    name, norm = "tile", ""
"""
FILES = {
    "cool_rows.py": ROWS,
    "cool_ball.py": BALL,
    "leaves.py": "raise SystemExit(3)",
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
MORE_ENTRIES = {  # of cool-methods, by group
    "tuner.datasets": {"stripes": "cool_rows:STRIPES", "digits": "cool_rows:STRIPES", "bent": "cool_rows:NO_RADIUS"},
    "tuner.models": {
        "pixels": "cool_rows:PIXELS",
        "cnn": "cool_rows:PIXELS",
        "resnet34": "cool_rows:PIXELS",
        "bare": "cool_rows:NO_BUILD",
        "gone": "leaves:ROW",
    },
    "tuner.threats": {
        "tile": "cool_rows:TILE",
        "l2": "cool_rows:TILE",
        "flat": "cool_rows:NO_BALL",
        "masked": "cool_rows:OTHER_BALL",
    },
    "tuner.listeners": {"quiet": "cool_rows:Quiet", "fails": "cool_rows:Fails", "alien": "cool_rows:PIXELS"},
}
MORE_PROBLEMS = [
    "dataset 'bent' of package cool-methods 1.2 is not used: its training must be training settings",
    "dataset 'digits' of package cool-methods 1.2 is not used: a built-in dataset has this name",
    "model 'bare' of package cool-methods 1.2 is not used: its build must be \"package.module:function\"",
    "model 'cnn' of package cool-methods 1.2 is not used: a built-in model has this name",
    "model 'gone' of package cool-methods 1.2 is not used: SystemExit: 3",
    "threat 'flat' of package cool-methods 1.2 is not used: its model must be \"package.module:Class\"",
    "threat 'l2' of package cool-methods 1.2 is not used: a built-in threat has this name",
    "listener 'alien' of package cool-methods 1.2 is not used: it must be a subclass of "
    "tuner.results.listener.Listener",
]
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
        groups = {"tuner.methods": entries, **(MORE_ENTRIES if name == "cool_methods" else {})}
        lines = [[f"[{group}]", *(f"{n} = {value}" for n, value in rows.items()), ""] for group, rows in groups.items()]
        (info / "entry_points.txt").write_text("\n".join(sum(lines, [])))
    return folder


def find_again():
    """As a new process does."""
    for table in (*plug_ins.TABLES.values(), LISTENERS):
        table.__dict__.pop("_found", None)
    code_version.cache_clear()


@pytest.fixture
def installed(site, monkeypatch):
    """In this process, for the time of a test."""
    monkeypatch.syspath_prepend(site)
    find_again()
    yield site
    find_again()
    for file in FILES:
        sys.modules.pop(file.removesuffix(".py"), None)


def edited(file):
    """Another version of a package's file, of the same size, as a new process finds it."""
    text = file.read_text()
    assert text.endswith("\n")
    file.write_text(text[:-1] + " ")
    find_again()
    return lambda: (file.write_text(text), find_again())


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
    assert methods["scaled"]["package"] == "cool-methods 1.2" and methods["srat"]["package"] is None
    assert methods["srat"]["paper"].startswith("Wang"), "a plug-in took a built-in method's place"
    assert done.stderr.splitlines() == list(PROBLEMS.values())
    done = started_with(site, "space", "scaled")
    assert done.returncode == 0 and "factor on the loss" in done.stdout and done.stderr == ""
    done = started_with(site, "space", "torn")
    assert done.returncode == 2 and PROBLEMS["torn"] in " ".join(done.stderr.split())


def test_unknown_names_are_answered_with_the_usable_ones(installed):
    with pytest.raises(ValueError) as refused:
        method_space("nonesuch")
    assert "robustlt, scaled, sovr, spectral, srat" in str(refused.value) and "torn" not in str(refused.value)
    assert METHODS.problems == PROBLEMS
    assert "scaled" in METHODS and "torn" not in METHODS and len(METHODS) == len(list(METHODS)) == len(set(METHODS))


@pytest.mark.process
@pytest.mark.timeout(120)
def test_how_many_share_a_gpu_is_measured_of_one_that_prints(installed, tmp_path):
    """Its lines are no answers, and fill no pipe that nobody reads."""
    file = installed / "cool_equation.py"
    text = file.read_text()
    line = "        factor = self.params.factor"
    assert line in text
    training = asdict(training_for("digits", passes=1, attack_steps=1, eval_attack=1))
    try:
        file.write_text(text.replace(line, f"        print('step' * 50_000)\n{line}"))
        rows = list(measure(TrialConfig("scaled", training=training, home=str(tmp_path)), most=1, seconds=0.2))
    finally:
        file.write_text(text)
    assert [row["at_a_time"] for row in rows] == [1] and rows[0]["images_per_s"] > 0


@pytest.mark.slow
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


@pytest.mark.parametrize("file", ["cool_equation.py", "cool_space.py"])
def test_its_version_is_its_files(installed, file):
    before, of_stem = code_version("scaled"), code_version("at")
    undo = edited(installed / file)
    assert code_version("scaled") != before and code_version("at") == of_stem
    undo()
    assert code_version("scaled") == before


def test_without_its_class_it_is_not_trained(installed):
    with pytest.raises(ValueError) as refused:
        method_class("classless")
    assert str(refused.value) == (
        "method 'classless' of package cool-methods 1.2 cannot be trained: ImportError: cool_space has no subclass of "
        "trainables.method.Method with name = 'classless'"
    )


def test_datasets_and_models_of_packages(installed, tmp_path):
    summary = check(DataSpec("stripes", "none"), tmp_path)
    assert summary.classes == ["dark", "light"] and training_for("stripes").eps == 0.2
    assert build_model("pixels", 2, (1, 4, 4))(torch.rand(3, 1, 4, 4)).shape == (3, 2)
    assert list(DATASETS) == [*DATASETS.built_in, "stripes"] and list(MODELS) == [
        *MODELS.built_in,
        "pixels",
        "resnet34",
    ]
    assert DATASETS["digits"].about.startswith("scikit") and MODELS["cnn"].largest == 64
    said = [sentence for table in (DATASETS, MODELS, THREATS, LISTENERS) for sentence in table.problems.values()]
    assert said == MORE_PROBLEMS
    for name, sentence in (("bare", MORE_PROBLEMS[2]), ("gone", MORE_PROBLEMS[4])):
        with pytest.raises(ValueError) as refused:
            check_model(name, (1, 4, 4))
        assert str(refused.value) == sentence
    with pytest.raises(ValueError, match="torchvision has a model of this name"):
        check_model("resnet34", (3, 64, 64))
    with pytest.raises(DataError) as refused:
        check(DataSpec("bent"), tmp_path)
    assert str(refused.value) == MORE_PROBLEMS[0]


def test_a_threat_model_of_a_package_is_trained_and_judged_with(installed, tmp_path):
    spec = SearchSpec(method="at", threat="tile:1/4", set={"passes": 1, "attack_steps": 2, "eval_attack": 2})
    assert spec.threat == "tile:0.25" and spec.training().eps == 0.25 and list(spec.plug_ins) == ["threat tile"]
    assert re.match(threat_pattern(), "tile:0.25") and "tile attack, eps 0.25 of" in headline(spec)[1]
    fields = {"training": asdict(spec.training()), "home": str(tmp_path), "max_epochs": 1, "imbalance": "exp:40"}
    trainers = [Trainer(TrialConfig("at", threat=threat, **fields), "cpu") for threat in ("tile", "linf")]
    found = [{k: v for k, v in t.run_epoch().items() if not k.endswith("_s")} for t in trainers]
    assert trainers[0].threat.__name__ == "Tile" and found[0] == found[1]  # which it is, under another name
    keys = [stem_key(trainer) for trainer in trainers]
    assert keys[0]["threat_code"].startswith("cool-methods 1.2 ") and "threat_code" not in keys[1]


def test_a_threat_model_that_cannot_be_used_is_one_sentence(installed, tmp_path):
    for text, words in (
        ("flat:0.1", "threat 'flat' of package cool-methods 1.2 is not used"),
        ("l3:1", "or l2:RADIUS such as l2:0.5, or masked:RADIUS, or tile:RADIUS"),
    ):
        with pytest.raises(UsageError) as refused:
            SearchSpec(threat=text)
        assert words in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="threat 'masked' of package cool-methods 1.2 cannot be used: TypeError: "):
        Trainer(TrialConfig("at", threat="masked", home=str(tmp_path)))
    check_ball("autoattack", "l2")
    check_ball("apgd", "tile")
    with pytest.raises(
        UsageError, match="--attack 'autoattack' knows no balls of tile; take apgd or pgd:STEPSxRESTART"
    ):
        check_ball("autoattack", "tile")


class TestTile(ThreatContract):
    threat = "tile"

    @pytest.fixture(autouse=True)
    def here(self, installed):
        pass


def test_the_code_of_a_model_counts_in_the_stem(installed, tmp_path):
    training = asdict(training_for("digits", passes=1))
    config = TrialConfig("at", {}, training, home=str(tmp_path), max_epochs=2, fork=1, stem=training)

    def stem(model):
        return open_fork(Trainer(replace(config, model=model))).name

    before = {model: stem(model) for model in ("pixels", "cnn")}
    undo = edited(installed / "cool_rows.py")
    assert stem("pixels") != before["pixels"] and stem("cnn") == before["cnn"]
    undo()


def test_listeners_of_packages_hear_and_a_broken_one_is_one_sentence(installed):
    said = []
    (quiet,) = installed_listeners(said.append)
    assert quiet.name == "quiet"
    assert said == [MORE_PROBLEMS[-1], "listener 'fails' of package cool-methods 1.2 is not used: OSError: no bell"]


def test_doctor_says_what_comes_from_where(installed):
    row = doctor._plug_ins()
    assert not row["ok"] and row["detail"].split("; ")[-len(MORE_PROBLEMS) :] == MORE_PROBLEMS


def test_a_broken_method_is_answered_with_its_reason(installed):
    with pytest.raises(UsageError) as refused:
        SearchSpec(method="torn")
    assert str(refused.value) == PROBLEMS["torn"]


def test_a_search_remembers_what_it_uses(installed, monkeypatch, tmp_path):
    assert SearchSpec().search_name == "srat-digits-bcd356d7" and "plug_ins" not in SearchSpec().to_dict()
    spec = SearchSpec(method=("scaled", "srat"), dataset="stripes", model="pixels")
    here = plug_ins.used_plug_ins(spec.methods, spec.dataset, spec.model)
    assert spec.plug_ins == here and list(here) == ["method scaled", "dataset stripes", "model pixels"]
    assert all(mark.startswith("cool-methods 1.2 ") and len(mark.split()[2]) == 16 for mark in here.values())
    assert all(lane.search_name == spec.search_name for lane in spec.lanes)
    stored = spec.to_stored()
    assert SearchSpec.from_stored(stored) == spec.changed() and not plug_ins.differing(spec.plug_ins)

    undo = edited(installed / "cool_rows.py")
    assert replace(spec, plug_ins={}).hash() != spec.hash()
    with pytest.raises(UsageError) as refused:
        driver.check(SearchSpec.from_stored(stored), Home(tmp_path))
    code, now = here["dataset stripes"].split()[2], plug_ins.used_plug_ins((), "stripes", "cnn")["dataset stripes"]
    assert str(refused.value) == (
        f"dataset 'stripes' of package cool-methods 1.2 (code {code[:8]}) is of package cool-methods 1.2 (code "
        f"{now.split()[2][:8]}) here; install what the search was made with, or start one with another --name"
    )
    undo()

    folder = tmp_path / "searches" / "kept"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(stored)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(installed)])
    find_again()
    with pytest.raises(UsageError) as refused:
        load_search(Home(tmp_path), "kept")
    assert str(refused.value) == (
        "search 'kept' cannot be read: method 'scaled' is of package cool-methods 1.2, which is not installed here; "
        "install it"
    )


@pytest.mark.parametrize("wrong", ["text", [], {"method scaled": "1"}, {"sampler x": "a 1 0123456789abcdef"}, {3: 4}])
def test_a_wrong_memory_is_refused_in_one_sentence(wrong):
    for make in (SearchSpec.from_dict, lambda values: SearchSpec(**values)):
        with pytest.raises(UsageError, match="spec field plug_ins") as refused:
            make({"plug_ins": wrong})
        assert "\n" not in str(refused.value)


def test_a_node_without_the_package_is_named_before_anything_trains(installed, monkeypatch):
    """`ask` is replaced by what it does, on two nodes of which the second has not installed the package."""
    spec = SearchSpec(method="scaled")

    def ask(function, *args):
        rows = [{"node": "10.0.0.1", "answer": function(*args)}]
        with monkeypatch.context() as there:
            there.setattr(sys, "path", [place for place in sys.path if place != str(installed)])
            find_again()
            rows.append({"node": "10.0.0.2", "answer": function(*args)})
        find_again()
        return rows

    monkeypatch.setattr(nodes, "ask", ask)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    driver._check_nodes(spec)  # a private Ray has the driver's environment
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    driver._check_nodes(SearchSpec())
    with pytest.raises(Failed) as refused:
        driver._check_nodes(spec)
    assert str(refused.value) == (
        "on 1 of 2 nodes (10.0.0.2): method 'scaled' is of package cool-methods 1.2, which is not installed here; "
        "install it"
    )


def test_a_job_takes_the_packages_along(installed, monkeypatch, tmp_path):
    names = [("scaled",), "stripes", "pixels"]
    before = plug_ins.used_plug_ins(*names)
    submission.pack(tmp_path, {}, "", "send")
    assert {path.name for path in tmp_path.iterdir()} > {"tuner", "cool_methods-1.2.dist-info", "cool_equation.py"}
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(place for place in sys.path if place != str(installed))])
    for file in FILES:
        sys.modules.pop(file.removesuffix(".py"), None)
    find_again()
    assert plug_ins.used_plug_ins(*names) == before and len(before) == 3
    assert sys.modules["cool_rows"].__file__ == str(tmp_path / "cool_rows.py") and "quiet" in LISTENERS
    (empty := tmp_path / "image").mkdir()
    submission.pack(empty, {}, "", "image")
    assert {path.name for path in empty.iterdir()} == {"job.json", "spec.yaml"}


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
    loaded = {f"search_spaces.{name}" for name in ("coordinates", "number", "param", "plug_ins", "registry", "srat")}
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
