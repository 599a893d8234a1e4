"""S10: text is text. One table of hostile names goes through every output, and comes out as it is."""

import ast
import io
import json
import re
import unicodedata
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from tests.browser import MISSING, Browser
from tests.conftest import tuner_here
from tests.histories import fill, metrics
from tests.test_browser import judged
from tuner import escape
from tuner.home import Home
from tuner.report import figures, png
from tuner.report.comparison import compare_runs
from tuner.report.comparison_figures import comparison_data, comparison_png
from tuner.report.console import PlainConsole
from tuner.report.files import write_pictures
from tuner.report.html.front_page import front_page
from tuner.report.model_card import card_markdown
from tuner.report.progress import Progress
from tuner.report.text import summary_markdown
from tuner.results.history import History
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec
from tuner.tracking import runs
from tuner.verification.console import show_verification
from tuner.verification.report import page as verified_page

HOSTILE = [
    "[/red]",  # Rich's markup
    "ho[me]",
    "[bold]x[/bold]",
    "[link=http://x]y[/link]",
    ":cat:",
    "\x1b[31mred\x1b]0;title\x07",  # a terminal's
    "\x9b2J",
    "over\rwritten",
    "back\b\b\bspace",
    "\x00",
    "\u202egnp.exe",  # turns the line around
    "two\nlines",
    "line\u2028separator",
    "\udcff",  # of a file's name that is not UTF-8
    "<!--<script>",  # HTML's
    "</script a=1 ",
    "<!--<script ",
    "</script><img src=x onerror=document.title='boom'>",
    "<b>bold</b>",
    "&lt;b&gt;",
    "\"'><svg onload=1>",
    "__proto__",  # JavaScript's
    "constructor",
    "${1+1}",
    "a|b",  # Markdown's
    "`code`",
    "``",
    "*star* _under_",
    "[text](http://x)",
    "![i](x)",
    "# head",
    "- item",
    "1. first",
    "~~gone~~",
    "\\",
    "$x$",  # a formula of matplotlib's
    "$\\frac$",
    "_hidden",
    "@@DATA@@",  # our own templates'
    "%{x}",
    "{name}",
    "=1+1",
    "x" * 300,
    "Ünïcödé 猫 👩‍🔬",
]
SHOWN = [escape.printable(name) for name in HOSTILE]
DATA = "folder:/d/" + "[/red]ho[me]:cat:<!--<script>|`x`$y$\x1b[31m\u202e"
REASON = "it broke: [/red] \x1b[2J <script> |"


def obeyed(text):
    """The characters that a terminal would obey or a reader not see; what ends a line is ours."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - set("\n\u200d")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two searches on data with these names, as a received folder has them."""
    home = Home(tmp_path_factory.mktemp("home"))
    for name, method in (("one", "srat"), ("two", "mail")):
        spec = SearchSpec(method=method, max_epochs=4, trials=6, dataset=DATA, name=name)
        folder = home.search(name)
        folder.mkdir(parents=True)
        (folder / "spec.yaml").write_text(spec.to_yaml())
        history = fill(History(folder), spec, classes=HOSTILE, curves=True)
        history.append("start", 8, params=spec.search_space().default(), method=method, seed=0)
        history.append("end", 8, state="failed", reason=REASON)
    return home


@pytest.fixture(scope="module")
def run(home):
    return load_search(home, "one")


# ---- terminal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_s10_a_console_shows_names_as_they_are(name):
    from rich.table import Table

    for terminal in (False, True):
        out = io.StringIO()
        console = PlainConsole(file=out, width=1000, force_terminal=terminal, color_system=None)
        console.print(name, highlight=False, soft_wrap=True)
        table = Table(name, title=name)
        table.add_row(name)
        console.print(table)
        first, *_ = escape.printable(name).split("\n")
        assert not obeyed(out.getvalue()) and out.getvalue().count(first) == 4


@pytest.mark.slow
def test_s10_commands_that_read(home):
    for command in (["ls"], ["front", "one"], ["front", "one", "two"], ["front", "one", "--at", "clean_acc>=0.1"]):
        done = tuner_here(*command, "--home", home.root)
        assert done.returncode == 0, done.stderr
        assert not obeyed(done.stdout + done.stderr)
        told = tuner_here(*command, "--home", home.root, "--json")
        assert json.loads(told.stdout) and not obeyed(told.stdout + told.stderr)
    cell = re.sub(r"[\s│]", "", tuner_here("ls", "--home", home.root).stdout)
    assert "ho[me]" in cell and ":cat:" in cell


def test_s10_what_a_search_says_while_it_runs(run, capsys):
    progress = Progress(run)
    progress.search_started(run)
    progress.trial_ended(run.history.record(8))
    said = capsys.readouterr().err
    assert escape.printable(DATA) in said and escape.printable(REASON) in said and not obeyed(said)
    out = io.StringIO()
    console = PlainConsole(file=out, width=300)
    console.print(progress._view())
    assert "one  " in out.getvalue() and not obeyed(out.getvalue())


def test_s10_errors_of_the_command_line(tmp_path, monkeypatch):
    """Also exceptions that nobody foresaw."""
    for name in HOSTILE:
        done = tuner_here("front", name, "--home", tmp_path)
        assert done.returncode == 2 and not obeyed(done.stdout + done.stderr), done.stderr

    def fails(*args):
        raise RuntimeError("[/red]\x1b[2J")

    monkeypatch.setattr("tuner.report.console.show_searches", fails)
    done = tuner_here("ls", "--home", tmp_path)
    assert done.returncode == 1 and "[/red]" in done.stderr and not obeyed(done.stderr)


def test_s10_printing_is_done_in_one_place():
    """Whoever prints foreign text elsewhere prints it raw."""
    root, found = Path(__file__).parent.parent / "tuner", []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console"):
                found.append((path.relative_to(root).as_posix(), node.func.id))
    assert set(found) == {("escape.py", "print")}


def result_of(run):
    """What `tuner verify` found; by hand."""
    rows = [judged(0, (0.6, 0.3), (0.55, 0.2), 0.15, 0.3), judged(3, (0.5, 0.4), (0.5, 0.18), 0.1, 0.25)]
    rows.append(judged(-1, (0.5, 0.1), (0.5, 0.05), 0.0, 0.15))
    for row, name in zip(rows, HOSTILE):
        row["worst_class"], row["alarms"] = name, [f"gradients of {name} \x1b[2J"]
        row["per_class"] = {c: {"robust_acc": 0.4, "clean_acc": 0.6, "ci": [0.3, 0.5]} for c in HOSTILE}
    result = {"search": "one", "split": "test", "attack": "apgd", "rows": rows, "front": ["0"], "fell_off": ["3"]}
    result["objectives"] = list(run.spec.objectives)
    return result | {"gain": [], "left_out": [], "subject": {"label": "0", "why": "the knee of the front on val"}}


def test_s10_verify_prints_names(run, home, capsys):
    show_verification(result_of(run), home)
    out = capsys.readouterr().out
    assert "([/red])" in out and "(ho[me])" in out and "gradients of ho[me]" in out and not obeyed(out)
    show_verification(result_of(run), Home(home.root, "a store"), "parquet:s3://b/d")
    assert "verified.json --storage 'a store' --dataset parquet:s3://b/d" in capsys.readouterr().out


# ---- pages -----------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags that a page has, and its data; plotly's own code is not read."""

    def __init__(self, page):
        super().__init__()
        self.seen, self.data, self._inside = [], "", None
        self.feed(re.sub(r"<script>.*?</script>", "", page, flags=re.S))

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self._inside = dict(attributes).get("id")

    def handle_data(self, text):
        self.data += text if self._inside == "data" else ""


def pages(run, home):
    both = comparison_data(compare_runs([run, load_search(home, "two")]))
    return {
        "front": front_page(figures.picture_data(run)),
        "compared": front_page(both),
        "verified": verified_page(result_of(run), run.spec),
    }


def test_s10_pages_hold_names_as_text(run, home):
    for page in pages(run, home).values():
        page.encode()
        tags = Tags(page)
        assert not {"img", "svg", "b"} & set(tags.seen) and tags.seen.count("script") == 1
        assert set(SHOWN) <= set(json_texts(json.loads(tags.data)))
        ours = page.split("<script>")[0].split("</style>")[1]  # plotly's code follows
        assert "<!--" not in ours and not obeyed(ours)


def json_texts(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from json_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from json_texts(inner)
    elif isinstance(value, str):
        yield value


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_s10_pages_live_in_a_browser(run, home, tmp_path):
    with Browser(1280, 900) as browser:
        for name, page in pages(run, home).items():
            (tmp_path / f"{name}.html").write_text(page)
            browser.open((tmp_path / f"{name}.html").as_uri())
            ticks = browser.wait(
                "(t => t.length && t.map(e => e.textContent))([...document.querySelectorAll('#classes .xtick text')])"
            )
            assert browser.js("return document.title") != "boom" and browser.errors() == []
            drawn = {re.sub(r"[\s\u200b]", "", tick) for tick in ticks}
            wanted = {re.sub(r"\s", "", name) for name in SHOWN}
            assert drawn <= wanted and len(drawn) > 15, drawn - wanted
            bars = browser.js("return document.getElementById('classes').data[0].x.length")
            assert bars == len(HOSTILE), "also __proto__ has a bar"


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_s10_pictures_draw_names(run, home):
    both = compare_runs([run, load_search(home, "two")])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what matplotlib says of a text
        warnings.filterwarnings("ignore", "Glyph .* missing|.*constrained_layout not applied|.*Tight layout")
        assert png.png(figures.picture_data(run)).startswith(b"\x89PNG")
        assert comparison_png(both, comparison_data(both)).startswith(b"\x89PNG")


def test_s10_a_picture_has_the_names_that_it_was_given():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    for name in HOSTILE:
        axes.plot([0, 1], label=f"of {name}")
    axes.set_xticks(range(len(HOSTILE)), [escape.one_line(name) for name in HOSTILE])
    axes.set_title("".join(HOSTILE))
    legend = axes.legend()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        png.png_bytes(figure, {"title": "", "line": "", "note": ""})
    assert [text.get_text() for text in legend.get_texts()] == [f"of {name}" for name in SHOWN]
    assert not any(text.get_parse_math() for text in legend.get_texts())
    assert [text.get_text() for text in axes.get_xticklabels()] == [escape.one_line(name) for name in HOSTILE]


# ---- Markdown --------------------------------------------------------------------------------------------------------

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
OURS = {"softbreak", "text", "code_inline", "text_special"}


def inline(text):
    """(kinds of the parts, their text) of the only line."""
    tokens = [t for t in PARSER.parse(text) if t.type == "inline"]
    assert len(tokens) == 1, tokens
    return {t.type for t in tokens[0].children}, "".join(t.content for t in tokens[0].children)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_s10_markdown_says_names(name):
    for text in (escape.markdown(name), escape.code(name)):
        for place in (text, f"of {text} here", f"- {text}", f"### {text}"):
            kinds, said = inline(place)
            assert kinds <= OURS, (place, kinds)
            assert escape.one_line(name).strip() in said.replace("\\|", "|")
        table = PARSER.parse(f"| a | b |\n|---|---|\n| {text} | 1 |\n")
        cells = [t for t in table if t.type == "inline"]
        assert len(cells) == 4 and {t.type for t in cells[2].children} <= OURS
        assert "".join(t.content for t in cells[2].children).strip() == escape.one_line(name).strip()


ABOUT = {
    "architecture": {"shape": [1, 8, 8], "classes": HOSTILE, "model": "cnn"},
    "training": {"dataset": DATA, "imbalance": "exp:10", "seed": 0, "eps": 0.1},
    "params": {},
    "method": "srat",
    "weights": "last",
    "trial": 3,
    "search": "one",
    "epochs": 4,
    "pick": "knee",
    "code": "x",
    "torch": "2",
    "offsets": {"kind": "prior", "tau": 0.5, "values": [0.1] * len(HOSTILE)},
}


def test_s10_the_model_card(run):
    values = {**metrics(4, 0.5, 0.1, HOSTILE), **{f"clean_acc/{c}": 0.5 for c in HOSTILE}}
    card = card_markdown({**ABOUT, "metrics": [{"split": "val", "attack": "a|b <b>", "eps": 0.1, **values}]})
    tokens = PARSER.parse(card)
    assert not [t for t in tokens if t.type == "html_block"]
    parts = [t for token in tokens if token.type == "inline" for t in token.children]
    assert {t.type for t in parts} <= OURS | {"strong_open", "strong_close"}
    rows = [t for t in tokens if t.type == "td_open"]
    assert len(rows) == 7 + 4 * len(HOSTILE) and not obeyed(card)
    said = ["".join(part.content for part in t.children).strip() for t in tokens if t.type == "inline"]
    for name in HOSTILE:
        assert escape.one_line(name).strip() in said
    assert [t.tag for t in tokens if t.type == "heading_open"] == ["h1", "h2", "h3", "h2"]


def test_s10_the_description_in_mlflow(run):
    tokens = PARSER.parse(summary_markdown(run))
    assert not [t for t in tokens if t.type == "html_block"]
    parts = [t for token in tokens if token.type == "inline" for t in token.children]
    assert {t.type for t in parts} <= OURS and [t.type for t in tokens].count("table_open") == 1
    assert escape.one_line(DATA) in "".join(t.content for t in parts)


# ---- MLflow ----------------------------------------------------------------------------------------------------------


class Recorder:
    """MLflow's client as far as runs are made, with what MLflow's databases refuse."""

    def __init__(self):
        self.values = []

    def search_runs(self, *args, **options):
        return []

    def create_run(self, experiment, started, tags, run_name):
        self.values += [*tags.values(), run_name]
        return type("Run", (), {"info": type("Info", (), {"run_id": "r"})})

    def log_batch(self, run, metrics=(), params=(), tags=()):
        assert all(len(p.value) <= 6000 for p in params)
        self.values += [p.value for p in params] + [t.value for t in tags] + [m.key for m in metrics]

    def update_run(self, *args, **options):
        pass


def test_s10_tags_params_and_names_in_mlflow(run):
    from dataclasses import replace

    from tuner.tracking.tracker import write

    client = Recorder()
    spec = replace(run.spec, dataset=DATA + "x" * 9000, experiment=None)
    runs.parent_run(client, "0", spec, "one", "key", 0.0)
    changes = runs.Changes(name="one", params={"a": REASON * 400}, tags={"tuner.reason": REASON * 900})
    changes.tags |= {f"tuner.{i}": name for i, name in enumerate(HOSTILE)}
    changes.metrics = [(runs.metric_name(f"robust_acc/{name}"), 0.5, 0, 0) for name in HOSTILE]
    runs.trial_run(client, "0", "p", changes)
    write(client, "r", changes)
    assert all(len(v) <= 8000 and not obeyed(v) for v in client.values)
    assert len(runs.experiment_name(spec)) <= 500 and not obeyed(runs.experiment_name(spec))
    assert len({key for key, *_ in changes.metrics}) == len(HOSTILE)


def test_s10_a_key_is_no_filter(tmp_path):
    """A received folder's key goes into a query of MLflow's."""
    (tmp_path / "mlflow.key").write_text("x' and tags.a != '")
    key = runs.search_key(tmp_path)
    assert re.fullmatch("[0-9a-f]{32}", key) and runs.search_key(tmp_path) == key


# ---- tables and files ------------------------------------------------------------------------------------------------


def test_s10_files_hold_names(run, home, tmp_path):
    import pyarrow.parquet as pq

    files = write_pictures(run, tmp_path)
    names = pq.read_schema(files["front.parquet"]).names
    assert {f"robust_acc/{name}" for name in SHOWN} <= set(names)
    done = tuner_here("export", "one", "--parquet", tmp_path / "all.parquet", "--home", home.root)
    assert done.returncode == 0, done.stderr
    assert {f"robust_acc/{name}" for name in SHOWN} <= set(pq.read_schema(tmp_path / "all.parquet").names)
    assert yaml.safe_load(run.spec.to_yaml())["dataset"] == DATA
