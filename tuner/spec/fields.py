"""The fields of a search: what a user may ask for, one call of ``option`` each.

How to add a field
------------------
One call in ``SearchFields``, below the panel where its option belongs. ``tuner search``, ``tuner submit``, their help
and completion, spec files, validation, the JSON schema and the name of a search follow. A new field that is hashed
changes the name of every search that is made without saying it, unless its default is ``before``. ``before`` is what
the stored spec of an earlier search means, which does not hold the field: what the code did then. Earlier searches keep
their names with it. ``hashed=False`` is for what cannot change a result. Then a row in ``tests/test_spec.py``, and
``python -m tests.test_command_line``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from search_spaces.number import NUMBER
from trainables.threats import LINF, parse_threat
from trainables.threats import pattern as threat_pattern
from trainables.urls import SIGN_IN, check_public, masked
from tuner.errors import UsageError
from tuner.home import SEARCH_NAME, check_name
from tuner.spec import known
from tuner.spec.budget import PATTERN, Budget
from tuner.spec.objectives import BOUNDED, NATURAL, WORST
from tuner.spec.option import option, options_of
from tuner.spec.validation import Choice, Gpus, Pairs, Positive, Several, Share, Text, Whole

# The panels of `tuner search --help`, in their order.
TRAINED = "What is trained"
SEARCHED = "What is searched"
BUDGET = "Budget"
STOPPING = "Sampler and scheduler"
RESOURCES = "Where it runs"
RESULTS = "Results"
PANELS = (TRAINED, SEARCHED, BUDGET, STOPPING, RESOURCES, RESULTS)

METHOD = Several(Choice(known.methods, broken=known.broken_methods), unwrapped=True)
MODEL = r"^(timm:\w[\w.-]*|[\w-]+(:\d*\.?\d+(/[1-9]\d*)?)?)$"
CONSTRAINT = Text(rf"^\s*({'|'.join(BOUNDED)})\s*(>=|<=)\s*{NUMBER}\s*$", parsed_later=True)
SMOOTHING = Text(r"^cvar:(0?\.\d*[1-9]\d*|1(\.0*)?|[1-9]\d*/[1-9]\d*)$", parsed_later=True)
EXTRA = r"^(none|parquet:(?!.*://).+)$"
SPLIT_NAME = r"^\w[\w.-]*$"
OWNER = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
STUDY_DATABASE = "^(sqlite:|postgresql|mysql)"
FORMER = "former"  # recipe of a search stored before there were recipes: common, with the milestones of then
NO_FRONT = "handles one objective only and this tool searches fronts"


def check_split_name(name: str) -> None:
    if not re.match(SPLIT_NAME, name):
        raise UsageError(f"--test-split {name!r} is not allowed; it takes the name of a split, such as validation")


def check_owner(name: str) -> None:
    if not re.fullmatch(OWNER, name):
        raise UsageError(
            f"--owner {name!r} is not allowed; it takes 1 to 63 of letters, digits, '_', '.', '-', starting with a "
            "letter or digit"
        )


def check_extra(text: str) -> None:
    if not re.match(EXTRA, text):
        raise UsageError(
            f"--extra-data {masked(text)!r} is not allowed; it takes none or parquet:DIR, a folder that all nodes see"
        )


def check_threat(text: str) -> None:
    try:
        parse_threat(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _public(flag: str, instead: str) -> Callable[[str], None]:
    """A check that a URL holds no password, key or token: a spec is kept and logged."""

    def check(value: str) -> None:
        try:
            check_public(flag, value, instead)
        except ValueError as error:
            raise UsageError(str(error)) from None

    return check


def check_study_storage(url: str) -> None:
    if url and not re.match(STUDY_DATABASE, url):
        raise UsageError(
            f"--study-storage {masked(url)!r} is not allowed; it takes sqlite:///FILE, postgresql://... or mysql://..."
        )
    _public("--study-storage", "give it in the environment (PGPASSWORD, ~/.pgpass, MySQL's ~/.my.cnf)")(url)


@dataclass(frozen=True)
class SearchFields:
    """What a search is asked for. Each field is checked by its kind, which raises ``UsageError``.

    What changes how a search runs but not its trials is ``hashed=False``. ``seeds`` too: seeds asked for later are
    added to what is there.
    """

    # fmt: off
    # Each field: default, kind and panel, then its sentence, then what is special about it.

    method: str | tuple[str, ...] = option("srat", METHOD, TRAINED,
        "Method to search; `tuner methods` lists them. Repeat the option for several methods that share the budget.")
    dataset: str = option("digits", Text(known.dataset_pattern, _public("--dataset", SIGN_IN), known.datasets), TRAINED,
        "Images: {names}.")
    imbalance: str = option("exp:10", Text(r"^(none|(exp|step):[1-9]\d*(\.\d*)?(/[1-9]\d*)?(:all)?)$"), TRAINED,
        "How the training images are thinned: none, exp:K or step:K, where K is the largest class over the smallest. "
        "exp:K:all keeps all of the largest, as the published long-tailed sets do: val then judges it by images that "
        "train.")
    val_per_class: int = option(300, Whole(0, 10**9), TRAINED,
        "Number of images of a class that judge at most; training leaves them over. 0 sets no limit and lets equally "
        "many images of each class judge where data are thinned.", before=0)
    val_fraction: float = option(0.2, Share(), TRAINED,
        "Fraction of a class, of thinned data of the smallest class, that is kept from training to judge.", before=0.2)
    image_size: int = option(0, Whole(0), TRAINED,
        "Pixels of a side to which images of your own (parquet:, folder:) are resized; 0 leaves them as they are and "
        "takes 32 where they differ.", before=0)
    test_split: str = option("test", Text(SPLIT_NAME, check_split_name), TRAINED,
        "Which split of images of your own counts as test, such as validation; only verify opens it.", before="test")
    groups: str = option("auto", Choice(known.groups), TRAINED,
        "Which images of your own stay together, in training or in judging, and count as one in intervals: auto those "
        "of one track, where the file names are the numbers CLASS/TRACK_FRAME; none takes every image on its own.",
        before="auto")
    extra_data: str = option("none", Text(EXTRA, check_extra), TRAINED,
        "parquet:DIR of more images to train on, such as generated ones, in a folder that all nodes see. Their labels "
        "are matched by name, and they judge nothing.", before="none")
    extra_ratio: float = option(0.3, Share(), TRAINED,
        "Fraction of a batch that the images of --extra-data have; an epoch stays as long as it is without them.",
        before=0.3)
    model: str = option("cnn", Text(MODEL, examples=known.models), TRAINED,
        "Network: {names}, another size of a WideResNet (wrn-D-W), one of torchvision's by its name, or timm:NAME. A "
        "suffix such as ':0.5' scales the width.")
    threat: str = option(LINF, Text(threat_pattern, check_threat), TRAINED,
        "What an attack may do, in training, evaluation and verify: linf:8/255 changes every pixel by so much, of a "
        "pixel range of 1; l2:0.5 moves the image by that Euclidean distance. linf alone takes the radius of the data "
        "set, or of --set eps.", before=LINF)
    init: str = option("none", Text(), TRAINED,
        "Weights with which all trials begin: a FILE with a state dict as authors publish it, export:DIR or "
        "SEARCH:TRIAL; none takes random ones.", before="none")
    set: dict[str, Any] = option({}, Pairs(known.training), TRAINED,
        "KEY=VALUE changes a training setting that all methods share. Repeat the option for several.")
    recipe: str = option("common", Choice(known.recipes, hidden=(FORMER,)), TRAINED,
        "Training settings under --set: common to all methods, which compares them, or paper, each method's from its "
        "authors' code. `tuner space METHOD` shows them.", before=FORMER)
    burn_in: str = option("stem", Choice(known.burn_ins), TRAINED,
        "The epochs before a trial reweights: stem takes them from the plain base, trained once for all trials; own "
        "lets every trial train them as its method does.", before="own")
    seed: int = option(0, Whole(0, 2**32 - 1), TRAINED,
        "Seed of the data split, the training and the sampler.")
    offsets: str = option("auto", Choice(known.offsets), TRAINED,
        "Post-hoc class offsets over which each trained model is judged: {names}. auto takes prior where training "
        "images are imbalanced, else classes.", before="none")

    objectives: tuple[str, ...] = option((NATURAL, WORST), Several(Choice(known.metrics)), SEARCHED,
        "Metric to maximise. Repeat the option for several objectives.", flag="objective")
    constraint: tuple[str, ...] = option((), Several(CONSTRAINT, required=False), SEARCHED,
        "METRIC>=VALUE or METRIC<=VALUE that the front must satisfy, such as clean_acc>=0.8. Repeat the option for "
        "several.")
    fix: dict[str, Any] = option({}, Pairs(known.parameters), SEARCHED,
        "KEY=VALUE takes a hyperparameter out of the search. Repeat the option for several.")
    space: dict[str, Any] = option({}, Pairs(known.parameters, from_file=True), SEARCHED,
        "YAML file of ranges that narrow or replace what is searched.")

    trials: int = option(16, Whole(1), BUDGET,
        "Number of trials.")
    max_epochs: int = option(12, Whole(1), BUDGET,
        "Number of epochs of a trial that runs to its end.")
    time_budget: float | None = option(None, Positive(1e8), BUDGET,
        "Seconds after which the search ends.", hashed=False, unset="no limit")
    budget: str | None = option(None, Text(PATTERN, Budget.of), BUDGET,
        "What the search may cost: 40epochs that are trained, 6gpu-h, or 30min or 2h on the clock. It ends before a "
        "training that would exceed it.", hashed=False, unset="no limit")
    until_flat: int | None = option(None, Whole(1), BUDGET,
        "Number of trainings in full in a row after which the search ends if they have not moved the front beyond its "
        "interval.", hashed=False, unset="never")
    seeds: int = option(1, Whole(1), BUDGET,
        "Number of seeds, the first included, with which members of the front are trained; the front is then drawn on "
        "means.", hashed=False)
    stems: int = option(1, Whole(1, 1000), BUDGET,
        "Number of seeds under which trials are trained in turn, each with a stem of its own: what luck a stem has is "
        "then not that of all trials. A method that varies nothing is trained once under each.", before=1)

    sampler: str = option("auto", Choice(known.samplers, refused=(("cmaes", NO_FRONT),)), STOPPING,
        "What proposes settings: {names}; auto is TPE.")
    smooth_worst: str | None = option(None, SMOOTHING, STOPPING,
        "cvar:0.2 shows sampler and scheduler the mean of the worst 20 % of the classes in place of the worst class.")
    warm_start: str | None = option(None, Text(), STOPPING,
        "Name of an earlier search; the sampler also learns from its trials that ran to their end. Of another method, "
        "the best are tried first, translated.")
    scheduler: str | None = option(None, Choice(known.schedulers), STOPPING,
        "Which proposals train in full: preview tries all of them in a few epochs and trains the best in full, none "
        "trains all of them.", unset="preview where that halves what the proposals train", before="none")

    max_concurrent: int | None = option(None, Whole(1), RESOURCES,
        "Number of trials that run at a time.", hashed=False, unset="as many as fit")
    cpus_per_trial: float = option(1.0, Positive(), RESOURCES,
        "CPUs of one trial.", hashed=False)
    gpus_per_trial: float | str = option(0.0, Gpus(), RESOURCES,
        "GPUs of one trial, also a fraction of one; auto measures at the start how many trials share a GPU. A trial of "
        "several trains data-parallel, on one node.",
        hashed=False)
    processes_per_trial: int = option(1, Whole(1), RESOURCES,
        "Processes that train one trial together on CPUs, each its share of every batch; on GPUs there is one for each "
        "of the trial's.", hashed=False)
    accelerator: str | None = option(None, Text(), RESOURCES,
        "Kind of GPU as Ray calls it, such as H200, A100 or L4.", hashed=False, unset="any")
    max_failures: int = option(2, Whole(0), RESOURCES,
        "Number of errors of its own after which a trial is given up; a lost node does not count.", hashed=False)

    owner: str | None = option(None, Text(OWNER, check_owner), RESOURCES,
        "Whose search it is. Where a cluster has the resource owner:NAME, no more trials of NAME's searches run at a "
        "time.", hashed=False, unset="the user's name")
    priority: str = option("normal", Choice(known.priorities), RESOURCES,
        "How urgent it is: {names}. Where a cluster has the resource priority:NAME, no more trials of that priority "
        "run at a time.", hashed=False)

    name: str | None = option(None, Text(f"^{SEARCH_NAME.pattern}$", check_name), RESULTS,
        "Name of the search.", hashed=False, unset="METHOD-DATASET-HASH")
    experiment: str | None = option(None, Text(), RESULTS,
        "MLflow experiment in which the search is recorded.", hashed=False, unset="DATASET-IMBALANCE-MODEL")
    storage: str | None = option(None, Text(parse=_public("--storage", SIGN_IN)), RESULTS,
        "Folder that all nodes share, or s3://, gs://...: data, stems, checkpoints and results are kept there.",
        hashed=False, unset="TUNER_STORAGE, else the home folder")
    study_storage: str | None = option(None, Text(STUDY_DATABASE, check_study_storage), RESULTS,
        "Database of the Optuna study, such as sqlite:///FILE, postgresql://HOST/NAME or mysql://HOST/NAME.",
        hashed=False, unset="study.log in the search's folder")

    # fmt: on

    def __post_init__(self):
        """Keep each value as its kind wants it, or raise ``UsageError`` with the value and what is allowed."""
        for name, asked in options_of(type(self)).items():
            value = getattr(self, name)
            if value is not None or asked.default is not None:
                object.__setattr__(self, name, asked.kind.check(asked, value))
