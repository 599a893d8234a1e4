"""The log of a search after its writer was killed."""

import json

import pytest

from tuner.errors import Failed
from tuner.results.history import History

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
