"""How a hyperparameter is written down: its default, its range, its meaning and its source on one line.

    @dataclass(frozen=True)
    class Params:
        slope: float = param(10.0, loguniform(1.0, 50.0), "sharpness of the weight curve", source="code")

Help texts, README tables, search spaces and the validation of user input are all derived from these lines.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces.coordinates import ActsAs
from search_spaces.number import number

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution

# Where a default was read: in the method's paper, in its authors' public code, or only in what others say or what is
# remembered of it. Everything else is ours: our own choice, or a value of other methods.
Source = Literal["paper", "code", "second-hand", "ours"]
SOURCES: tuple[Source, ...] = get_args(Source)
PUBLISHED: tuple[Source, ...] = ("paper", "code")


class FractionsDistribution(CategoricalDistribution):
    """Its choices, or any list of increasing numbers between 0 and 1, kept as text such as ``0.6,0.9``."""

    def list_of(self, value: Any) -> str:
        """A list, a number or text as that text; ``ValueError`` if it is no such list."""
        parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
        numbers = [number(part) for part in parts]
        if not numbers or not all(a < b for a, b in zip([0.0, *numbers], [*numbers, 1.0])):
            raise ValueError(value)
        return ",".join(f"{share:.10g}" for share in numbers)


def uniform(low: float, high: float) -> FloatDistribution:
    """Numbers from ``low`` to ``high``, both included."""
    return FloatDistribution(low, high)


def loguniform(low: float, high: float) -> FloatDistribution:
    """The same on a logarithmic scale; ``low`` above 0."""
    return FloatDistribution(low, high, log=True)


def integer(low: int, high: int, *, log: bool = False) -> IntDistribution:
    """Whole numbers from ``low`` to ``high``, both included."""
    return IntDistribution(low, high, log=log)


def choice(*values: Any) -> CategoricalDistribution:
    """One of ``values``, which have no order."""
    return CategoricalDistribution(values)


def fractions(*words: str) -> FractionsDistribution:
    """One of ``words``, or increasing fractions of the training such as ``0.6,0.9``."""
    return FractionsDistribution(words)


def param(default: Any, range_: Distribution, doc: str, *, source: Source = "ours",
          when: dict[str, tuple] | None = None, by: dict[str, dict[Any, Any]] | None = None, searched: bool = True,
          acts_as: str | ActsAs | None = None) -> Any:
    """A dataclass field that carries its own search range; ``doc`` is its meaning.

    ``source``: where the default was read, see `Source`. Every line of this project says it.
    ``when={"loss": ("ldam",)}``: the parameter exists only while ``loss`` has one of these values.
    ``by={"form": {"trades": 2.0}}``: the default where ``form`` is ``trades``, if papers set it by form.
    ``searched=False``: a search leaves it at its default unless a space file names it.
    ``acts_as="KL weight"``: its coordinate, where methods share one, see `search_spaces.coordinates`.
    """
    return dataclasses.field(default=default, metadata={
        "range": range_, "doc": doc, "source": source, "when": when or {}, "by": by or {}, "searched": searched,
        "acts_as": ActsAs(acts_as) if isinstance(acts_as, str) else acts_as})


@dataclass(frozen=True)
class Param:
    """One hyperparameter as read back from a ``Params`` dataclass."""

    name: str
    default: Any
    range: Distribution
    doc: str
    when: dict[str, tuple]
    searched: bool
    by: dict[str, dict[Any, Any]] = dataclasses.field(default_factory=dict)
    source: Source = "ours"  # of the defaults
    acts_as: ActsAs | None = None

    def active(self, values: dict[str, Any]) -> bool:
        """Whether the parameter exists beside these values of the others."""
        return all(values.get(name) in allowed for name, allowed in self.when.items())

    def default_beside(self, values: dict[str, Any]) -> Any:
        """The default beside these values of the others."""
        for name, defaults in self.by.items():
            if values.get(name) in defaults:
                return defaults[values[name]]
        return self.default


def params_of(cls: type) -> dict[str, Param]:
    """The hyperparameters of a ``Params`` dataclass in the order of their lines.

    A condition always names an earlier line, so one pass in this order can decide what is active.
    """
    return dict(_params_of(cls))


@cache
def _params_of(cls: type) -> dict[str, Param]:
    return {f.name: Param(f.name, f.default, **f.metadata) for f in dataclasses.fields(cls)}


def describe(dist: Distribution) -> str:
    """A range in words: ``[0.1, 10] log``, ``[1, 5] integer`` or ``ce | focal | ldam``."""
    if isinstance(dist, CategoricalDistribution):
        lists = ["increasing fractions such as 0.6,0.9"] if isinstance(dist, FractionsDistribution) else []
        return " | ".join([*map(str, dist.choices), *lists])
    kind = " integer" if isinstance(dist, IntDistribution) else ""
    step = f" step {dist.step:g}" if dist.step not in (None, 1) else ""
    return f"[{dist.low:g}, {dist.high:g}]{kind}{step}{' log' if dist.log else ''}"


def coerce(param: Param, value: Any) -> Any:
    """``value`` as the parameter's own type, or ``ValueError`` naming the value and what is allowed."""
    dist = param.range
    problem = ValueError(f"{param.name}={value!r} is not allowed; {param.name} takes {describe(dist)}")
    if isinstance(dist, CategoricalDistribution):
        return _coerce_choice(dist, value, problem)
    try:
        given = number(value)
    except ValueError:
        raise problem from None
    if not dist.low <= given <= dist.high:
        raise problem
    if isinstance(dist, IntDistribution):
        if given != int(given):
            raise problem
        return int(given)
    return given


def _coerce_choice(dist: CategoricalDistribution, value: Any, problem: ValueError) -> Any:
    words = {str(value).lower(), *(["on" if value else "off"] if isinstance(value, bool) else [])}  # YAML's booleans
    for allowed in dist.choices:
        if str(allowed).lower() in words:
            return allowed
    if not isinstance(dist, FractionsDistribution):
        raise problem
    try:
        return dist.list_of(value)
    except (TypeError, ValueError):
        raise problem from None
