"""The README is executed: its commands run, its method table is the registry's.

`python -m tests.test_readme` rewrites the table.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from search_spaces import METHODS
from tests.conftest import tuner
from tests.test_wrong_input import run
from tuner.cli.app import app
from tuner.spec.space import build_space

README = Path(__file__).parent.parent / "README.md"
COMMANDS = [line.strip() for line in README.read_text().splitlines() if line.startswith("    tuner ")]


def method_table() -> str:
    rows = ["| method | what it does | searched | paper |", "|---|---|---|---|"]
    for name, space in METHODS.items():
        searched = ", ".join(f"`{n}`" for n in build_space(name, fix={}, space={}).searched)
        rows.append(f"| `{name}` | {space.SUMMARY} | {searched} | {space.PAPER} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    begin, end = "<!-- methods: begin -->\n", "<!-- methods: end -->"
    head, _, rest = text.partition(begin)
    return head + begin + method_table() + "\n" + rest[rest.index(end) :]


def test_method_table_is_current():
    assert README.read_text() == with_table(README.read_text()), "run: python -m tests.test_readme"


def test_first_screen_has_exactly_two_commands():
    assert re.findall(r"^    (make \w+)", README.read_text(), re.M) == ["make search", "make test"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("tuner search")])
def test_search_commands_are_valid(command, capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, *shlex.split(command)[1:], "--dry-run")
    assert code == 0 and "method:" in out


@pytest.mark.parametrize(
    "command",
    [
        c
        for c in COMMANDS
        if c.split()[1] in ("front", "ls", "methods", "space", "resume", "verify", "export", "doctor")
    ],
)
def test_other_commands_run(command, finished, tmp_path):
    """As written, in a folder of their own, on a home that has the search `first`."""
    home = {"TUNER_HOME": str(finished[1])}
    done = tuner(*shlex.split(command)[1:], "--json", env=home, cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout), done.stderr
    if "export" not in command and "doctor" not in command:
        plain = tuner(*shlex.split(command)[1:], env=home, cwd=tmp_path)
        assert plain.returncode == 0 and plain.stdout, plain.stderr


def test_every_command_of_the_readme_is_known():
    assert {c.split()[1] for c in COMMANDS} <= set(get_command(app).commands)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
