"""The names that a search may ask for, looked up where they are defined when they are needed.

The imports stand inside the functions: the fields of a search refer to these functions, and `tuner --help` reads the
fields without importing Optuna, NumPy or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search_spaces.param import Param


def samplers() -> Iterable[str]:
    from tuner.spec.samplers import SAMPLERS

    return tuple(SAMPLERS)


def schedulers() -> Iterable[str]:
    from tuner.spec.schedulers import SCHEDULERS

    return tuple(SCHEDULERS)


def priorities() -> Iterable[str]:
    """How urgent a search is, beside others of the same cluster."""
    return ("low", "normal", "high")


def burn_ins() -> Iterable[str]:
    """Where the epochs before the reweighting come from."""
    return ("stem", "own")


def offsets() -> Iterable[str]:
    """Over what kinds of post-hoc class offsets a trained model is judged."""
    from trainables.offsets import KINDS

    return ("auto", *KINDS)


def metrics() -> Iterable[str]:
    """The metrics that may be objectives."""
    from tuner.spec.objectives import METRICS

    return METRICS


def methods() -> Iterable[str]:
    from search_spaces import METHODS

    return tuple(METHODS)


def broken_methods() -> Mapping[str, str]:
    """The methods of other packages that cannot be used, with the sentence that says why."""
    from search_spaces import METHODS

    return METHODS.problems


def datasets() -> Iterable[str]:
    """The datasets that have a name, and ``KIND:DIR`` for files of the user's own."""
    from trainables.datasets import dataset_names

    return dataset_names()


def dataset_pattern() -> str:
    """What a dataset's name looks like, as a regular expression."""
    named = [name for name in datasets() if ":" not in name]
    kinds = [name.removesuffix("DIR") for name in datasets() if ":" in name]
    return f"^(({'|'.join(named)})$|({'|'.join(kinds)}).)"


def groups() -> Iterable[str]:
    """By what images stay together in training or in judging."""
    from trainables.data.spec import GROUPS

    return GROUPS


def models() -> Iterable[str]:
    """The models that this project builds itself; torchvision's are allowed too."""
    from trainables.models.names import MODELS

    return tuple(MODELS)


def recipes() -> Iterable[str]:
    """Whose training settings trials have: those common to all methods, or each method's paper's."""
    return ("common", "paper")


def training() -> dict[str, Param]:
    """The training settings that all methods share."""
    from search_spaces.param import params_of
    from search_spaces.training import Training

    return params_of(Training)


def hyperparameters(method: str) -> dict[str, Param]:
    """The hyperparameters of a method."""
    from search_spaces import method_space
    from search_spaces.param import params_of

    return params_of(method_space(method).Params)


def parameters() -> Iterable[str]:
    """The names of all that can be fixed or searched: of the hyperparameters of any method, and of the training."""
    return dict.fromkeys(name for of in (*map(hyperparameters, methods()), training()) for name in of)
