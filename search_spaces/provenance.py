"""What a method's first trial may be called: the paper's setting only where its values are published."""

from __future__ import annotations

from typing import Any

from search_spaces import method_space
from search_spaces.param import PUBLISHED, Param, params_of
from search_spaces.resolve import resolve

PAPER = "the paper's setting"


def paper_label(method: str, values: dict[str, Any] | None = None) -> str:
    """What to call a setting of ``method``, by default its defaults: ``the paper's setting`` where every value counted
    by `published` is published, else ``the default setting (3 of 6 values published)``.

    It speaks of the method's own parameters, not of the training recipe. ``ValueError`` for an unknown method.
    """
    found, total = published(method, values)
    return PAPER if found == total else f"the default setting ({found} of {total} values published)"


def legend_label(label: str) -> str:
    """A `paper_label` without its count, for legends."""
    return label.partition(" (")[0]


def published(method: str, values: dict[str, Any] | None = None) -> tuple[int, int]:
    """(how many values are published, of how many) in a setting of ``method``; names of other parameters are ignored.

    Counted are the active parameters that a search varies, all active ones if it varies none, and any other that does
    not have its default. A value is published if its source is the paper or the authors' code and it is the default
    beside the others, or a choice for which the paper sets defaults of its own (``form=trades`` of mail).
    """
    params = params_of(method_space(method).Params)
    given = resolve(method, {}) if values is None else {name: values[name] for name in params if name in values}
    own = {name: given[name] == params[name].default_beside(given) for name in given}
    searched = [name for name in given if params[name].searched] or list(given)
    counted = [name for name in given if name in searched or not own[name]]
    found = [n for n in counted if params[n].source in PUBLISHED and (own[n] or _published_choice(params, n, given[n]))]
    return len(found), len(counted)


def _published_choice(params: dict[str, Param], name: str, value: Any) -> bool:
    return any(value in param.by.get(name, {}) for param in params.values())
