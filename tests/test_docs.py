"""README and docs are executed: every command is parsed, the main ones run; links lead somewhere; nothing is hidden.

A fenced block says what it is: ``sh`` (a command a line), ``python``, ``yaml`` (its first line names the file),
``toml`` or ``text``. Commands that cannot run here stand under a line that begins with `NOT_RUN` and says what they
need; they are parsed all the same, and ``MARKED`` counts their blocks.
"""

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

import tuner
from tests.test_wrong_input import run
from tests.verifying import without_ray
from tuner.cli.app import whole_command
from tuner.report import notifications
from tuner.spec.search_spec import SearchSpec

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = "> Not run by the tests:"
MARKED = {"docs/guide.md": 5, "docs/share.md": 1, "docs/watch.md": 1}
# Pages whose Python blocks run as one script, and the test that does it.
PYTHON = {"docs/python.md": "tests/test_export.py", "docs/extending.md": "tests/test_extending.py"}
RUN = {
    "bundle",
    "doctor",
    "export",
    "front",
    "gc",
    "leaderboard",
    "ls",
    "methods",
    "resume",
    "schema",
    "space",
    "sync",
    "trials",
    "verify",
    "watch",
}
# search and submit as a dry run; audit needs what verify wrote: tests/test_audit.py; what changes a search:
# tests/test_steering.py; what was sent: tests/test_sharing.py
ONLY_PARSED = {
    "add",
    "audit",
    "clone",
    "import",
    "jobs",
    "logs",
    "narrow",
    "note",
    "notify",
    "reproduce",
    "restore",
    "retry",
    "rm",
    "search",
    "skip",
    "stop",
    "submit",
    "ui",
}
WITHOUT_JSON = {"schema", "sync", "watch"}


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str
    marked: bool


def blocks() -> list[Block]:
    found = []
    for path in PAGES:
        page, text = str(path.relative_to(ROOT)), path.read_text()
        for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.M):
            before = text[: match.start()].rstrip().rpartition("\n\n")[2]
            found.append(Block(page, match[1], match[2], before.startswith(NOT_RUN)))
    return found


BLOCKS = blocks()
COMMANDS = {}  # words -> whether it is run, each once
for block in BLOCKS:
    for line in block.text.splitlines() if block.language == "sh" else ():
        words = tuple(shlex.split(line, comments=True))
        if words:
            COMMANDS[words] = COMMANDS.get(words, False) or not block.marked
TUNER = [words for words in COMMANDS if words[0] == "tuner"]
EXPORTED = {notifications.PLACES, notifications.SECRET}
OTHERS = [words for words in COMMANDS if words[0] != "tuner"]
EXECUTED = [
    words
    for words in TUNER
    if COMMANDS[words] and words[1] in RUN and not {"--help", "--trials", "--budget", "--yes", "--confirm"} & {*words}
]


def write_files(folder: Path) -> None:
    """The YAML files that pages show, under the names in their first lines."""
    for block in BLOCKS:
        if block.language == "yaml":
            (folder / re.match(r"# (\S+\.yaml)\n", block.text)[1]).write_text(block.text)


# ---- nothing is hidden ----------------------------------------------------------------------------------------------


def test_every_block_says_what_it_is():
    assert {block.language for block in BLOCKS} <= {"sh", "python", "yaml", "toml", "text"}
    for path in PAGES:
        fences = re.findall(r"^ *```", path.read_text(), re.M)
        assert len(fences) == 2 * sum(b.page == str(path.relative_to(ROOT)) for b in BLOCKS), path
        assert not re.search(r"\n\n {4,}(?:\$ )?(?:tuner|make|python|pip) ", path.read_text()), f"{path}: unfenced"


def test_blocks_that_are_not_run_are_counted():
    found = {}
    for block in BLOCKS:
        if block.marked:
            assert block.language == "sh"
            found[block.page] = found.get(block.page, 0) + 1
    assert found == MARKED
    assert sum(path.read_text().count("Not run by the tests") for path in PAGES) == sum(MARKED.values())


def test_every_command_is_a_function_too():
    """Of `docs/python.md`'s table: the calls stand there with arguments that their functions take."""
    rows = [line.split(" | ") for line in (ROOT / "docs/python.md").read_text().splitlines() if line.startswith("| `")]
    commands = [name for first, *_ in rows for name in re.findall(r"`(\w+)`", first)]
    assert sorted(commands) == sorted(whole_command().commands)
    code = [text for _, second in rows for text in re.findall(r"`(\w[^`]*)`", second)]
    calls = [node for text in code for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    named = {call.func.id: call for call in calls if isinstance(call.func, ast.Name)}
    for name, call in named.items():
        signature = inspect.signature(getattr(tuner, name))
        signature.bind(*call.args, **{word.arg: word.value for word in call.keywords})
    assert named.keys() <= set(tuner.__all__) and len(named) > 40
    for name in tuner.__all__:
        assert getattr(tuner, name) is not None


def test_python_blocks_stand_where_a_test_runs_them():
    assert {block.page for block in BLOCKS if block.language == "python"} == set(PYTHON)
    for page, test in PYTHON.items():
        assert Path(page).name in (ROOT / test).read_text()


# ---- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", TUNER, ids=" ".join)
def test_command_is_parsed(words, tmp_path, capsys, monkeypatch):
    """By the command line's own parser; a search also as a dry run, which checks every value."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    root = whole_command()
    if words[1].startswith("--"):
        assert words[1] in {option for param in root.params for option in param.opts} | {"--help"}
        return
    assert words[1] in root.commands and words[1] in RUN | ONLY_PARSED
    if "--help" not in words:
        root.commands[words[1]].make_context(words[1], list(words[2:]))
    if words[1] in ("search", "submit") and "--help" not in words:
        code, out, err = run(capsys, monkeypatch, *words[1:], *([] if "--dry-run" in words else ["--dry-run"]))
        assert code == 0 and "method:" in out, err


@pytest.fixture(scope="module")
def home(finished, tmp_path_factory):
    """A home with two searches: `first`, and a copy of it under another seed."""
    home = tmp_path_factory.mktemp("docs") / "home"
    shutil.copytree(finished[1], home)
    second = home / "searches" / "second"
    shutil.copytree(home / "searches" / "first", second)
    return home


@pytest.mark.parametrize("words", EXECUTED, ids=" ".join)
def test_command_runs(words, home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_HOME", str(home))
    if words[1] == "leaderboard" and len(words) > 2:
        code, _, err = run(capsys, monkeypatch, "verify", words[2], "--pick", "knee", "--attack", "pgd:2x1")
        assert code == 0, err
    code, out, err = run(capsys, monkeypatch, *words[1:])
    assert code == 0 and (out or words[1] == "sync"), err
    if words[1] not in WITHOUT_JSON and "--json" not in words:
        code, out, err = run(capsys, monkeypatch, *words[1:], "--json")
        assert code == 0, err
    assert words[1] in WITHOUT_JSON or json.loads(out)
    for flag in ("--html", "--png", "--parquet", "--to"):
        assert flag not in words or (tmp_path / words[words.index(flag) + 1]).exists()


# Pages of one task each, whose commands run in their order, but for those that train, need what is not here, or take
# seconds and run in `test_command_runs`.
TASKS = {
    "docs/add-trials.md": {"resume --trials", "resume --budget"},
    "docs/choose-a-point.md": {"verify", "export"},
    "docs/share.md": {"reproduce --dataset"},
    "docs/slurm.md": {"watch"},  # of a search that waits in a queue
}
SBATCH = "#!/bin/sh\necho 4711\n"


@pytest.mark.parametrize("page", TASKS)
def test_a_task_is_done_as_its_page_says(page, finished, tmp_path, capsys, monkeypatch):
    """On a search of its own; ``sbatch`` is a stand-in (what it is given: tests/test_deploy_slurm.py)."""
    shutil.copytree(finished[1], tmp_path / "home")
    shutil.copytree(finished[1] / "searches" / "first", tmp_path / "received" / "first")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    asked = [b for b in BLOCKS if b.page == page and b.language == "sh" and not b.marked]
    done, left = [], set()
    for words in (shlex.split(line) for block in asked for line in block.text.splitlines()):
        named = {f"{words[1]} {flag}".strip() for flag in ("", *words)} & TASKS[page]
        left |= named
        if not named:
            with without_ray():
                code, out, err = run(capsys, monkeypatch, *words[1:], *NAMED.get((page, words[1]), ()))
            assert code == 0 and out, f"{shlex.join(words)}: {err}"
            done.append(words[1])
    assert left == TASKS[page] and len(done) >= 2


# The search of the fixture has the name that the page gives to another one.
NAMED = {("docs/slurm.md", "submit"): ["--name", "queued"], ("docs/share.md", "import"): ["--home", "other"]}


def test_the_main_commands_are_among_those_that_run():
    assert {words[1] for words in EXECUTED} == RUN


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_other_command_exists(words):
    match words:
        case ("export", assigned):
            assert assigned.partition("=")[0] in EXPORTED
        case ("make", target):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
        case ("python", "-m", module, *_):
            assert find_spec(module)
        case ("pip", "install", *options, what):
            assert not options or (options[0] == "-c" and (ROOT / options[1]).exists() and len(options) == 2)
            extras = re.fullmatch(r"\.(?:\[(.*)\])?", what)[1]
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert set(extras.split(",") if extras else ()) <= set(project["optional-dependencies"])
        case _:
            pytest.fail(f"no test for {shlex.join(words)}")


# ---- prose ----------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme():
    seen, todo = set(), [PAGES[0]]
    while todo:
        page = todo.pop().resolve()
        if page not in seen and page.suffix == ".md" and page.exists():
            seen.add(page)
            todo += [page.parent / link.partition("#")[0] for link in re.findall(r"\]\(([^)\s:]+)\)", page.read_text())]
    assert {page.resolve() for page in PAGES} <= seen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    """Paths of the project in backticks, so that a renamed file is renamed here too."""
    roots = "benchmarks|deploy|docs|search_spaces|tests|trainables|tuner"
    for name in re.findall(rf"`((?:{roots})/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists() or "METHOD" in name, name


def test_pages_that_the_code_names_exist():
    files = [ROOT / "Makefile", ROOT / "pyproject.toml"]
    for folder in ("benchmarks", "search_spaces", "tests", "trainables", "tuner"):
        files += [path for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    for path in files:
        for name in re.findall(r"docs/[\w./-]+\.(?:md|png)", path.read_text()):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name}"


def test_readme_is_a_landing_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    assert re.findall(r"^(make [\w-]+)", text, re.M) == ["make search", "make test-all"]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test-all"
    assert [path for path in PAGES if path.name == "README.md"] == [ROOT / "README.md"]


def test_the_output_in_the_readme_is_that_of_a_search(finished, home, capsys, monkeypatch):
    """Its search is named as `make search`'s is today, and what it shows is what a search prints."""
    text = (ROOT / "README.md").read_text()
    shown = re.search(r"<!-- output: begin -->\n```text\n(.*?)```\n<!-- output: end -->", text, re.S)[1]
    name = SearchSpec(method="srat").search_name
    assert shown.startswith(f"search {name}: 16 trials x 12 epochs of srat on digits (exp:10), model cnn, eps 0.1\n")
    code, out, _ = run(capsys, monkeypatch, "resume", "first", "--home", home)
    printed = re.sub(r"[\s\u2500-\u257f]+", " ", out + finished[2])  # without the lines of tables
    for words in (
        "sampler auto: the default setting (0 of 6 values published),",
        "Over no search (plain AT with offsets), on ",
        " images of val: the search ",
        "hypervolume",
        "Pareto front on val",
        "clean on the front parameters",
        "pictures",
        "mlflow tuner ui --search",
    ):
        assert words in re.sub(r"\s+", " ", shown) and words in printed, words
    assert code == 0


def test_decisions_are_short():
    """Context, decision, consequence, in at most eight lines."""
    pages = [path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "index.md"]
    assert len(pages) >= 5
    for path in pages:
        for entry in path.read_text().split("\n## ")[1:]:
            title, _, body = entry.partition("\n")
            lines = [line for line in body.splitlines() if line]
            assert len(lines) <= 8, f"{path.name}: {title} has {len(lines)} lines"
            kinds = [line.partition(".**")[0] for line in lines if line.startswith("**")]
            assert kinds == ["**Context", "**Decision", "**Consequence"], f"{path.name}: {title}"
            assert re.search(r"\(2\d{3}-\d\d-\d\d\)$", title), f"{path.name}: {title}"
