"""A model that no search made, verified: the accuracy it has in its authors' code, a certificate, an audit of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tests import layouts
from tests.conftest import tuner_here
from tests.verifying import without_ray
from trainables import called, first_look
from trainables.data import DataSpec, open_splits, open_test
from trainables.models.build import build_model
from tuner.cli.results import model_spec
from tuner.errors import UsageError
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec
from tuner.verification import verify
from tuner.verification.certificate import read_certificate
from tuner.verification.console import show_verification
from tuner.verification.foreign import _options, verify_model
from tuner.verification.robustbench import eps_text, record
from tuner.verification.summary import flags_of

WIDTHS, ARCH = (6, 13, 26, 51), "resnet18:0.1"
SPEC = SearchSpec(method="at", model=ARCH, imbalance="none", set={"eps": 0.02, "eval_attack": 3})
AS_OPTIONS = ("--arch", ARCH, "--dataset", "digits", "--set", "eps=0.02", "--set", "eval_attack=3")
DATA = DataSpec("digits", "none")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(the authors' model, its file, a home)."""
    folder = tmp_path_factory.mktemp("published")
    return *layouts.published(folder, *open_splits(DATA, folder).train.batch(slice(None)), WIDTHS, 25), folder


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_look, "ATTACK_S", 0.1)
        yield


@pytest.fixture(scope="module")
def verified(published):
    _, file, home = published
    with without_ray():
        return verify_model(file, SPEC, Home(home), attack="pgd:3x1")


@pytest.mark.slow
def test_each_image_is_judged_as_in_the_authors_code(published, verified):
    model, _, home = published
    split = open_test(DATA, home)
    x, y = split.batch(slice(None))
    with torch.no_grad():
        right = (model(x).argmax(1) == y).numpy()
    (row,) = verified["rows"]
    labels, clean, robust = flags_of(row["flags"])
    assert np.array_equal(labels, y.numpy()) and np.array_equal(clean, right)
    assert 0.3 < right.mean() and 0 < robust.sum() < clean.sum()
    by_class = [right[labels == c].mean() for c in range(10)]
    assert row["clean_acc"] == pytest.approx(np.mean(by_class)) and row["role"] == "model" and row["eps"] == 0.02


def test_the_page_on_python_asks_as_the_command_does():
    """Else the natural average is another, and the leaderboard has it among other thinnings."""
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
    (call,) = re.findall(r"`verify_model\(FILE, (SearchSpec\(.*?\))\)`", page)
    asked = eval(call, {"SearchSpec": SearchSpec, "ARCH": ARCH, "DATA": "digits"})
    assert asked == model_spec("robust.pt", ARCH, "digits", set=None)


def test_how_to_audit_it_is_told_with_all_that_was_asked(published, verified, capsys):
    """Without its radius an audit says that the model was attacked with another one."""
    show_verification(verified, Home(published[2]))
    assert "--dataset DATASET --set eps=0.02 --set eval_attack=3" in " ".join(capsys.readouterr().out.split())
    other = SearchSpec(method="at", threat="l2:0.5", image_size=16, test_split="val")
    assert _options(other) == ["--image-size", "16", "--test-split", "val", "--threat", "l2:0.5"]


def test_report_and_certificate(published, verified):
    folder = published[2] / "models" / verified["search"]
    page = (folder / "verified.html").read_text()
    assert verified["search"] in page and f"{ARCH} on digits" in page and "keys renamed" in page
    assert (folder / "verified.parquet").exists()
    certificate = read_certificate(folder / "verified.json")
    (claim,) = certificate.claims
    assert claim.role == "model" and claim.checkpoint == verified["model"]["file"]
    assert claim.checkpoint == hashlib.sha256(published[1].read_bytes()).hexdigest()  # of the file that others have
    labels, clean, robust = flags_of(verified["rows"][0]["flags"])
    assert np.array_equal(certificate.labels, labels) and np.array_equal(claim.robust, robust)
    assert certificate.spec["model"] == ARCH and len(certificate.train_counts) == 10


def test_a_repeated_command_tests_nothing_again(published, verified, monkeypatch):
    monkeypatch.setattr(verify, "run_jobs", None)
    again = verify_model(published[1], SPEC, Home(published[2]), attack="pgd:3x1")
    assert again["rows"] == verified["rows"]


def test_another_radius_is_another_result(published, verified):
    with without_ray():
        other = SearchSpec(method="at", model=ARCH, imbalance="none", set={"eps": 0.2, "eval_attack": 3})
        result = verify_model(published[1], other, Home(published[2]), attack="pgd:3x1")
    assert result["search"] != verified["search"]
    assert result["rows"][0]["robust_acc"] < verified["rows"][0]["robust_acc"]


@pytest.mark.slow
def test_in_another_norm(published):
    with without_ray():
        spec = SearchSpec(method="at", model=ARCH, imbalance="none", threat="l2:0.3", set={"eval_attack": 3})
        result = verify_model(published[1], spec, Home(published[2]), attack="pgd:3x1")
    (claim,) = read_certificate(published[2] / "models" / result["search"] / "verified.json").claims
    assert (claim.threat, claim.eps) == ("l2", 0.3)
    given = ("--arch", ARCH, "--dataset", "digits", "--threat", "l2:0.3", "--set", "eval_attack=3")
    assert audited(published, result, "--model", published[1], *given).returncode == 0
    done = audited(published, result, "--model", published[1], *given[:5], "linf:0.3", *given[6:])
    assert done.returncode == 1 and "was attacked with l2, eps 0.3" in done.stderr


def audited(published, verified, *args):
    home = published[2]
    file = home / "models" / verified["search"] / "verified.json"
    return tuner_here("audit", file, "--home", home, "--json", "--sample", 60, *args)


@pytest.mark.slow
def test_an_audit_needs_the_file_and_holds(published, verified, tmp_path):
    done = audited(published, verified, "--model", published[1], *AS_OPTIONS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["holds"] and [row["name"] for row in found["rows"]] == [found["search"]], "which was called trial 0"
    done = audited(published, verified)
    assert done.returncode == 2 and "is of a model that no search made" in done.stderr
    changed = torch.load(published[1], weights_only=True)
    changed["state_dict"]["module.model.linear.bias"] += 1
    torch.save(changed, tmp_path / "other.pt")
    done = audited(published, verified, "--model", tmp_path / "other.pt", *AS_OPTIONS)
    assert done.returncode == 1 and "the file is not the certificate's" in done.stderr
    done = audited(published, verified, "--model", published[1], *AS_OPTIONS[:-3], "eps=0.03")
    assert done.returncode == 1 and "was attacked with linf, eps 0.02" in done.stderr


def test_an_audit_of_lies_fails(published, verified, tmp_path):
    stored = json.loads((published[2] / "models" / verified["search"] / "verified.json").read_text())
    stored["rows"][0]["robust"] = stored["rows"][0]["clean"]
    (tmp_path / "lie.json").write_text(json.dumps(stored))
    given = ("--model", published[1], *AS_OPTIONS, "--home", published[2], "--json")
    done = tuner_here("audit", tmp_path / "lie.json", *given)
    assert done.returncode == 1 and not json.loads(done.stdout)["holds"]


# ---- a function of the user's own -----------------------------------------------------------------------------------

CODE = """
import torch
from torch import nn

from beside import SLOPE


class Bars(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.mixing = nn.BatchNorm1d(64)
        with torch.no_grad():
            self.head.weight.copy_(torch.sin(slope * torch.arange(640.0)).reshape(10, 64))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(self.mixing(x.flatten(1)))


def bars():
    return Bars(SLOPE)


def other():
    return Bars(SLOPE + 1)


def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(65, 10))


def noisy():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Noise())


class Noise(nn.Module):
    def forward(self, z):
        return z + torch.rand_like(z)


def closed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Closed())


class Closed(nn.Module):
    def forward(self, z):
        return z.detach()


def undefined():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Threshold(1e9, float("nan")))


def nothing():
    return "no model"


def broken():
    raise SystemExit(3)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A file of the user's code with one beside it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_models.py").write_text(CODE)
    (folder / "beside.py").write_text("SLOPE = 3.0\n")
    return folder / "my_models.py"


CALLED = ("--dataset", "digits", "--set", "eps=0.02", "--set", "eval_attack=3")


def test_a_function_of_the_users_own_is_verified_and_audited(own, tmp_path):
    args = ("--model", f"{own}:bars", *CALLED, "--home", tmp_path)
    done = tuner_here("verify", *args, "--attack", "pgd:3x1", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (row,) = result["rows"]
    labels, clean, robust = flags_of(row["flags"])
    x, y = open_test(DATA, tmp_path).batch(slice(None))
    right = (x.flatten(1) @ torch.sin(3.0 * torch.arange(640.0)).reshape(10, 64).T).argmax(1) == y
    assert np.array_equal(labels, y.numpy()) and np.array_equal(clean, right.numpy()) and 0 < clean.sum() > robust.sum()
    folder = tmp_path / "models" / result["search"]
    assert (
        result["model"]["arch"] == f"{own}:bars"
        and "my_models.py:bars on digits" in (folder / "verified.html").read_text()
    )
    certificate = folder / "verified.json"
    assert read_certificate(certificate).spec["model"] == f"{own}:bars"[:200]
    again = tuner_here("verify", *args, "--attack", "pgd:3x1")
    assert "it is tested already" in again.stderr
    assert f"{certificate} --model {own}:bars --dataset DATASET" in again.stdout, "how it is audited"
    given = ("audit", certificate, "--sample", 60, *CALLED, "--home", tmp_path)
    done = tuner_here(*given, "--model", f"{own}:bars")
    assert done.returncode == 0 and "The certificate holds." in done.stdout, done.stderr
    done = tuner_here(*given, "--model", f"{own}:other")
    assert done.returncode == 1 and "the model is not the certificate's" in done.stderr


def test_a_function_whose_code_has_changed_is_tested_again(own, tmp_path):
    """Its weights are the same: only the pixels are turned round before them."""
    file = tmp_path / "changing.py"
    (tmp_path / "beside.py").write_text("SLOPE = 3.0\n")
    args = ("verify", "--model", f"{file}:bars", *CALLED, "--attack", "pgd:1x1", "--json", "--home", tmp_path)
    clean = []
    for code in (CODE, CODE.replace("x.flatten(1)", "1 - x.flatten(1)")):
        file.write_text(code)
        os.utime(file, (len(clean), len(clean)))  # else Python takes what it compiled a moment ago
        done = tuner_here(*args)
        assert done.returncode == 0 and "it is tested already" not in done.stderr, done.stderr
        clean.append(json.loads(done.stdout)["rows"][0]["clean_acc"])
    assert clean[0] != clean[1] and "it is tested already" in tuner_here(*args).stderr


def test_other_test_images_are_tested_again(parquet_dir, tmp_path):
    """The labels of the test file were wrong and are mended: what was tested before is of other data."""
    data = shutil.copytree(parquet_dir, tmp_path / "data")
    (tmp_path / "flat.py").write_text(
        "from torch import eye, nn\n\ndef flat():\n"
        "    head = nn.Linear(3, 3, bias=False)\n    head.weight.data = eye(3)\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)\n"
    )
    args = ("verify", "--model", f"{tmp_path / 'flat.py'}:flat", "--dataset", f"parquet:{data}", "--attack", "pgd:1x1")
    first, again = (tuner_here(*args, "--home", tmp_path, "--json") for _ in range(2))
    assert first.returncode == 0 and "it is tested already" in again.stderr, first.stderr
    table = pq.read_table(data / "test.parquet")
    labels = pa.array([(label + 1) % 3 for label in table["label"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("label"), "label", labels), data / "test.parquet")
    mended = tuner_here(*args, "--home", tmp_path, "--json")
    assert "it is tested already" not in mended.stderr
    assert [json.loads(done.stdout)["rows"][0]["clean_acc"] for done in (first, mended)] == [1.0, 0.0]


@pytest.mark.parametrize(
    "function, said",
    [
        ("missing", "returns no model (AttributeError: "),
        ("broken", "returns no model (SystemExit: 3)"),
        ("nothing", "returns str; it takes a torch.nn.Module"),
        ("narrow", "it gives (4, 9) for 4 images of 10 classes, not logits of shape (4, 10)"),
        ("wide", "it does not take images of shape (4, 1, 8, 8) (RuntimeError: "),
        ("noisy", "its logits of an image depend on the other images of a batch, or on chance"),
        ("closed", "its logits have no gradient for the pixels, which attacks need"),
        ("undefined", "its logits are not all finite numbers"),
    ],
)
def test_a_function_that_returns_no_model_for_the_data_is_one_sentence(own, tmp_path, function, said):
    done = tuner_here("verify", "--model", f"{own}:{function}", *CALLED, "--home", tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert done.stderr.startswith("Error: --model") and len(done.stderr.splitlines()) == 1


def test_what_names_a_function_and_what_a_file(own, tmp_path, monkeypatch):
    for text, is_one in (("a.b:c", True), ("a.py:c", True), ("/x/y.py:c", True), ("a.pt", False), ("a:1", False)):
        assert called.is_call(text) is is_one
    assert not called.is_call(str(own)) and not called.is_call("C:")
    assert called.is_call("a" * 300 + ":f")  # longer than a file's name may be
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").write_text("")  # a file of that name is a file
    assert not called.is_call("a:b")
    done = tuner_here("verify", "--model", f"{own}:bars", "--arch", "cnn", "--dataset", "digits")
    assert done.returncode == 2 and "--arch 'cnn' is the network of a file" in done.stderr
    done = tuner_here("verify", "--model", f"{own}:bars", "--dataset", "nonsense", "--home", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("Error: unknown dataset 'nonsense'")
    done = tuner_here("verify", "--model", "no_such_module:f", "--dataset", "digits", "--home", tmp_path)
    assert done.returncode == 2 and "'no_such_module:f' returns no model (ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize(
    "args, part",
    [
        ((), "takes the name of a search, or --model FILE"),
        (("first", "--model", "FILE"), "takes the name of a search, or --model FILE"),
        (("--model", "FILE"), "needs --arch NAME"),
        (("--model", "FILE", "--arch", ARCH), "and --dataset"),
        (("--model", "FILE", *AS_OPTIONS, "--seeds", "2"), "--pick, --most and --seeds are of a search"),
        (("--model", "not-there.pt", *AS_OPTIONS), "cannot be read (No such file"),
        (("--model", "FILE", "--arch", "cnn", "--dataset", "digits"), "cannot be used as cnn: its tensors"),
        (("--model", "FILE", "--arch", "nonsense", "--dataset", "digits"), "unknown model 'nonsense'"),
        (("--model", "FILE", "--arch", ARCH, "--dataset", "nonsense"), "Error: unknown dataset 'nonsense'"),
        (("--model", "HERE", "--arch", ARCH, "--dataset", "digits"), "is a folder; FILE of an export is its model.saf"),
        (("first", "--arch", "cnn"), "belong to --model FILE"),
        (("--model", "FILE", *AS_OPTIONS[:4], "--threat", "l2:9"), "Error: --threat 'l2:9.0' is not allowed; no two"),
        (("--model", "FILE", *AS_OPTIONS, "--json-robustbench", "x.json"), "holds AutoAttack's accuracy"),
    ],
)
def test_wrong_input(published, args, part):
    args = [{"FILE": published[1], "HERE": published[2]}.get(a, a) for a in args]
    done = tuner_here("verify", *args, "--home", published[2])
    assert done.returncode == 2 and part in done.stderr and done.stderr.count("Error") == 1, done.stderr


def test_a_file_that_needs_no_change_is_said_so(tmp_path):
    """One of ours: nothing is renamed, and no name is made to begin with a capital."""
    file = tmp_path / "mine.safetensors"
    save_file(build_model("cnn:0.1", 10, (1, 8, 8)).state_dict(), file)
    asked = ("--model", file, "--arch", "cnn:0.1", *CALLED, "--attack", "pgd:1x1")
    with without_ray():
        done = tuner_here("verify", *asked, "--home", tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.match(r"The file mine\.safetensors \(SHA-256 \w{12}\.\.\.\) as cnn:0\.1\.\n", done.stdout), done.stdout


def test_robustbenchs_record(published, verified):
    """Its fields and their order as in model_info/cifar10/Linf/Rice2020Overfitting.json; per cent of images as text."""
    found = record(verified["rows"][0], SPEC)
    labels, clean, robust = flags_of(verified["rows"][0]["flags"])
    fields = "link name authors additional_data number_forward_passes dataset venue architecture eps clean_acc reported"
    assert list(found)[:12] == [*fields.split(), "autoattack_acc"]
    assert found["clean_acc"] == f"{100 * clean.sum() / len(clean):.2f}" and found["eps"] == "0.02"
    assert found["autoattack_acc"] == f"{100 * robust.sum() / len(robust):.2f}" and found["architecture"] == ARCH
    texts = {8 / 255: "8/255", 4 / 255: "4/255", 0.5: "0.5", 0.1: "0.1", 1 / 255: "1/255"}
    assert {eps: eps_text(eps, "linf") for eps in texts} == texts
    assert [eps_text(eps, "l2") for eps in (0.5, 1.0, 128 / 255)] == ["0.5", "1", "0.501961"], "no pixel's steps"


def test_a_received_certificate_chooses_no_network(published, verified, tmp_path):
    stored = json.loads((published[2] / "models" / verified["search"] / "verified.json").read_text())
    stored["spec"]["model"] = "wrn-994-32"
    stored["labels"] = "ffff" * 359
    (tmp_path / "odd.json").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="is damaged: ValueError 'labels'"):
        read_certificate(tmp_path / "odd.json")


def test_a_record_is_written_into_a_file_or_refused_in_one_sentence(tmp_path):
    from tuner.report.files import write_asked

    write_asked("json-robustbench", tmp_path / "new" / "record.json", "{}")
    assert (tmp_path / "new" / "record.json").read_text() == "{}"
    with pytest.raises(UsageError, match="--json-robustbench .* is a folder; give a file"):
        write_asked("json-robustbench", tmp_path, "{}")
    with pytest.raises(UsageError, match="--json-robustbench .* cannot be written"):
        write_asked("json-robustbench", tmp_path / "new" / "record.json" / "below", "{}")
