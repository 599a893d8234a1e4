"""docs/extending.md is followed to the letter: its method goes into a copy of the project, is tested and trained. The
package of docs/extending is installed, tested and searched with."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import tuner_here
from tests.test_docs import BLOCKS, ROOT
from tuner.results.listener import LISTENERS
from tuner.spec.plug_ins import TABLES

EXAMPLE = ROOT / "docs" / "extending"
PAGE = "docs/extending.md"
PYTHON = [block.text for block in BLOCKS if block.page == PAGE and block.language == "python"]
FILES = {match[1]: text for text in PYTHON if (match := re.match(r"# (\S+\.py)\n", text))}
SCRIPTS = [text for text in PYTHON if text not in FILES.values()]
(ROW,) = (block.text for block in BLOCKS if block.page == PAGE and block.language == "text")
# One process: the tests of every method on the new one, then the page's other blocks from top to bottom.
FOLLOW = """
import sys, pytest
if __name__ == "__main__":
    code = pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "tests/test_methods.py", "-k", "focal"])
    if code:
        sys.exit(code)
"""


def copy_with_the_method(to: Path) -> None:
    """The project with the page's two files and one row, nothing else."""
    for folder in ("search_spaces", "trainables", "tuner", "tests"):
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    assert set(FILES) == {"search_spaces/focal.py", "trainables/methods/focal.py"}
    for name, text in FILES.items():
        assert not (to / name).exists()
        (to / name).write_text(text)
    table = to / "tests" / "test_methods.py"
    before = table.read_text()
    assert ROW.count("\n") == 1 and before.count("CASES = [\n") == 1
    table.write_text(before.replace("CASES = [\n", f"CASES = [\n{ROW}"))


@pytest.mark.long
def test_the_method_of_the_page_is_two_files_and_one_row(tmp_path):
    copy_with_the_method(tmp_path)
    script = "".join(f"    {line}\n" if line else "\n" for text in SCRIPTS for line in text.splitlines())
    (tmp_path / "follow.py").write_text(FOLLOW + script)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"PYTHONPATH": str(tmp_path), "TUNER_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "follow.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = re.search(r"^(\d+) passed", done.stdout, re.M)
    assert tested and int(tested[1]) >= 10, done.stdout
    said = done.stdout + done.stderr  # what is printed while a search shows its progress goes where that goes
    assert re.findall(r"^trial (\d) ended: finished$", said, re.M) == ["0", "1"]
    assert re.search(r"^front: \[[01]", done.stdout, re.M)


def test_the_page_shows_the_entry_points_of_the_example():
    (text,) = (block.text for block in BLOCKS if block.page == PAGE and block.language == "toml")
    offered = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    assert tomllib.loads(text)["project"]["entry-points"] == offered
    assert set(offered) <= {table.group for table in (*TABLES.values(), LISTENERS)}
    assert sum(len(path.read_text().splitlines()) for path in EXAMPLE.rglob("*.py")) <= 60


def installed_example(folder: Path) -> dict[str, str]:
    """The example in a folder of its own, as an installer leaves it; returns an environment that finds it."""
    source, site = folder / "source", folder / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    alone = ["--no-deps", "--no-build-isolation", "--offline"]  # with what is installed here: nothing is downloaded
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "VIRTUAL_ENV": sys.prefix}
    subprocess.run(["uv", "pip", "install", "--quiet", *alone, "--target", site, source], check=True, env=env)
    return {**env, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "OMP_NUM_THREADS": "1"}


@pytest.mark.long
def test_the_example_package_is_tested_searched_with_and_missed(tmp_path):
    env, home = installed_example(tmp_path), tmp_path / "home"

    def started(*command):
        return subprocess.run(
            [sys.executable, "-m", *map(str, command)], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    tested = started("pytest", "-q", "-p", "no:cacheprovider", tmp_path / "source" / "tests")
    assert tested.returncode == 0 and int(re.search(r"^(\d+) passed", tested.stdout, re.M)[1]) >= 15, tested.stdout
    quick = [part for name in ("passes=1", "attack_steps=1", "eval_attack=1") for part in ("--set", name)]
    names = ["--method", "focal", "--model", "linear", "--name", "plugged", "--home", home]
    done = started("tuner.cli", "search", *names, *quick, "--trials", 1, "--max-epochs", 1, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["state"] == "finished", done.stderr
    assert re.search(r"^trial 0 ended: finished$", done.stderr, re.M), done.stderr
    stored = yaml.safe_load((home / "searches" / "plugged" / "spec.yaml").read_text())["plug_ins"]
    assert list(stored) == ["method focal", "model linear"]
    assert all(re.fullmatch("tuner-example 0.1 [0-9a-f]{16}", mark) for mark in stored.values())

    for command in ("front", "resume", "verify"):
        missed = tuner_here(command, "plugged", "--home", home)
        assert missed.returncode == 2 and missed.stderr == (
            "Error: search 'plugged' cannot be read: method 'focal' is of package tuner-example 0.1, which is not "
            "installed here; install it\n"
        )
