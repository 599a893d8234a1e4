"""The house rules: imports run one way, heavy libraries stay in their files, files and the command line stay small."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"search_spaces": set(), "trainables": {"search_spaces"}, "tuner": {"search_spaces", "trainables"}}
ONLY_IN = {"ray": {"trainables/ray_adapter.py", "tuner/execution/driver.py", "tuner/execution/ray_searcher.py", "tuner/execution/ray_callback.py",
                   "tuner/execution/failures.py", "tuner/execution/ray_instance.py", "tuner/execution/ray_scheduler.py", "tuner/remote/submission.py",
                   "tuner/verification/verify.py", "tuner/execution/nodes.py"},
           "mlflow": {"tuner/tracking/tracker.py", "tuner/tracking/ui.py", "tuner/tracking/after_search.py", "tuner/mlflow_view.py",
                      "tuner/tracking/runs.py",
                      "tuner/tracking/served_model.py"}}
FILES = [p for package in ALLOWED for p in sorted((ROOT / package).rglob("*.py"))]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    name, package = str(path.relative_to(ROOT)), path.relative_to(ROOT).parts[0]
    used = set(imports(path))
    assert used & set(ALLOWED) <= ALLOWED[package] | {package}, "imports run search_spaces <- trainables <- tuner"
    for library, files in ONLY_IN.items():
        assert library not in used or name in files, f"{library} is imported in {sorted(files)} alone"
    if package == "search_spaces":
        assert used <= {"search_spaces", "optuna", "dataclasses", "typing", "__future__", "collections"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_over_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("args", [["--help"], ["methods"], ["space", "srat"], ["search", "--help"]])
def test_light_commands_import_nothing_heavy(args):
    code = f"import sys; sys.argv = ['tuner', *{args!r}]\nfrom tuner.cli import main\n" \
           "try: main()\nexcept SystemExit: pass\n" \
           "print('HEAVY', [m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in out


def test_help_is_quick():
    """0.6 s on a quiet machine; the best of three, because CI's is not quiet."""
    def once():
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tuner.cli", "--help"], check=True, capture_output=True)
        return time.perf_counter() - begin
    assert min(once() for _ in range(3)) < 0.6
