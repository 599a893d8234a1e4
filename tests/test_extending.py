"""docs/extending.md is followed to the letter: its method goes into a copy of the project, is tested and trained."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from search_spaces import METHODS
from tests.test_docs import BLOCKS, ROOT

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


def test_the_entry_point_of_the_page_is_the_one_that_is_read():
    (text,) = (block.text for block in BLOCKS if block.page == PAGE and block.language == "toml")
    assert tomllib.loads(text)["project"]["entry-points"] == {METHODS.group: {"focal": "your_package.space"}}
