"""The house rules: imports run one way, from room to room and without a circle; heavy libraries stay in theirs."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("search_spaces", "trainables", "tuner")
# From the ground up: a room may import what stands below it, and files of its own.
FLOORS = [
    {"tuner.errors", "tuner.escape", "tuner.files"},
    {"tuner.home"},
    {"tuner.spec"},
    {"tuner.sync"},
    {"tuner.results"},
    {"tuner.optimizer"},
    {"tuner.report"},
    {"tuner.tracking"},
    {"tuner.execution"},
    {"tuner.verification"},
    {"tuner.remote"},
    {"tuner.cli"},
    {"tuner.job", "tuner", "tuner.testing"},
]
FLOOR = {room: floor for floor, rooms in enumerate([{"search_spaces"}, {"trainables"}, *FLOORS]) for room in rooms}
ONLY_IN = {
    "ray": ("trainables.ray_adapter", "tuner.execution", "tuner.verification.verify", "tuner.remote.submission"),
    "mlflow": ("tuner.tracking",),
    "pytest": ("tuner.testing",),
}
FILES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for package in PACKAGES
    for p in sorted((ROOT / package).rglob("*.py"))
}


@cache
def imports(path):
    """Every module that a file imports, wherever in the file, and of our own the file that a name comes from."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [name if name in FILES else node.module for name in inner.values()]
    return found


def room(module):
    """A package or, inside `tuner`, a folder or file of it."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "tuner" else parts[0]


def ours(module):
    """The files of ours that one imports."""
    return {used for used in imports(FILES[module]) if used in FILES}


@pytest.mark.parametrize("module", FILES)
def test_imports_run_down(module):
    for used in ours(module):
        assert FLOOR[room(used)] <= FLOOR[room(module)], f"{module} imports {used}, which stands above it"
        assert room(used) == room(module) or FLOOR[room(used)] < FLOOR[room(module)], f"{module} imports {used}"
    for library, rooms in ONLY_IN.items():
        if library in {used.split(".")[0] for used in imports(FILES[module])}:
            assert module.startswith(rooms), f"{library} is imported in {', '.join(rooms)} alone"
    if module.startswith("search_spaces"):
        assert {used.split(".")[0] for used in imports(FILES[module])} <= {
            "search_spaces",
            "optuna",
            "dataclasses",
            "typing",
            "__future__",
            "collections",
            "functools",
            "hashlib",
            "importlib",
            "math",
            "pathlib",
            "pkgutil",
            "re",
        }


def test_no_circle():
    """Imports inside of functions count too."""
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for used in sorted(ours(module) - {module}):
                visit(used)
            done.add(path.pop())

    for module in FILES:
        visit(module)


def test_tuner_itself_is_small():
    assert len(list((ROOT / "tuner").glob("*.py"))) <= 8


@pytest.mark.parametrize("args", [["--help"], ["methods"], ["space", "srat"], ["search", "--help"]])
def test_light_commands_import_nothing_heavy(args):
    code = (
        f"import sys; sys.argv = ['tuner', *{args!r}]\nfrom tuner.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('HEAVY', [m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in out


def test_a_driver_needs_no_torch():
    """Its workers do: without it a search begins 2 CPU seconds sooner."""
    code = (
        "import sys, tuner.execution.driver, trainables.ray_adapter\nfrom tuner.results.bill import expected\n"
        "from tuner.spec.search_spec import SearchSpec\nexpected(SearchSpec(method=('srat', 'wat', 'robal')))\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_help_is_quick():
    """Counted, not timed: torch, ray or mlflow would be a thousand modules more (seconds: benchmarks/promptness.py)."""
    code = (
        "import sys; sys.argv = ['tuner', '--help']\nfrom tuner.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nprint('MODULES', len(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 100 < int(out.rpartition("MODULES")[2]) < 500
