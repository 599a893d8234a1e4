"""What may vary: one file per method with its hyperparameters, and the table of all methods.

How to add a method
-------------------
Two files of the same name and a row in the test table; nothing else names the method:

1. ``search_spaces/NAME.py`` holds ``PAPER``, ``SUMMARY`` and the frozen dataclass ``Params``, in which each
   hyperparameter is one line: default, range, meaning and the source of the default (see
   `search_spaces.param`). Where the authors' training settings are known, ``RECIPE`` holds those that differ from the
   common ones, and ``EPOCHS`` how long they train; where they begin with a trained model, ``FINE_TUNING`` holds the
   method's own parameters that are then another value. It imports neither torch nor ray. A method that has a parameter
   ``start`` acts from that fraction of the epochs on; before, a trial takes its epochs from the stem, which is plain AT.
   ``PRIOR_IN_LOSS``, where there is one, says in words how the loss holds the classes' frequencies, which matters where
   post-hoc offsets are added. ``LINF_ONLY`` names values of parameters that mean nothing under another threat model
   than L-infinity, and ``STEM`` what its stem is where that is not plain AT with a linear head. Every file of this
   package is a method, but for those in `search_spaces.registry.HELPERS`.
2. ``trainables/methods/NAME.py`` holds the equation: pure functions, and a subclass of `trainables.method.Method` whose
   class attribute ``name`` is NAME. Only ``forward`` is required.
3. A ``Case("NAME")`` in ``tests/test_methods.py`` runs the tests that every method passes.

How to add a method without changing this project
-------------------------------------------------
Another installed package offers it by an entry point of the group ``tuner.methods``. In its ``pyproject.toml``::

    [project.entry-points."tuner.methods"]
    NAME = "package.space"

The entry point's name is the method's. Its value is a module, or an object in one (``"package.module:object"``), with
``PAPER``, ``SUMMARY`` and ``Params`` as above and one more line::

    METHOD = "package.equation"

the module with the `trainables.method.Method` subclass whose ``name`` is NAME. It is a string because torch is loaded
only where something is trained; the module of the space must not import torch, or `tuner methods` gets slow. The
name of a built-in method is refused, and so is a name that two packages offer. A plug-in that cannot be used is named
in one sentence by `tuner methods` (``METHODS.problems``) and wherever it is asked for; all others work. How plug-ins
are found, and the groups of data sets and models: `search_spaces.plug_ins`.
"""

from collections.abc import Mapping
from typing import Any

from search_spaces.plug_ins import Table
from search_spaces.registry import Files, MethodSpace, check_plug_in

METHODS: Table[MethodSpace] = Table(
    "method", "tuner.methods", Files(__name__, __path__), check_plug_in, lambda space: (space.METHOD,)
)


def method_space(name: str) -> MethodSpace:
    """The module with a method's ``Params``, ``PAPER`` and ``SUMMARY``.

    ``ValueError`` in one sentence for an unknown name (with the known ones) and for a plug-in that cannot be used.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise ValueError(f"unknown method {name!r}; choose one of: {', '.join(sorted(METHODS))}") from None


def recipe_of(name: str, form: str | None = None) -> dict[str, Any]:
    """The training settings of the authors' code (``--recipe paper``), by the names of `Training`; empty: unknown.

    ``form``: with what their code sets for this form of the method alone (``RECIPE_OF_FORM``).
    """
    space = method_space(name)
    return {**getattr(space, "RECIPE", {}), **getattr(space, "RECIPE_OF_FORM", {}).get(form, {})}


def linf_only(name: str) -> dict[str, tuple[Any, ...]]:
    """The values of parameters that mean nothing under another threat model than L-infinity (``LINF_ONLY``)."""
    return getattr(method_space(name), "LINF_ONLY", {})


# Parameters by which trials of one method may fork from different stems: the form of the loss, and for what `STEM` says
# that losses on `val` are measured.
STEM_PARAMS = ("form", "class_weight")


def measures_val_losses(name: str, params: Mapping[str, Any]) -> bool:
    """Whether a training with these parameters measures losses on `val` (``STEM``); then its stem does so too."""
    found = getattr(method_space(name), "STEM", {}).get("val_losses", False)
    return found if isinstance(found, bool) else all(params.get(key) in values for key, values in found.items())


def head_of(name: str) -> str:
    """The head of a method's model, linear or cosine (``STEM``)."""
    return getattr(method_space(name), "STEM", {}).get("head", "linear")


def base_of(name: str) -> str | None:
    """The plain base of a method that does not choose one by a parameter: at, trades or mart (``STEM``). None for a
    plug-in that does not say: its class does, which loads torch."""
    return getattr(method_space(name), "STEM", {}).get("form", None if METHODS.plug_in(name) else "at")


def epochs_of(name: str) -> int | None:
    """How many epochs the authors' code trains; None: unknown."""
    return getattr(method_space(name), "EPOCHS", None)
