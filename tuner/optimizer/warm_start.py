"""Warm start: what a new search takes over from an earlier one.

From one of the same method, over the same space, the model learns: the values mean the same. From one of another method
it cannot learn; there the best trials, translated through the coordinates that both search, are the first points.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search_spaces import method_space
from search_spaces.param import coerce, params_of
from search_spaces.resolve import resolve
from search_spaces.training import Training
from trainables.reading import LOG_BYTES, Damaged, read_bytes, read_json, shaped
from trainables.schedule import drop_epochs
from tuner.errors import Failed, UsageError
from tuner.files import write_atomically
from tuner.home import Home
from tuner.optimizer.observations import Worth
from tuner.optimizer.translation import coordinates, searched_coordinates, shareable, translate
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.samplers import SAMPLERS
from tuner.spec.search_spec import SearchSpec

POINTS = 3  # first points of a method that may come from another's search; the rest say what that one did not see
# The fields that must agree for what was good in the earlier search to say something here.
_SAME = (
    *("dataset", "image_size", "groups", "imbalance", "val_fraction", "val_per_class"),
    *("model", "init", "extra_data", "extra_ratio", "max_epochs", "burn_in", "offsets"),
)


@dataclass(frozen=True)
class FirstPoints:
    """What one method takes over from the search ``earlier`` of others: the ``settings`` to try after the default one,
    the ``methods`` whose trials they were, and the ``coordinates`` that they hold. Without settings, ``methods`` are
    those that share a coordinate."""

    earlier: str
    methods: list[str]
    coordinates: list[str]
    settings: list[dict[str, Any]]

    def __str__(self) -> str:
        """One line for the user."""
        of, count = f"{self.earlier} ({', '.join(self.methods)})", len(self.settings)
        if not self.methods:
            return f"warm start: nothing, {self.earlier} shares no searched coordinate"
        if not count:
            return f"warm start: nothing, the best trials of {of} stand at the default setting"
        points = f"{count} first point{'s' * (count > 1)}"
        return f"warm start: {points} from the best trials of {of}: {', '.join(self.coordinates)}"


def check_warm(spec: SearchSpec, home: Home) -> None:
    """``UsageError`` in one sentence where the earlier search is unknown, or says nothing about this one; ``Failed``
    where what was taken over is damaged.

    Once that is kept with this search, the earlier one is not read any more: it may be gone.
    """
    folder = home.search(spec.search_name)
    if _points(folder).exists():
        _read_points(spec, folder)
    elif spec.warm_start and not _trials(folder).exists():
        if why := next(_objections(spec, spec.warm_start, home), None):
            raise UsageError(f"--warm-start {spec.warm_start!r} {why}")


def _objections(spec: SearchSpec, name: str, home: Home) -> Iterator[str]:
    """Why the earlier search, of that name, says nothing about this one."""
    if not SAMPLERS[spec.sampler].warm_starts:
        able = ", ".join(name for name, row in SAMPLERS.items() if row.warm_starts)
        yield f"has no effect with --sampler {spec.sampler}; choose one of: {able}"
    earlier = load_search(home, name)
    theirs = earlier.spec
    if differs := _differing(_judged(spec, theirs)):
        yield f"does not fit this search: {differs}"
    yield from _unlike(spec, theirs) if theirs.method == spec.method else _unrelated(spec, theirs)
    ended = [t for t in earlier.history.trials.values() if t.preview or t.state == TrialState.FINISHED]
    if unknown := _unrecorded(spec.objectives, ended):
        yield f"did not record {', '.join(unknown)}, an objective here"
    if not any(map(Worth.of(spec), ended)):
        yield "has no finished trial to learn from"


def _unrecorded(objectives: Sequence[str], ended: Sequence[TrialRecord]) -> list[str]:
    """The objectives that none of the trials has, where there are any: an earlier version did not know the metric."""
    metrics = [t.preview.metrics if t.preview else t.last for t in ended]
    return [name for name in objectives if metrics and all(name not in found for found in metrics)]


def _judged(spec: SearchSpec, theirs: SearchSpec) -> dict[str, tuple[Any, Any]]:
    """By name, what there and here decides what a value means."""
    pairs = {name: (getattr(theirs, name), getattr(spec, name)) for name in _SAME}
    if theirs.threat_model.name != spec.threat_model.name:
        pairs["threat"] = theirs.threat, spec.threat
    if theirs.scheduling.previewing != spec.scheduling.previewing:
        pairs["scheduler"] = theirs.scheduling.name, spec.scheduling.name
    return pairs


def _unlike(spec: SearchSpec, theirs: SearchSpec) -> Iterator[str]:
    """Why nothing can be learnt from a search of the same method."""
    there, here = theirs.shown_space(), spec.shown_space()
    if set(there.searched) != set(here.searched):
        yield f"searches another space: {', '.join(there.searched)} there, {', '.join(here.searched)} here"
    if there.fixed != here.fixed:
        yield f"has other parameters fixed: {there.fixed} there, {here.fixed} here"
    if differs := _differing(_training(spec, theirs)):
        yield f"was trained otherwise: {differs}"


def _unrelated(spec: SearchSpec, theirs: SearchSpec) -> Iterator[str]:
    """Why nothing can be taken over from a search of another method, whose recipe may be another; the radius may
    not."""
    if differs := _differing({"eps": (theirs.lanes[0].training().eps, spec.lanes[0].training().eps)}):
        yield f"was trained otherwise: {differs}"
    if not any(_sharing(lane, theirs) for lane in spec.lanes):
        there, here = ("; ".join(map(_own_coordinates, found.lanes)) for found in (theirs, spec))
        yield f"shares no searched coordinate with this search: {there} there; {here} here"


def _differing(pairs: Mapping[str, tuple[Any, Any]]) -> str:
    """``lr 0.1 there, 0.2 here; ...``; ``pairs``: by name, the values there and here."""
    found = (f"{name} {there!r} there, {here!r} here" for name, (there, here) in pairs.items() if there != here)
    return "; ".join(found)


def _own_coordinates(lane: SearchSpec) -> str:
    """``done has start``"""
    return f"{lane.method} has {', '.join(shareable(searched_coordinates(lane))) or 'none'}"


def _sharing(lane: SearchSpec, theirs: SearchSpec) -> dict[str, SearchSpec]:
    """Of the earlier search's methods, those that search a coordinate which this one searches too."""
    here = {*searched_coordinates(lane)}
    return {own.methods[0]: own for own in theirs.lanes if here & {*searched_coordinates(own)}}


def _training(spec: SearchSpec, theirs: SearchSpec) -> dict[str, tuple[Any, Any]]:
    """By name, the training settings there and here that differ, by --set, --recipe, or the defaults of another
    version."""
    found = dict[str, tuple[Any, Any]]()
    for there, here in zip(theirs.lanes, spec.lanes):
        others, ours = asdict(there.training()), asdict(here.training())
        if drop_epochs(others["milestones"], spec.max_epochs) == drop_epochs(ours["milestones"], spec.max_epochs):
            others["milestones"] = ours["milestones"]
        found |= {name: (others[name], ours[name]) for name in ours if others[name] != ours[name]}
    return found


def warm_trials(spec: SearchSpec, home: Home, folder: Path) -> list[TrialRecord]:
    """The trials of an earlier search of the same method, as they were when this search first started; kept in
    ``folder``."""
    if not spec.warm_start or _points(folder).exists():
        return []
    kept = _trials(folder)
    if not kept.exists():
        if load_search(home, spec.warm_start).spec.method != spec.method:
            return []
        write_atomically(kept, read_bytes(home.search(spec.warm_start) / "history.jsonl", LOG_BYTES))
    return list(History(kept.parent).trials.values())


def warm_points(spec: SearchSpec, home: Home, folder: Path, counts: Sequence[int]) -> dict[str, FirstPoints]:
    """Of an earlier search of another method, what each of this search's methods tries first, as it was decided when
    this search first started; kept in ``folder``. ``counts``: training images of each class."""
    if not spec.warm_start:
        return {}
    if not _points(folder).exists():
        if _trials(folder).exists():
            return {}
        earlier = load_search(home, spec.warm_start)
        if earlier.spec.method == spec.method:
            return {}
        made = {lane.methods[0]: asdict(_first_points(lane, earlier, counts)) for lane in spec.lanes}
        write_atomically(_points(folder), json.dumps(made))
    return _read_points(spec, folder)


def _first_points(lane: SearchSpec, earlier: SearchRun, counts: Sequence[int]) -> FirstPoints:
    sharing, default = _sharing(lane, earlier.spec), lane.search_space().default()
    settings, methods, taken = list[dict[str, Any]](), list[str](), list[str]()
    for record in _best_half(Worth.of(lane), [t for t in earlier.history.trials.values() if t.method in sharing]):
        found = coordinates(sharing[record.method], record.params, counts)
        params, names = translate(found, lane, counts)
        if len(settings) < POINTS and params != default and params not in settings:
            settings.append(params)
            methods.append(record.method)
            taken += names
    unique = dict.fromkeys
    return FirstPoints(earlier.name, [*unique(methods or sharing)], [*unique(taken)], settings)


def _best_half(worth: Worth, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The better half of the trials that have a value, best first; of equal ones the earlier."""
    valued = [(value, record) for record in records if (value := worth(record))]
    valued.sort(key=lambda found: (sum(max(v, 0.0) for v in found[0].violations.values()), -found[0].product))
    return [record for _, record in valued[: -(-len(valued) // 2)]]


def _read_points(spec: SearchSpec, folder: Path) -> dict[str, FirstPoints]:
    """``Failed`` where the file is damaged, or was changed by hand into what the method does not take."""
    path = _points(folder)
    shape = {"earlier": str, "methods": [str], "coordinates": [str], "settings": [dict]}
    try:
        kept = read_json(path)
        if not shaped(kept, {method: shape for method in spec.methods}):
            raise Damaged(f"{str(path)!r} holds no first points of {spec.method_names}")
        return {
            method: FirstPoints(**{**kept[method], "settings": [_sound(method, s) for s in kept[method]["settings"]]})
            for method in spec.methods
        }
    except (ValueError, TypeError, KeyError) as error:
        raise Failed(f"the warm start of search {spec.search_name!r} cannot be read: {error}") from None


def _sound(method: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    """A setting that the method takes, with what it lacks at its default: a parameter that came later."""
    own, common = params_of(method_space(method).Params), params_of(Training)
    others = {name: coerce(common[name], value) for name, value in setting.items() if name not in own}
    return resolve(method, {name: value for name, value in setting.items() if name in own}) | others


def _trials(folder: Path) -> Path:
    return folder / "warm-start" / "history.jsonl"


def _points(folder: Path) -> Path:
    return folder / "warm-start" / "points.json"
