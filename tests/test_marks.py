"""Marks come from what a test reaches, and what a test may not do without them fails."""

import os
import socket
import subprocess
from types import SimpleNamespace

import pytest

from tests.conftest import tuner, tuner_here
from tests.reach import marks_of, process_in
from tests.test_submit import Cluster

COMMAND = ["search", "--trials", 2]


def by_itself():
    return [subprocess.run(["true"]) for _ in range(2)]


def through_a_helper():
    from tests import conftest

    return conftest.tuner("doctor")


def with_words_elsewhere():
    return tuner(*COMMAND)


def by_a_class():
    return Cluster("folder")


def inside():
    return tuner_here("search", "--help")


@pytest.mark.parametrize(
    "function, marks",
    [
        (by_itself, {"process"}),
        (through_a_helper, {"process"}),
        (with_words_elsewhere, {"process", "ray"}),
        (by_a_class, {"process", "ray"}),
        (inside, set()),
    ],
)
def test_a_test_is_marked_by_what_it_reaches(function, marks):
    item = SimpleNamespace(function=function, _fixtureinfo=SimpleNamespace(name2fixturedefs={}))
    assert marks_of(item) == marks and process_in(function) == bool(marks)


def test_a_fixture_counts():
    """One that starts a process marks the tests that use it, though they do not name one."""
    uses = {"finished": [SimpleNamespace(scope="session", func=with_words_elsewhere)]}
    item = SimpleNamespace(function=inside, _fixtureinfo=SimpleNamespace(name2fixturedefs=uses))
    assert marks_of(item) == {"process", "ray"}


def test_a_process_without_the_mark_is_refused():
    with pytest.raises(AssertionError, match="mark it with @pytest.mark.process"):
        os.popen("true")


def test_there_is_no_network():
    with pytest.raises(socket.gaierror, match="tests have no network"):
        socket.create_connection(("example.org", 443))
    assert socket.getaddrinfo("localhost", 80) and socket.getaddrinfo("127.0.0.1", 80)


def test_what_is_made_once_is_made_once(once):
    made = [once("made-by-test-marks", lambda folder: [str(folder), os.getpid()]) for _ in range(2)]
    assert made[0] == made[1] and made[0][1][0] == str(made[0][0]) and made[0][0].is_dir()
