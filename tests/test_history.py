"""The log of a search after its writer was killed, and what earlier versions wrote."""

import json
import random
import struct
import time

import pytest

from trainables.reading import parse_json
from tuner.errors import Failed
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.results.history import History
from tuner.results.searches import load_search
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec

START = '{"event": "start", "trial": 1, "time": 1.0, "params": {}, "method": "at"}'


@pytest.mark.parametrize(
    "torn, kept", [(START[:50], 1), ('{"event": "epo', 1), (START, 2)], ids=["start", "epoch", "all but the newline"]
)
def test_what_follows_half_a_line_stands_on_a_line_of_its_own(tmp_path, torn, kept):
    history = History(tmp_path)
    history.append("start", 0, params={}, method="at")
    with open(history.path, "a") as file:
        file.write(torn)
    resumed = History(tmp_path)
    assert len(resumed.trials) == kept
    for number in (1, 2):
        resumed.append("start", number, params={}, method="at")
        resumed.append("epoch", number, metrics={"epoch": 1})
    again = History(tmp_path)
    assert list(again.trials) == [0, 1, 2] and [len(t.epochs) for t in again.trials.values()] == [0, 1, 1]
    lines = history.path.read_text().splitlines()
    assert lines[1] == torn and len(lines) == 6 and all(json.loads(line) for line in lines[2:])


@pytest.mark.parametrize("line", ["[]", "3", "{}", '{"event": "epoch", "trial": 7, "metrics": {"epoch": 1}}'])
def test_a_line_that_is_no_event_is_named(tmp_path, line):
    history = History(tmp_path)
    history.append("start", 0, params={}, method="at")
    history.path.write_text(history.path.read_text() + line + "\n")
    with pytest.raises(Failed, match="line 2 of .*history.jsonl is no event of a search"):
        History(tmp_path)


# ---- earlier versions ------------------------------------------------------------------------------------------------

# Two epochs of the trunk trained, left after the second; a trial that waits at a rung.
EARLIER = """
{"event": "start", "trial": 0, "time": 1.0, "params": {"beta": 6.0}, "method": "trades", "seed": 0}
{"event": "trunk", "trial": 0, "time": 2.0, "trunk_epoch": 1}
{"event": "trunk", "trial": 0, "time": 3.0, "trunk_epoch": 2}
{"event": "branch", "trial": 0, "time": 4.0, "epochs": [{"epoch": 1}, {"epoch": 2}], "trunk": "0123456789abcdef"}
{"event": "epoch", "trial": 0, "time": 5.0, "metrics": {"epoch": 3}}
{"event": "end", "trial": 0, "time": 6.0, "state": "finished", "reason": ""}
{"event": "start", "trial": 1, "time": 7.0, "params": {"beta": 2.0}, "method": "trades", "seed": 0}
{"event": "branch", "trial": 1, "time": 8.0, "epochs": [{"epoch": 1}], "trunk": "0123456789abcdef"}
{"event": "end", "trial": 1, "time": 9.0, "state": "stopped", "reason": ""}
{"event": "start", "trial": 2, "time": 10.0, "params": {"beta": 3.0}, "method": "trades", "seed": 0}
{"event": "epoch", "trial": 2, "time": 11.0, "metrics": {"epoch": 1}}
"""
# Of its spec what is gone now. A search that was named after its hash has no name in it.
FIELDS = """
method: trades
trials: 4
max_epochs: 3
sampler: random
trunk: auto
trunk_storage: null
reduction: 2
grace: 1
on_rung: pause
asha_metric: robust_acc
objectives: [robust_acc, worst_class_robust_acc]
"""


def test_events_of_earlier_versions_are_read(tmp_path):
    (tmp_path / "history.jsonl").write_text(EARLIER.lstrip())
    history = History(tmp_path)
    trials = history.trials.values()
    assert [t.state.value for t in trials] == ["finished", "stopped", "running"]
    assert [(len(t.epochs), t.stem_epochs, t.stem_trained) for t in trials] == [(3, 2, 2), (1, 1, 0), (1, 0, 0)]
    assert all(t.full and t.preview is None for t in trials), "there were no previews"
    assert history.epochs_trained() == 3 + 0 + 1
    assert history.epochs_saved(3) == {"stem": (2 - 2) + 1, "previews": 0, "at_chance": 3 - 1}


@pytest.mark.parametrize("scheduler", ["null", "pareto-asha", "asha", "median", "none"])
def test_a_search_of_an_earlier_version_goes_on_in_full_under_its_name(tmp_path, scheduler):
    """Nothing is stopped, previewed or shared any more; the trial that waited at a rung trains on."""
    home = Home(tmp_path)
    folder = home.search("trades-digits-0a1b2c3d")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(FIELDS.lstrip() + f"scheduler: {scheduler}\n")
    (folder / "history.jsonl").write_text(EARLIER.lstrip())
    run = load_search(home, "trades-digits-0a1b2c3d")
    spec = run.spec
    assert (spec.scheduling.name, spec.burn_in, spec.forks) == ("none", "own", (0, 0))
    assert spec.search_name == run.name == "trades-digits-0a1b2c3d"
    assert SearchSpec.from_stored(spec.to_yaml()) == spec, "written again, with what it means"
    optimizer, handed = AskTell(spec, run.history, folder), []
    while (record := optimizer.next()) is not None:
        handed.append((record.trial, record.full))
        if record.trial not in run.history:
            run.history.append("start", record.trial, params=record.params, method="trades")
        run.history.append("end", record.trial, state=TrialState.FINISHED)
    assert handed == [(2, True), (3, True)]


def test_c5_events_keep_their_order_where_the_clock_jumps(tmp_path, monkeypatch):
    """By their times a resume knows in which order trials ended."""
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    history = History(tmp_path)
    for trial in range(3):
        history.append("start", trial, params={}, method="at")
    for trial, at in ((2, 1e9 + 5), (0, 1e9 - 86400), (1, 1e9 - 3600)):
        now[0] = at
        history.append("end", trial, state="finished")
    again = History(tmp_path)
    now[0] = 1e9 - 50
    again.append("start", 3, params={}, method="at")
    for known in (history, again):
        assert sorted((0, 1, 2), key=lambda trial: known.trials[trial].ended) == [2, 0, 1]
    assert again.trials[3].started > again.trials[1].ended >= 1e9 + 5
    now[0] = 2e9
    again.append("end", 3, state="finished")
    assert again.trials[3].ended == 2e9, "as the clock says, wherever that is possible"


@pytest.mark.parametrize("seed", range(5))
def test_a_line_is_read_as_json_reads_it(seed):
    """Whatever reads it fast: the same value to the bit, or the same refusal."""
    numbers = random.Random(seed)
    line = '{"event": "epoch", "metrics": {"epoch": 3, "a": 0.1234567, "b": null, "c": NaN, "t": "\\u00e9\\ud800"}}'
    texts = [repr(struct.unpack("d", numbers.randbytes(8))[0]).replace("nan", "NaN") for _ in range(500)]
    texts += [f"{numbers.random() * 10 ** numbers.randint(-9, 9):.{numbers.randint(1, 30)}e}" for _ in range(500)]
    texts += [
        "1e999",
        "-0",
        "-0.0",
        "01",
        "1.",
        "[1,]",
        '{"a": 1, "a": 2}',
        "9" * 400,
        "[" * 10**5,
        '"\ud800"',
        "\ufeff1",
    ]
    for _ in range(2000):
        at, more = numbers.randrange(len(line)), numbers.choice('0123456789.eE+-"\\{}[],: \n\tNaInftrue\u00e9')
        texts.append(line[:at] + numbers.choice(["", more]) + line[at + numbers.randint(0, 3) :])
    for text in texts:
        try:
            expected = repr(json.loads(text))
        except (ValueError, RecursionError):
            with pytest.raises(ValueError):
                parse_json(text)
        else:
            assert repr(parse_json(text)) == expected, text


def counted(history):
    """What a history's tally is to be, by looking at every trial."""
    trials, everything, kinds = history.trials.values(), history.everything(), {}
    for trial in everything:
        kinds.setdefault((trial.method, (trial.params.get("form"), None), trial.seed), []).append(trial)
    return {
        "states": {state: sum(t.state == state for t in trials) for state in TrialState},
        "running": {t.trial: t for t in everything if t.state == TrialState.RUNNING},
        "previewed": sum(t.preview is not None or t.state == TrialState.FAILED for t in trials),
        "full": sum(t.full for t in trials),
        "trained": sum(t.trained for t in everything),
        "for_stem": {kind: set().union(*(t.stem_reached for t in some)) for kind, some in kinds.items()},
        "left": {kind: {0, *(t.stem_epochs for t in some)} for kind, some in kinds.items()},
        "previewed_on": {kind for kind, some in kinds.items() if any(t.preview for t in some)},
    }


@pytest.mark.parametrize("seed", range(5))
def test_what_is_counted_as_events_come_is_what_is_there(tmp_path, seed):
    """Asked at every result, it must not be looked for among all trials, however many there are."""
    draw, history = random.Random(seed), History(tmp_path)
    lanes = [history.lane("srat"), history.lane("at")]
    history.append("start", -1, params={}, method="at", role="no_search")
    happens = {
        "resume": {},
        "epoch": {"metrics": {"epoch": 1, "clean_acc": 0.5}},
        "preview": {"epochs": 3, "metrics": {"epoch": 3}},
        "promote": {},
        "stem": {},
        "fork": {"epochs": [{"epoch": 1}, {"epoch": 2}]},
        "error": {},
        "skip": {},
        "retry": {},
    }
    ends = ("finished", "stopped", "failed")
    for number in range(300):
        known = [t.trial for t in history.everything()]
        if draw.random() < 0.2:
            kind = draw.choice(["start", "start", "add", "replicate"])
            fields = {"params": {}, "method": draw.choice(["srat", "at"]), "preview": draw.random() < 0.7}
            if kind == "replicate" and history.trials:
                fields |= {"of": draw.choice(list(history.trials)), "preview": False}
            history.append("add" if kind == "add" else "start", number, **fields)
        elif draw.random() < 0.2:
            history.append("end", draw.choice(known), state=draw.choice(ends))
        else:
            name = draw.choice(list(happens))
            more = {"stem_epoch": draw.choice([None, 1, 2, 3])} if name == "stem" else {}
            history.append(name, draw.choice(known), **happens[name], **more)
        for each in (history, *lanes):
            assert vars(each.tally) == counted(each)
    assert vars(History(tmp_path).tally) == counted(history), "read again"
    assert [t.trial for t in history.latest()] == [
        *sorted(history.references, reverse=True),
        *sorted(history.replicates, reverse=True),
        *sorted(history.trials, reverse=True),
    ]
    with pytest.raises(TypeError):
        history.append("epoch", next(iter(history.trials)), metrics=None)
    assert vars(history.tally) == counted(history), "after an event that does not fit"
