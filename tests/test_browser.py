"""Real pages in a real Chromium: the interactive page from a disk, and MLflow's own; only loopback is reachable."""

import os
import shutil
import threading

import pytest

from tests.browser import MISSING, Browser, free_port
from tests.histories import curve, fill, metrics, run_of
from trainables.files import locked
from tuner.home import Home
from tuner.report import figures
from tuner.report.files import write_pictures
from tuner.report.live.server import LiveServer
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.pareto import row_label
from tuner.results.running import Running
from tuner.results.steering import take_up
from tuner.results.summary import front_json
from tuner.spec.search_spec import SearchSpec
from tuner.tracking import runs as layout
from tuner.tracking import ui
from tuner.tracking.tracker import sync

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=MISSING or ""), pytest.mark.timeout(300)]
FRONT = "document.getElementById('front')"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(home, spec, history) with everything in MLflow."""
    home, spec = Home(tmp_path_factory.mktemp("home")), SearchSpec(max_epochs=4, trials=6)
    folder = home.search(spec.search_name)
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    history = fill(History(folder), spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run = run_of(spec, history, home)
        write_pictures(run)
        assert sync(run)
    return home, spec, history


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_from_a_disk_without_a_network(made, tmp_path, width):
    home, spec, history = made
    page = shutil.copy(home.search(spec.search_name) / "front.html", tmp_path)
    best = front_of(spec, history)
    with Browser(width, 844) as browser:
        browser.open(f"file://{page}")
        assert browser.wait("document.querySelectorAll('#params .main-svg').length >= 9")
        shown = browser.js(f"return Object.fromEntries({FRONT}.data.map(t => [t.meta, t.x.length]))")
        assert shown.pop("staircase") == 2 * len(best.rows) + 1 and shown.pop("chosen") == 1
        assert shown == {"front": len(best.rows), "finished": 4 - len(best.rows), "stopped": 2, "paper": 1}
        # drawn, not only in the data
        assert browser.js(f"return {FRONT}.querySelectorAll('.scatterlayer .point').length") == 6 + 1 + 1
        assert browser.js("return document.documentElement.scrollWidth") <= width
        assert browser.js("return performance.getEntriesByType('resource').length") == 0
        assert browser.errors() == []


def place(browser, trial: int) -> tuple[float, float]:
    """Where a trial's point is on the screen."""
    return browser.js(
        f"""const g = {FRONT}, l = g._fullLayout, b = g.getBoundingClientRect();
        const p = D.points.find(q => q.id === String(arguments[0]));
        return [b.left + l._size.l + l.xaxis.d2p(p.x), b.top + l._size.t + l.yaxis.d2p(p.y)]""",
        trial,
    )


def test_hover_names_the_trial_and_a_click_shows_its_classes(made):
    home, spec, history = made
    with Browser(1280, 900) as browser:
        browser.open((home.search(spec.search_name) / "front.html").as_uri())
        browser.wait(f"{FRONT}.querySelectorAll('.point').length")
        browser.hover(*place(browser, 2))
        text = browser.wait(f"{FRONT}.querySelector('.hoverlayer text')?.textContent")
        assert "trial 2" in text and "epoch 2 of 4" in text and "sep_weight = " in text and "class mean: " in text
        browser.hover(*place(browser, 2), click=True)
        browser.wait("document.getElementById('trial').value === '2'")
        axes = len(spec.search_space().searched) + 2
        assert browser.js("return document.querySelectorAll('#parallel .axis-title').length") == axes
        bars = browser.js("return document.getElementById('classes').data.map(t => [t.name, t.x, t.y])")
        assert bars[0][0] == "trial 2" and bars[0][1] == ["0", "1", "2", "3"]
        assert bars[0][2] == pytest.approx([history.trials[2].last[f"robust_acc/{c}"] for c in range(4)], abs=1e-4)
        assert "default setting" in bars[1][0]


@pytest.fixture(scope="module")
def curved(tmp_path_factory):
    """(page, run) of a search whose trials are curves, with both references and an assessment."""
    spec = SearchSpec(max_epochs=4, trials=6)
    run = run_of(spec, fill(History(None), spec, curves=True))
    low, high = [0.1, 0.1, 0.05], [0.3, 0.25, 0.2]
    assessed = {
        "front": [{**row, "p_front": 0.42} for row in run.front().rows],
        "band": {"x": [0.4, 0.5, 0.6], "low": low, "high": high},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "front_json", lambda run: front_json(run) | assessed)
        files = write_pictures(run, tmp_path_factory.mktemp("curved"))
    return files["front.html"], run


@pytest.mark.parametrize("width", [390, 1280])
def test_curves_references_and_band_are_drawn(curved, width):
    page, run = curved
    with Browser(width, 844) as browser:
        browser.open(page.as_uri())
        browser.wait("document.querySelectorAll('#params .main-svg').length >= 9")
        shown = browser.js(f"return Object.fromEntries({FRONT}.data.map(t => [t.meta, t.x.length]))")
        assert shown["no_search"] == shown["paper"] == 3 and shown["front"] == len(run.front().rows)
        assert shown["band"] == 6
        lines = sum(shown.get(name, 0) for name in ("curves", "faint curves"))
        assert lines == 4 * (len(run.history.with_state("finished")) - 1), "three points and a gap for each other trial"
        legend = browser.js(f"return [...{FRONT}.querySelectorAll('.legendtext')].map(e => e.textContent).join('|')")
        for words in (
            "no search (plain AT with offsets)",
            "default setting",
            "90 % band of the front",
            "Pareto front: ",
        ):
            assert words in legend
        assert browser.js("return document.documentElement.scrollWidth") <= width
        assert browser.errors() == []


def test_the_slider_walks_along_the_front(curved):
    page, run = curved
    rows = run.front().rows
    with Browser(1280, 1100) as browser:
        browser.open(page.as_uri())
        browser.wait("document.getElementById('classes').data?.length")
        assert browser.js("return Number(document.getElementById('tradeoff').max)") == len(rows) - 1 >= 2
        for at in (0, len(rows) - 1):
            browser.js(f"const s = document.getElementById('tradeoff'); s.value = {at}; s.oninput()")
            label, row = row_label(rows[at]), rows[at]
            text = browser.wait(
                f"(t => t.startsWith('trial {label},') && t)(document.getElementById('chosen').innerText)"
            )
            assert f"worst class {row['worst_class_robust_acc']:.3f}" in text and "probability 42 %" in text
            assert "start = " in browser.js("return document.getElementById('setting').innerText")
            bars = browser.js("return document.getElementById('classes').data.map(t => [t.name, t.y])")
            counts = run.history.metrics_of(row)
            assert bars[0][0] == f"trial {label}"
            assert bars[0][1] == pytest.approx([counts[f"robust_acc/{c}"] for c in range(4)], abs=1e-4)
            assert bars[1][0].startswith("no search")
            ring = browser.js(f"return (t => [t.x, t.y])({FRONT}.data.find(t => t.meta === 'chosen'))")
            assert ring == [[row["natural_robust_acc"]], [row["worst_class_robust_acc"]]]
            assert browser.js("return document.getElementById('trial').value") == label
        best = [rows[0]["natural_robust_acc"], rows[-1]["worst_class_robust_acc"]]
        assert best == [max(r["natural_robust_acc"] for r in rows), max(r["worst_class_robust_acc"] for r in rows)]
        # a choice in the list moves the slider
        browser.js(f"const s = document.getElementById('trial'); s.value = '{row_label(rows[1])}'; s.onchange()")
        assert browser.js("return document.getElementById('tradeoff').value") == "1"
        assert browser.errors() == []


def test_choices_that_are_no_texts_and_values_beyond_the_ranges_are_drawn(tmp_path):
    spec = SearchSpec(method="reat", max_epochs=4, space={"attack_weights": [False, True], "tail_weight": [2.0, 9.0]})
    history = fill(History(None), spec, failed=False)
    page = write_pictures(run_of(spec, history), tmp_path)["front.html"]
    full = [history.trials[n].params for n in (0, 1, 3, 4)]
    with Browser(1280, 900) as browser:
        browser.open(page.as_uri())
        browser.wait("document.getElementById('parallel').data?.length")
        tail, weights = browser.js(
            "return [...document.getElementById('params').children].map(e => [e.data[0].x, e._fullLayout.xaxis.range])"
        )
        assert tail[0] == pytest.approx([p["tail_weight"] for p in full]) and tail[0][0] == 1.0
        assert 10 ** tail[1][0] < 1.0 < 9.0 < 10 ** tail[1][1]
        assert weights == [[str(p["attack_weights"]) for p in full], [-0.5, 1.5]]
        lines = browser.js("return document.getElementById('parallel').data[0].dimensions[1].values")
        assert lines == [int(p["attack_weights"]) for p in full]
        assert browser.errors() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_live_page_renews_itself(tmp_path, width):
    home, spec = Home(tmp_path), SearchSpec(max_epochs=4, trials=9, name="s")
    folder = home.search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    history = fill(History(folder), spec, curves=True, failed=False)
    history.append("start", 6, params={**history.trials[4].params, "start": 0.4}, method="srat", seed=0)
    history.append("epoch", 6, metrics=metrics(1, 0.5, 0.1))
    running = Running(folder)
    running.heard(6, "node-7", 1)
    running.write()
    tiles = "[...document.querySelectorAll('.tile')].map(t => [t.lastChild.innerText, t.firstChild.innerText])"
    with locked(folder / ".lock"), LiveServer(home) as server, Browser(width, 844) as browser:
        browser.open(server.address)
        browser.wait("document.querySelector('#list a')")
        browser.js("document.querySelector('#list a').click()")
        browser.wait(f"{FRONT}?.data?.length && document.querySelectorAll('#params .main-svg').length >= 9")
        shown = browser.js(f"return Object.fromEntries({FRONT}.data.map(t => [t.meta, t.x.length]))")
        assert shown["no_search"] == 3 and shown["front"] == len(front_of(spec, history).rows) and shown["band"] > 2
        assert browser.js("return document.getElementById('state').innerText") == "running"
        assert "on node-7, for" in browser.js("return document.getElementById('running').innerText")
        assert ["trials have ended", "6 of 9"] in browser.js(f"return {tiles}")
        # a result of another process comes without a reload
        browser.js("window.same = true")
        for epoch in range(2, 5):
            history.append("epoch", 6, metrics=metrics(epoch, 0.9, 0.6))
        history.append("curve", 6, curve=curve(0.9, 0.6))
        history.append("end", 6, state="finished")
        browser.wait("document.getElementById('latest').innerText.startsWith('trial 6')")
        members = [row_label(row) for row in front_of(spec, history).rows]
        assert any(m.startswith("6") for m in members) and browser.wait(f"D.members.join() === '{','.join(members)}'")
        assert browser.js(f"return {FRONT}.data.find(t => t.meta === 'front').x.length") == len(members)
        browser.js("const s = document.getElementById('tradeoff'); s.value = 0; s.oninput()")
        assert f"trial {members[0]}," in browser.js("return document.getElementById('chosen').innerText")
        # a note, whose text is text
        browser.js("document.getElementById('text').value = '<b>look</b>'; document.getElementById('add').click()")
        browser.wait("document.getElementById('said').innerText.startsWith('Asked for')")
        take_up(spec, history, folder)
        assert browser.wait("document.querySelector('#remarks .trial')?.innerText.includes('<b>look</b>')")
        assert browser.js("return document.documentElement.scrollWidth") <= width
        assert browser.js("return window.same") and browser.errors() == []


def judged(trial, val, test, low, high):
    """A row of what `tuner verify` found; values by hand."""
    interval = {
        "natural_robust_acc": [test[0] - 0.02, test[0] + 0.02],
        "robust_acc": [test[0] - 0.02, test[0] + 0.02],
        "worst_class_robust_acc": [low, high],
        "clean_acc": [0.8, 0.9],
        "level": 0.95,
    }
    return {
        "trial": trial,
        "label": str(trial) if trial >= 0 else "no_search",
        "name": f"trial {trial}" if trial >= 0 else "no search",
        "role": "front" if trial >= 0 else "no_search",
        "also": [],
        "seed": 0,
        "epoch": 4,
        "eps": 0.1,
        "images": 359,
        "clean_acc": 0.85,
        "natural_robust_acc": test[0],
        "robust_acc": test[0],
        "worst_class_robust_acc": test[1],
        "worst_class_robust_acc_corrected": test[1] + 0.01,
        "worst_class": "cat",
        "val": {"natural_robust_acc": val[0], "robust_acc": val[0], "worst_class_robust_acc": val[1]},
        "ci": interval,
        "alarms": [],
        "per_class": {
            "cat": {"robust_acc": test[1], "ci": [low, high]},
            "dog": {"robust_acc": 2 * test[0] - test[1], "ci": [0.5, 0.9]},
        },
    }


@pytest.mark.parametrize("width", [390, 1280])
def test_the_verified_page(tmp_path, width):
    from tuner.verification.report import page

    rows = [judged(3, (0.6, 0.3), (0.55, 0.2), 0.15, 0.3), judged(7, (0.5, 0.4), (0.5, 0.18), 0.1, 0.25)]
    rows.append(judged(-1, (0.5, 0.1), (0.5, 0.05), 0.0, 0.15))
    of_seeds = {
        n: {"mean": m, "std": s, "values": []}
        for n, m, s in (
            ("natural_robust_acc", 0.53, 0.01),
            ("robust_acc", 0.53, 0.01),
            ("worst_class_robust_acc", 0.17, 0.03),
            ("clean_acc", 0.8, 0.02),
        )
    }
    rows[0]["seeds"] = {"seeds": [1, 2], "failed": {}, **of_seeds}
    result = {"search": "first", "split": "test", "attack": "apgd", "rows": rows, "front": ["3"], "fell_off": ["7"]}
    result["objectives"] = ["natural_robust_acc", "worst_class_robust_acc"]
    over = {"row": "3", "over": "no_search", "reference": "no_search"}
    found = {"difference": 0.15, "ci": [0.05, 0.25], "verdict": "better"}
    of_rows = [{**over, "metric": m, **found} for m in ("natural_robust_acc", "worst_class_robust_acc", "robust_acc")]
    result |= {"gain": of_rows, "left_out": ["5@0.5"], "subject": {"label": "3", "why": "the knee of the front on val"}}
    (tmp_path / "verified.html").write_text(page(result, SearchSpec(max_epochs=4)))
    with Browser(width, 844) as browser:
        browser.open((tmp_path / "verified.html").as_uri())
        browser.wait(f"{FRONT}.querySelectorAll('.scatterlayer .point').length >= 5")
        shown = browser.js(f"return Object.fromEntries({FRONT}.data.map(t => [t.meta, t.x.length]))")
        assert shown == {"moves": 6, "val": 2, "test": 1, "fell": 1, "paper": 0, "plain": 1, "model": 0, "anew": 1}
        bars = browser.js(f"return {FRONT}.data[2].error_y.arrayminus.concat({FRONT}.data[2].error_y.array)")
        assert bars == pytest.approx([0.05, 0.1])
        anew = browser.js(f"return (t => [t.x, t.y, t.error_x.array, t.error_y.array])({FRONT}.data[7])")
        assert anew == [[0.53], [0.17], [0.01], [0.03]]
        text = browser.js("return document.body.innerText")
        assert "split test, 359 images" in text and "budget 4 epochs" in text and "trial 7 fell off" in text
        assert (
            "On 359 test images trial 3, the knee of the front on val, adds to no search: natural average +0.150"
            in text
        )
        assert "Gains on the same images" in text and "+0.150 (+0.050 .. +0.250) better" in text
        assert "1 other points of the front were not tested: 5@0.5" in text
        titles = browser.js("return [...document.querySelectorAll('.xtitle, .ytitle')].map(e => e.textContent)")
        assert sum("on val and test (fraction)" in t for t in titles) == 2 and "class" in titles
        assert browser.js("return document.documentElement.scrollWidth") <= width
        browser.js("const s = document.getElementById('trial'); s.value = '7'; s.onchange()")
        values = browser.wait(
            "(d => d.name === 'trial 7' && [d.y, d.error_y.array])(document.getElementById('classes').data[0])"
        )
        assert values[0] == pytest.approx([0.18, 0.82]) and values[1] == pytest.approx([0.07, 0.08])
        assert browser.js("return performance.getEntriesByType('resource').length") == 0 and browser.errors() == []


def test_an_empty_front_says_so(tmp_path):
    spec = SearchSpec(max_epochs=4)
    files = write_pictures(run_of(spec, History(None)), tmp_path)
    with Browser(390, 844) as browser:
        browser.open(files["front.html"].as_uri())
        assert "no trial has finished its full budget" in browser.wait("document.body.innerText")
        assert "no trial has reported yet" in browser.wait(f"{FRONT}.textContent")
        assert browser.errors() == []


@pytest.fixture(scope="module")
def pages(made):
    """MLflow's server, and the links that `tuner ui` prints for the search."""
    home, spec, _ = made
    uri = f"sqlite:///{home.mlflow_db}"
    with ui.server(uri, home, free_port()) as (process, address):
        assert ui._answers(process, address, threading.Event())
        yield ui.search_links(address, uri, home, [spec.search_name])[spec.search_name]


def test_the_runs_table_shows_objectives_and_searched_parameters_first(made, pages):
    _, spec, history = made
    with Browser(2400, 1000) as browser:
        browser.open(pages["trials"])
        # by place on the screen: the grid moves columns after it has made them
        browser.wait("document.querySelectorAll('.ag-header-cell').length > 12", 90)
        heads = (
            "[...document.querySelectorAll('.ag-header-cell')].sort((a, b) => a.getBoundingClientRect().left - "
            "b.getBoundingClientRect().left).map(e => e.getAttribute('col-id')).filter(c => c.includes('`') "
            "&& !c.startsWith('attributes'))"
        )
        browser.wait(f"{heads}[0].startsWith('metrics')")
        named = browser.js(f"return {heads}")
        assert named[:2] == [f"metrics.`{n}`" for n in spec.objectives]
        assert "tags.`tuner.pareto`" in named and "params.`loss`" in named and "params.`one_minus_beta`" in named
        text = browser.wait("(t => t.includes('trial 6') && t)(document.body.innerText)")
        assert "7 matching runs" in text and str(history.trials[0].last["natural_robust_acc"])[:8] in text


def test_the_chart_view_shows_all_trials(made, pages):
    _, spec, _ = made
    with Browser(1700, 1000) as browser:
        browser.open(pages["charts"])
        text = browser.wait("(t => t.includes('Parallel Coordinates') && t)(document.body.innerText)", 90)
        assert "robust_acc vs. worst_class" in text
        assert browser.wait(
            "[...document.querySelectorAll('.js-plotly-plot')].map(g => (g.data || []).filter("
            "t => t.type === 'scatter' && t.x && t.x.length === 1).length).includes(6) || "
            "document.querySelectorAll('.scatterlayer .point').length >= 6"
        )


def test_the_artifact_view_shows_the_interactive_page(made, pages):
    with Browser(1700, 1000) as browser:
        browser.open(pages["picture"])
        browser.wait("document.querySelectorAll('iframe').length", 90)
        listed = browser.js("return document.body.innerText")
        assert all(name in listed for name in ("front.html", "front.png", "front.parquet", "spec.yaml"))
        browser.frame(0)
        assert browser.wait(f"{FRONT} && {FRONT}.querySelectorAll('.scatterlayer .point').length") == 8


def test_ui_prints_links_and_ends_with_all_its_processes(made, tmp_path):
    import signal
    import subprocess
    import sys

    home, spec, _ = made
    code = (
        "from tuner.tracking.ui import serve; from tuner.home import Home; "
        f"serve(Home({str(home.root)!r}), None, {spec.search_name!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    first, *lines = [process.stdout.readline() for _ in range(6)]
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    children = listed.stdout.split()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert first.startswith("live http://127.0.0.1:") and first.endswith(f"/search/{spec.search_name}\n")
    assert lines[0].startswith("http://127.0.0.1:") and "workflowType=machine_learning" in lines[0]
    assert any("charts" in line and "viewStateShareKey" in line for line in lines)
    assert children
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
    assert layout.tracking_uri(home)
