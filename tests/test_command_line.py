"""The command line: its list of commands and options is frozen, its help is grouped, its shell completion knows names.

    python -m tests.test_command_line

renews ``tests/data/command_line.txt``; do that where a change of the command line is intended, and say it in the
changelog: scripts of users rely on every line.
"""

import ast
import difflib
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.main import get_command

import tuner.cli
from tuner.cli import main
from tuner.cli import versions as versions_of
from tuner.cli.app import app, whole_command
from tuner.spec.fields import PANELS, SearchFields
from tuner.spec.option import options_of

FROZEN = Path(__file__).parent / "data" / "command_line.txt"
RENEW = "if this is intended: python -m tests.test_command_line, and a line in the changelog"
COMMANDS = get_command(app).commands


def command_line():
    """A line for each argument and option of each command: its names, whether it takes a value and may be repeated."""
    lines = []
    for name, command in [("", get_command(app)), *sorted(COMMANDS.items())]:
        lines += ["", f"tuner {name}".rstrip()]
        lines += sorted(map(_line, command.params))
    return "\n".join(lines).lstrip() + "\n"


def _line(param):
    names = " ".join([*param.opts, *param.secondary_opts]) if param.opts[0].startswith("-") else param.name.upper()
    several = getattr(param, "multiple", False) or param.nargs != 1
    takes = "switch" if getattr(param, "is_flag", False) else "value"
    return "    " + ", ".join(
        [names, takes, *(["repeatable"] if several else []), *(["required"] if param.required else [])]
    )


def test_the_command_line_is_frozen():
    was, now = FROZEN.read_text().splitlines(), command_line().splitlines()
    changes = "\n".join(difflib.unified_diff(was, now, "frozen", "now", lineterm="", n=20))
    assert was == now, f"the command line has changed; {RENEW}\n{changes}"


def run(*args, **environment):
    """The process of a command; its output is 200 columns wide."""
    return subprocess.run(
        [sys.executable, "-m", "tuner.cli", *args],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8", **environment},
    )


def panels(*command):
    """The lines of each panel of a help text."""
    found = {}
    for line in run(*command, "--help").stdout.splitlines():
        if line.startswith("╭─ "):
            found[line.strip("╭─╮ ")] = lines = []
        elif line.startswith("│"):
            lines.append(line.strip("│ "))
    return found


@pytest.mark.parametrize("command", ["search", "submit"])
def test_each_field_stands_in_its_panel_with_its_default(command):
    found = panels(command)
    assert list(found) == ["Options", *PANELS]
    for asked in options_of(SearchFields).values():
        text = " ".join(found[asked.panel])
        assert f"--{asked.flag} " in text
        if asked.default_shown:
            assert f"[default: {asked.default_shown}]" in text, asked.name


def test_commands_stand_in_panels():
    found = panels()
    assert list(found) == ["Options", "Searching", "Results", "Clusters", "Help"]
    listed = {line.split()[0] for panel, lines in found.items() if panel != "Options" for line in lines}
    assert listed == set(COMMANDS)


def test_help_is_whole_sentences():
    for name, command in COMMANDS.items():
        first = command.help.split("\n\n")[0].strip()
        assert re.fullmatch(r"[A-Z].*\.", first, re.DOTALL), f"tuner {name}: {first}"
        for param in command.params:
            if param.help is None and param.param_type_name == "argument":
                continue  # typer before 0.29 with a newer click loses them
            text = re.sub(r" \\?\[default: .*\]$", "", param.help)
            assert text.endswith("."), f"tuner {name} {param.name}: {text}"


def test_no_arguments_give_the_help():
    done = run()
    assert done.returncode == 0 and "Searching" in done.stdout and not done.stderr


def lines_and_modules(*args):
    """What a command prints, and the modules that are loaded at its end."""
    code = (
        f"import sys; sys.argv = ['tuner', *{args!r}]\nfrom tuner.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        "print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *lines, modules = out.splitlines()
    return lines, set(modules.split())


def test_help_loads_nothing_heavy():
    """Not even what a search's space needs: `tuner --help` is answered at once."""
    _, modules = lines_and_modules("--help")
    assert not modules & {"torch", "ray", "mlflow", "optuna", "numpy", "yaml", "PIL", "pyarrow"}


def test_schema_loads_no_torch():
    assert not lines_and_modules("schema")[1] & {"torch", "ray", "mlflow"}


def test_version_reads_metadata_alone():
    lines, modules = lines_and_modules("--version")
    said = dict(line.split() for line in lines)
    assert not modules & {"torch", "ray", "optuna", "mlflow", "numpy"}
    assert list(said) == ["tuner", "python", "torch", "ray", "optuna", "mlflow"]
    for library in ("torch", "ray", "optuna", "mlflow"):
        assert said[library] == metadata.version(library)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", said["tuner"])


def test_what_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(versions_of, "LIBRARIES", ("no-such-library",))
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [])
    assert versions_of.versions() | {"python": ""} == {
        "tuner": "not installed",
        "python": "",
        "no-such-library": "not installed",
    }


COMPLETIONS = [
    (["search", "--method", "sr"], ["srat"]),
    (["search", "--method", "srat", "--method", "wa"], ["wat"]),
    (["submit", "--sampler", "nsga"], ["nsga2", "nsga3"]),
    (["search", "--scheduler", "pre"], ["preview"]),
    (["search", "--dataset", "cifar"], ["cifar10", "cifar100"]),
    (["search", "--dataset", "parq"], ["parquet:"]),
    (["verify", "--model", "robust.pt", "--dataset", "cifar1"], ["cifar10", "cifar100"]),
    (["search", "--model", "wrn"], ["wrn-34-10"]),
    (["search", "--objective", "worst_class_c"], ["worst_class_clean_acc"]),
    (["search", "--set", "attack_b"], ["attack_bn="]),
    (["space", "cfo"], ["cfol"]),
    (["exp"], ["export"]),
    (["search", "--max-e"], ["--max-epochs"]),
]


@pytest.mark.parametrize("words, names", COMPLETIONS, ids=[" ".join(words) for words, _ in COMPLETIONS])
def test_a_shell_completes(words, names, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tuner"])
    monkeypatch.setenv("_TUNER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["tuner", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.split() == names


def test_the_script_for_a_shell_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tuner", "--show-completion", "bash"])
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # a parent that is no shell: make's, CI's
    whole_command.cache_clear()
    with pytest.raises(SystemExit):
        main()
    whole_command.cache_clear()
    assert "_TUNER_COMPLETE=complete_bash" in capsys.readouterr().out


def test_commands_use_public_names_alone():
    for path in sorted((Path(tuner.cli.__file__).parent).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                assert node.attr.startswith("__"), f"{path}:{node.lineno}: {node.attr}"


if __name__ == "__main__":
    FROZEN.write_text(command_line())
