"""Every entry point. Each target makes one input from a ``random.Random``, tries it, and says whether it was accepted.

How to add one: a function below ``@target``, which gets the random numbers, the corpus and an empty scratch folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image

from tests import oracles
from tests.fuzz import mutate
from tests.fuzz.corpus import Corpus, picture, rows, without_attacks
from tests.fuzz.trial import Finding, command
from tests.layouts import CifarResNet18
from trainables import storage
from trainables.checkpoint import NAME, load_checkpoint
from trainables.data import DataSpec, check
from trainables.foreign import fit, read_state
from trainables.loop import Trainer
from trainables.model_io import load_model, load_trial, load_weights
from trainables.models.build import build_model
from trainables.stem_store import StemStore
from tuner.errors import UsageError
from tuner.execution import driver
from tuner.execution.trial_config import trial_config
from tuner.optimizer.study import RecordedStudy
from tuner.report.console import show_result
from tuner.results.bundle import ABOUT
from tuner.results.searches import load_search
from tuner.results.summary import front_json
from tuner.spec.fields import SearchFields
from tuner.spec.option import options_of
from tuner.spec.validation import Pairs
from tuner.sync.mirror import LEASE, Mirror
from tuner.sync.shared_dataset import dataset_of
from tuner.tracking.runs import search_key

Target = Callable[[Random, Corpus, Path], bool]
TARGETS: dict[str, Target] = {}


def target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


# ---- what a user types ---------------------------------------------------------------------------------------------


@target
def options(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """`tuner search` and `tuner submit`: any options with any values."""
    words: list[object] = [draw.choice(("search", "search", "submit"))]
    for asked in draw.sample(list(options_of(SearchFields).values()), draw.choice((1, 1, 2, 4))):
        words += [f"--{asked.flag}", _value_for(asked, draw)]
    return command(*words, "--dry-run", "--json", check=sensible_spec)


def _value_for(asked, draw: Random) -> str:
    if draw.random() < 0.3 and asked.kind.suggestions:
        return draw.choice(list(asked.kind.suggestions())) + draw.choice(("", "x", "1", "0.5"))
    if draw.random() < 0.3 and not isinstance(asked.kind, Pairs) and asked.default is not None:
        return str(asked.default) + draw.choice(("", "", "0", "e9", "-", " "))
    return draw.choice(mutate.FLAGS)


COMMANDS = {
    "front": ["--at", "--json", "--storage"],
    "ls": ["--json"],
    "verify": ["--pick", "--most", "--attack", "--seeds", "--dataset", "--json"],
    "audit": ["--search", "--sample", "--seed", "--attack", "--dataset", "--json"],
    "leaderboard": ["--json"],
    "export": ["--pick", "--to", "--epoch", "--parquet", "--json"],
    "space": ["--json"],
    "methods": ["--json"],
    "import": ["--name", "--json"],
    "reproduce": ["--pick", "--dataset", "--json"],
    "jobs": ["--address", "--json"],
    "logs": ["--address", "--json"],
    "stop": ["--address", "--owner", "--json"],
    "nonsense": ["--json"],
}


@target
def commands(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """Every other command: any arguments, any options."""
    name = draw.choice(list(COMMANDS))
    words: list[object] = [name]
    for _ in range(draw.choice((0, 1, 1, 1, 2))):
        words.append(draw.choice(("s", "s", str(corpus.search / "verified.json"), draw.choice(mutate.FLAGS))))
    for flag in draw.sample(COMMANDS[name], draw.randrange(len(COMMANDS[name]) + 1)):
        value = str(scratch / "out") if flag in ("--to", "--parquet") else draw.choice(mutate.FLAGS)
        words += [flag] if flag == "--json" else [flag, value]
    if name in ("front", "ls", "verify", "audit", "export"):
        words += ["--home", corpus.home.root]
    if name in ("import", "reproduce"):
        words += ["--home", scratch / "home"]
    with without_attacks(), without_network():
        return command(*words)


def without_network():
    """No server is asked, and no storage but folders."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    return mock.patch("urllib.request.OpenerDirector.open", refuse)


# ---- specs and spaces ----------------------------------------------------------------------------------------------

SPEC = {
    "method": ["srat", "wat"], "dataset": "digits", "imbalance": "exp:10", "model": "cnn",
    "set": {"lr": 0.01, "passes": 2},
    "objectives": ["robust_acc", "worst_class_robust_acc"], "constraint": ["clean_acc>=0.5"],
    "fix": {"start": 0.3}, "space": {"lr": [0.01, 0.1]},
    "trials": 6, "max_epochs": 8, "seeds": 2, "time_budget": 60.0, "budget": "40epochs",
    "cpus_per_trial": 1.0, "gpus_per_trial": 0.0, "name": "mine", "smooth_worst": "cvar:0.2", "sampler": "tpe",
}  # fmt: skip
SPACE = {
    "start": [0.1, 0.9],
    "loss": ["ce", "ldam"],
    "lr": {"low": 0.01, "high": 0.1, "log": True},
    "milestones": "0.5,0.7",
    "weight_decay": 0.0005,
}


def _yaml(draw: Random, value: dict) -> bytes:
    text = yaml.safe_dump(mutate.in_json(draw, value), allow_unicode=True)
    if draw.random() < 0.5:
        return text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.2:
        bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi")
        )
        return draw.choice(
            (bomb, mutate.deep(), "? " * 3000, "a: !!bool x", "a: !!int ''", "a: 1\na: 2", "a: 0x" + "f" * 5000)
        ).encode()
    return mutate.in_bytes(draw, text.encode("utf-8", "surrogatepass"))


@target
def spec_file(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    (scratch / "spec.yaml").write_bytes(_yaml(draw, SPEC))
    return command("search", "--spec", scratch / "spec.yaml", "--dry-run", "--json", check=sensible_spec)


@target
def space_file(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    (scratch / "space.yaml").write_bytes(_yaml(draw, SPACE))
    return command("search", "--space", scratch / "space.yaml", "--dry-run", "--json", check=sensible_spec)


def sensible_spec(spec) -> None:
    for name, most in {
        "trials": 1e6,
        "max_epochs": 1e6,
        "time_budget": 1e9,
        "seeds": 1e6,
        "cpus_per_trial": 1e6,
    }.items():
        if spec[name] is not None and not 0 < spec[name] <= most:
            raise Finding(f"accepted nonsense: {name} {spec[name]}")


# ---- a search's folder ---------------------------------------------------------------------------------------------


def received(corpus: Corpus, scratch: Path, *changed: str) -> Path:
    """The search's folder in a home of its own, whose files are the corpus's, all but those that will change."""
    folder = scratch / "home" / "searches" / "s"
    shutil.copytree(corpus.search, folder, copy_function=os.link)
    os.symlink(corpus.home.root / "datasets", scratch / "home" / "datasets")
    for name in changed:
        (folder / name).unlink()
    return folder


@target
def sent(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """`tuner import` of a bundle: its bytes, one of its files or a name is wrong. What it takes in can be looked at."""
    data = corpus.bundle.read_bytes()
    if draw.random() < 0.5:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            held = {name: file.read(name) for name in file.namelist()}
        name, sink = draw.choice(list(held)), io.BytesIO()
        match draw.randrange(4):
            case 0:
                held[str(draw.choice(mutate.FLAGS))] = held.pop(name)
            case 1 if name == ABOUT:
                held[name] = mutate.json_text(draw, json.loads(held[name]))
            case _:
                held[name] = mutate.in_bytes(draw, held[name])
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in held.items():
                file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # by itself it takes no empty name
        data = sink.getvalue()
    else:
        data = mutate.in_bytes(draw, data)
    (scratch / "x.zip").write_bytes(data)
    if not command("import", scratch / "x.zip", "--name", "taken", "--home", scratch / "home", "--json"):
        return False
    return command("front", "taken", "--home", scratch / "home", "--json")


@target
def stored_spec(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    folder = received(corpus, scratch, "spec.yaml")
    stored = yaml.safe_load((corpus.search / "spec.yaml").read_text())
    (folder / "spec.yaml").write_bytes(_yaml(draw, stored))
    return _read(draw, scratch)


@target
def history(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    folder = received(corpus, scratch, "history.jsonl")
    lines = (corpus.search / "history.jsonl").read_text().splitlines()
    damaged = mutate.in_bytes(draw, "\n".join(lines).encode()) if draw.random() < 0.2 else mutate.in_lines(draw, lines)
    (folder / "history.jsonl").write_bytes(damaged)
    return _read(draw, scratch)


def _read(draw: Random, scratch: Path) -> bool:
    """What reads a search's own files."""
    home = scratch / "home"
    command("ls", "--home", home, "--json")
    words = draw.choice(
        (["--json"], ["--json"], ["--html", scratch / "x.html"], ["--parquet", scratch / "x.parquet"], [])
    )
    return command("front", "s", "--home", home, *words, check=sensible_front)


def sensible_front(results) -> None:
    for result in results:
        for row in [*result["front"], *result["paper_curve"], *result["no_search"]]:
            for name, value in row.items():
                if name.endswith("_acc") and value is not None and not 0 <= value <= 1 + 1e-9:
                    raise Finding(f"accepted nonsense: {name} {value}")


@target
def result(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """A finished search that is started again: it is not run again, whatever its result.json says."""
    folder = received(corpus, scratch, "result.json")
    stored = json.loads((corpus.search / "result.json").read_text())
    (folder / "result.json").write_bytes(mutate.json_text(draw, stored))
    run = load_search(type(corpus.home)(scratch / "home"), "s")
    ran: list[object] = []

    def again(run, *_):
        ran.append(run)
        return {**front_json(run), "epochs_trained": 0, "wall_s": 0.0}

    with mock.patch.object(driver, "_run", again), quiet():
        found = driver.search(run.spec, run.home)
        show_result(found, run.spec, run.home, as_json=draw.random() < 0.5)
    sensible_front([found])
    return not ran


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@target
def verification(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """The results of `tuner verify`: a damaged one is made anew."""
    files = sorted(p.relative_to(corpus.search).as_posix() for p in (corpus.search / "verify").rglob("*.*"))
    name = draw.choice(files)
    folder = received(corpus, scratch, name, *("verified.html", "verified.json", "verified.parquet"))
    data = (corpus.search / name).read_bytes()
    as_json = name.endswith("json") and draw.random() < 0.8
    (folder / name).write_bytes(mutate.json_text(draw, json.loads(data)) if as_json else mutate.in_bytes(draw, data))
    with without_attacks():
        return command("verify", "s", "--home", scratch / "home", *draw.choice((["--json"], [])))


@target
def certificate(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    stored = json.loads((corpus.search / "verified.json").read_text())
    (scratch / "verified.json").write_bytes(mutate.json_text(draw, stored))
    with without_attacks():
        return command("audit", scratch / "verified.json", "--home", corpus.home.root, "--json")


@target
def small_files(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """What a driver keeps beside its history: study, keys, lease, the stem's key."""
    folder = received(corpus, scratch)
    home = type(corpus.home)(scratch / "home")
    run = load_search(home, "s")
    name = draw.choice(("study.log", "mlflow.key", "dataset", LEASE, "key.json", "epoch-0001.pt"))
    if name == "study.log":
        RecordedStudy(run.spec, run.history, folder)
        _damage(draw, folder / name)
        RecordedStudy(run.spec, run.history, folder)
        return True
    if name == "mlflow.key":
        _damage(draw, folder / name, search_key(folder).encode())
        return len(search_key(folder)) == 32
    if name == "dataset":
        _damage(draw, folder / name, b"digits-v1")
        storing = type(run.spec)(storage=str(scratch))
        return bool(dataset_of(storing, folder))
    if name == LEASE:
        place = scratch / "storage" / "searches" / "s"
        place.mkdir(parents=True)
        lease = {"who": "elsewhere:/home", "every": 2.0, "beat": "x"}
        (place / LEASE).write_bytes(mutate.json_text(draw, lease))
        with mock.patch("tuner.sync.mirror._MISSED_INTERVALS", 0.0):
            Mirror(str(scratch / "storage"), home, "s").claim()
        return True
    store = StemStore(str(home.root), None, "0123456789abcdef")
    store.describe({"code": "x", "torch": "2"})
    store.write(1, {"epochs": []})
    _damage(draw, home.root / "stems" / "0123456789abcdef" / name)
    store.outdated({"code": "y", "torch": "2"})
    return store.read(1) is not None


def _damage(draw: Random, path: Path, data: bytes | None = None) -> None:
    data = path.read_bytes() if data is None else data
    path.unlink(missing_ok=True)
    path.write_bytes(mutate.in_bytes(draw, data))


# ---- models --------------------------------------------------------------------------------------------------------


@target
def checkpoint(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """A trial's checkpoint: where it is exported or tested, and where the trial goes on from it."""
    config = trial_config(corpus.run, corpus.run.history.trials[0])
    data = (Path(config.folder) / NAME).read_bytes()
    place = scratch / NAME
    if draw.random() < 0.4:
        place.write_bytes(mutate.in_bytes(draw, data))
    else:
        state = torch.load(io.BytesIO(data), weights_only=True)
        torch.save(_wrong_state(draw, state), place)
    if draw.random() < 0.5:
        return load_checkpoint(scratch, Trainer(config)) is not None
    model, _ = load_trial(scratch, corpus.home.root)
    finite(model)
    return True


def _wrong_state(draw: Random, state: dict) -> dict:
    key = draw.choice(list(state))
    match draw.randrange(5):
        case 0:
            del state[key]
        case 1:
            state[key] = mutate.any_value(draw)
        case 2:
            state["config"] = mutate.in_json(draw, json.loads(json.dumps(state["config"])))
        case _:
            name = draw.choice(list(state["model"]))
            wrong = (torch.zeros(3), torch.full(state["model"][name].shape, math.nan), torch.zeros(10**5), "x")
            state["model"][name] = draw.choice(wrong)
    return state


@target
def weights(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """A state dict that somebody published: in the layout of a public code, or of ours."""
    ours, theirs = ("cnn", None) if draw.random() < 0.3 else ("resnet18:0.1", CifarResNet18(WIDTHS, 10, channels=1))
    net = build_model(ours, 10, (1, 8, 8))
    state = dict((theirs or net).state_dict())
    for _ in range(draw.choice((0, 1, 1, 2))):
        state[draw.choice([*state, "mean", "std", "model.", "", "normalize.mu"])] = _odd_tensor(draw)
    buffer = io.BytesIO()
    torch.save({draw.choice(("state_dict", "net", "else")): state} if draw.random() < 0.5 else state, buffer)
    data = buffer.getvalue() if draw.random() < 0.6 else mutate.in_bytes(draw, buffer.getvalue())
    (scratch / "weights.pt").write_bytes(data)
    state = read_state(scratch / "weights.pt").state
    try:
        load_weights(net, fit(state, net).weights)
    except ValueError as error:  # of which a command makes its own sentence
        raise UsageError(str(error)) from None
    finite(net)
    return True


WIDTHS = (6, 13, 26, 51)  # of resnet18:0.1


def _odd_tensor(draw: Random) -> torch.Tensor:
    some = torch.ones(draw.choice((0, 1, 3, 6)))
    kinds = (torch.complex64, torch.int8, torch.bool, torch.float64)
    return draw.choice(
        (some, some.to(draw.choice(kinds)), some.to_sparse(), some * math.nan, some.to("meta"), some.sum())
    )


def finite(model) -> None:
    if not all(torch.isfinite(v).all() for v in model.state_dict().values() if v.is_floating_point()):
        raise Finding("accepted nonsense: weights that are no numbers")


@target
def model(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """An exported model."""
    shutil.copytree(corpus.model, scratch / "model")
    if draw.random() < 0.5:
        about = json.loads((corpus.model / "model.json").read_text())
        (scratch / "model" / "model.json").write_bytes(mutate.json_text(draw, about))
    else:
        _damage(draw, scratch / "model" / "model.safetensors")
    found = load_model(scratch / "model")
    finite(found)
    return True


# ---- images --------------------------------------------------------------------------------------------------------


def _check_data(dataset: str, corpus: Corpus, scratch: Path) -> bool:
    found = check(DataSpec(dataset, "none", val_fraction=0.3), scratch / "home")
    if len(set(found.classes)) < len(found.classes) or not all(name.strip() for name in found.classes):
        raise Finding(f"accepted nonsense: classes {found.classes}")
    return True


@target
def parquet(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    shutil.copytree(corpus.parquet, scratch / "data")
    file = scratch / "data" / draw.choice(("train.parquet", "test.parquet"))
    if draw.random() < 0.4:
        _damage(draw, file)
    else:
        pq.write_table(_wrong_table(draw), file)
    return _check_data(f"parquet:{scratch / 'data'}", corpus, scratch)


Rows = list[dict]
NAMES = (
    *(["", "b", "c"], ["a", "a", "c"], ["a/b", "a-b", "c"], "abc", 5, [], {"x": "a"}, {"0": "a", "1": "b"}, [None] * 3),
    ["a"],
)
LABELS = (None, -1, 7, 10**12, 2**62)
TEXTS = ("a", "b", "", "é", "x" * 5000, None)
CELLS = ("x", 3.5, b"x", [1], {"bytes": "x"}, None, True)
TABLES: tuple[Callable[[Random, Rows], Rows], ...] = (
    lambda draw, rows: rows,
    lambda draw, rows: [{**rows[0], "image": {"bytes": _wrong_image(draw), "path": "x"}}, *rows[1:]],
    lambda draw, rows: [*rows[:-1], {**rows[-1], "label": draw.choice(LABELS)}],
    lambda draw, rows: [{**row, "label": draw.choice(TEXTS)} for row in rows],
    lambda draw, rows: [{k: v for k, v in row.items() if k != "label"} for row in rows],
    lambda draw, rows: [{k: v for k, v in row.items() if k != "image"} for row in rows],
    lambda draw, rows: rows[: draw.randrange(1, 4)],
    lambda draw, rows: [{**row, "label": draw.choice(CELLS)} for row in rows[:1]],
    lambda draw, rows: [{**row, "image": draw.choice(CELLS)} for row in rows[:1]],
    lambda draw, rows: [{**row, "label": draw.choice((0, 1, 2))} for row in rows],
    lambda draw, rows: [{**row, "image": {**row["image"], "path": "1/2_3.png"}} for row in rows],
)


def _wrong_table(draw: Random) -> pa.Table:
    hub = {"info": {"features": {"label": {"_type": "ClassLabel", "names": draw.choice((["a", "b", "c"], *NAMES))}}}}
    about = hub if draw.random() < 0.8 else mutate.in_json(draw, hub)
    table = pa.Table.from_pylist(draw.choice(TABLES)(draw, rows()))
    return table.replace_schema_metadata({"huggingface": json.dumps(about).encode("utf-8", "surrogatepass")})


def _wrong_image(draw: Random) -> bytes | None:
    kinds = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
    match draw.randrange(8):
        case 0:
            return None
        case 1:
            return b""
        case 2:
            return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
        case 3:
            return _large(draw)
        case 4:
            data = io.BytesIO()
            mode = draw.choice(("L", "1", "I;16", "F", "RGBA", "CMYK", "P"))
            kind = "TIFF" if mode in ("F", "CMYK") else "PNG"
            Image.new(mode, (draw.choice((1, 8)), 8)).save(data, kind)
            return data.getvalue()
    return mutate.in_bytes(draw, picture(0, 0, draw.choice(kinds)))


def _large(draw: Random) -> bytes:
    """A PNG that says it is large."""
    data = bytearray(picture(0, 0))
    data[16:24] = np.array(draw.choice(((8, 2**31 - 1), (60000, 60000), (20000, 8000), (0, 8))), ">u4").tobytes()
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@target
def image_folder(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    data = scratch / "data"
    shutil.copytree(corpus.images, data)
    place = data / draw.choice(("train", "test")) / draw.choice("abc")
    match draw.randrange(8):
        case 0:
            (place / "0.png").unlink()
            os.mkfifo(place / "0.png")
        case 1:
            shutil.rmtree(place)
        case 2:
            place.rename(place.with_name(draw.choice((".hidden", "é\u202e", "[red]", " ", "a b", "x" * 200))))
        case 3:
            (place / "0.png").unlink()
            (place / "0.png").symlink_to(draw.choice(("/dev/zero", "/nowhere", "0.png", "/dev/tty")))
        case 4:
            (place / "loop").symlink_to(place)
        case _:
            name = draw.choice(("0.png", "0.png", "0.jpg", "0.gif", "0.tiff", "0.eps"))
            (place / name).unlink(missing_ok=True)
            (place / name).write_bytes(_wrong_image(draw) or b"")
    return _check_data(f"folder:{data}", corpus, scratch)


# ---- from other programs -------------------------------------------------------------------------------------------

JOB = {
    "submission_id": "s-1", "job_id": "01", "status": "SUCCEEDED", "driver_exit_code": 0, "message": "done",
    "metadata": {"tuner.search": "s"}, "start_time": 1795884480000, "end_time": 1795884490000, "type": "SUBMISSION",
}  # fmt: skip
ANSWERS = {
    "/api/authentication_mode": {"authentication_mode": "disabled"},
    "/api/jobs/s-1/logs": {"logs": 'a line\ntuner-result: {"search": "s", "state": "finished"}\n'},
    "/api/jobs/s-1/stop": {"stopped": True},
    "/api/jobs/s-1": JOB,
    "/api/jobs/": [JOB, {**JOB, "submission_id": "s-2", "status": "FAILED", "driver_exit_code": 137}],
    "/api/v0/cluster_metadata": {"data": {"rayVersion": "2.60.0", "pythonVersion": "3.11.0"}},
    "/api/v0/nodes": {"data": {"result": {"result": [{"state": "ALIVE", "resources_total": {"CPU": 2.0}}]}}},
    "/api/cluster_status": {"data": {"clusterStatus": {"autoscalerReport": {"activeNodes": {"n": 1}}}}},
}


@target
def jobs(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """What a cluster's dashboard, or another server at its address, answers."""
    wrong = draw.choice(list(ANSWERS))

    def answer(self, request, *_, **__):
        path = request.full_url.partition("://x:8265")[2].partition("?")[0]
        right = ANSWERS.get(path, JOB)
        return io.BytesIO(mutate.json_text(draw, right) if path == wrong else json.dumps(right).encode())

    how = draw.choice((["jobs"], ["logs", "s-1"], ["logs", "s-1", "-f"], ["stop", "s-1"]))
    impatient = mock.patch.multiple("tuner.remote.submission", AWAY_S=0.0, POLL_S=0.01, STOP_WAIT_S=0.0)
    with mock.patch("urllib.request.OpenerDirector.open", answer), impatient:
        return command(*how, "--address", "http://x:8265", *draw.choice((["--json"], [])))


@target
def oracle(draw: Random, corpus: Corpus, scratch: Path) -> bool:
    """Numbers of the authors' codes, with which ours are compared."""
    stored = json.loads((oracles.STORED / draw.choice(ORACLES)).read_text())
    stored["cases"] = [draw.choice(stored["cases"])]
    (scratch / "oracle.json").write_bytes(mutate.json_text(draw, stored))
    with quiet():
        code = oracles.main([str(scratch / "oracle.json")])
    if code not in (0, 1):
        raise Finding(f"exit code {code}")
    return code == 0


ORACLES = [path.name for path in sorted(oracles.STORED.glob("*.json")) if path.stat().st_size < 300_000]


def forget() -> None:
    """What one input leaves in this process."""
    storage.open_storage.cache_clear()
