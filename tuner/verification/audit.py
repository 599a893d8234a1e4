"""`tuner audit`: check a certificate of `tuner verify` by attacking a sample of the images again.

An attack starts at random, so two honest runs of it differ on a few images. They differ in both directions alike: under
the hypothesis that the certificate's flags come from a run like ours, its run and ours are exchangeable for every
image. From that two exact one-sided binomial tests follow, whatever the attack's noise is. Over all rows of the
certificate they fail an honest one in at most 1 % of the audits (each test has its share of the level):

robust, now broken   The sample is attacked `RUNS` times, after the first only the images that the certificate or the
                     first run calls broken. Of the images that exactly one of the ``RUNS + 1`` runs (the certificate's
                     is one) calls robust, that one is the certificate in a share of ``1 / (RUNS + 1)``. (An image that
                     both the certificate and the first run call robust cannot be among them: it is attacked once.)
broken, now robust   Of the images that the certificate and the first run judge differently, the certificate calls half
                     broken.

Both hold where images are frames of tracks too: what differs between runs are starts, drawn for each image on its own.

Flags of a clean image are not random. One that differs is put down to rounding where the two largest logits differ by
less than `ROUNDING` of the largest; any other does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.errors import Failed, UsageError
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search, search_names
from tuner.sync.named_places import check_named
from tuner.verification.certificate import Certificate, Claim, read_certificate
from tuner.verification.foreign import ROLE, ForeignModel
from tuner.verification.job import name_of
from tuner.verification.verify import Say, check_ball, parse_attack

if TYPE_CHECKING:
    from torch import nn

    from trainables.config import TrialConfig
    from trainables.data import Split

RUNS = 4  # of the attack on what may be broken
LEVEL = 0.01  # of all tests of an audit
ROUNDING = 1e-4
SAMPLE = 200  # images
ROLE_NAMES = {"front": "front", "paper": "default setting", "no_search": "no search", ROLE: "model"}


@dataclass(frozen=True)
class Model:
    """A model of the certificate as it is found here."""

    claim: Claim
    config: TrialConfig
    network: nn.Module | None = None  # of a function, which no checkpoint holds
    title: str | None = None  # of a model that no search made

    @property
    def name(self) -> str:
        return self.title or name_of(self.claim.trial, self.claim.offsets.tau)


def audit(
    file: Path,
    home: Home | None = None,
    *,
    search: str | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    attack: str | None = None,
    dataset: str | None = None,
    model: Callable[[], ForeignModel] | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Check the certificate in ``file`` against a search of this home; returns what `--json` prints.

    ``model``: opens what is checked in place of a search, where the certificate is of a model that no search made.
    ``search``: its name here; by default the one that the certificate names, if this home has it. ``sample`` images are
    drawn with ``seed``. ``attack``: another than the certificate's, whose findings are told but not tested. ``dataset``
    as in `verify_search`.

    ``UsageError`` for wrong input and for a file that is no certificate; ``Failed`` where data, checkpoints or classes
    here are not those of the certificate.
    """
    home, certificate = home or Home(), read_certificate(Path(file))
    for flag, value, least in (("--sample", sample, 1), ("--seed", seed, 0)):
        if value < least:
            raise UsageError(f"{flag} {value} is not allowed; it takes a whole number of at least {least}")
    other = attack is not None and parse_attack(attack) != certificate.attack
    attack = parse_attack(attack if attack is not None else certificate.attack)
    if model is not None or certificate.claims[0].role == ROLE:
        name, models = _foreign(certificate, model)
    else:
        name = search if search is not None else _known(certificate, home)
        run = load_search(home, name)
        check_named(run.spec, home, name, f"audit {file} --search", dataset=dataset)
        models = [_found(run, claim) for claim in certificate.claims]
    check_ball(attack, models[0].config.threat)
    split = _test_split(models[0].config, certificate, say)
    rows = np.sort(np.random.default_rng(seed).permutation(certificate.images)[:sample])
    say(f"{len(rows)} of {certificate.images} test images (seed {seed}), attack {attack}")
    found: list[dict[str, Any]] = []
    level = LEVEL / (2 * len(models))
    for model in models:
        found.append(_check(model, split, rows, attack, certificate.classes, level=0.0 if other else level))
        say(f"{model.name}: {found[-1]['why'] or 'holds'}")
    return {
        "search": name,
        "attack": attack,
        "certificate_attack": certificate.attack,
        "split": "test",
        "sample": len(rows),
        "seed": seed,
        "images": [int(row) for row in rows],
        "rows": found,
        "holds": all(row["holds"] for row in found),
    }


def _foreign(certificate: Certificate, opened: Callable[[], ForeignModel] | None) -> tuple[str, list[Model]]:
    """Name and model of a certificate of one that no search made. ``UsageError`` unless it is such a certificate, and
    the model is named; ``Failed`` unless it is the certificate's, under the same attack's budget."""
    if opened is None:
        raise UsageError(
            f"the certificate is of a model that no search made, {certificate.search!r}; --model FILE --arch NAME, or "
            "--model MODULE:FUNCTION, and --dataset DATASET say which it is"
        )
    if len(certificate.claims) > 1 or certificate.claims[0].role != ROLE:
        raise UsageError(f"the certificate is of search {certificate.search!r}, not of a model from a file")
    (claim,), model = certificate.claims, opened()
    if model.digest != claim.checkpoint:
        what = "file" if model.network is None else "model"
        raise Failed(f"the {what} is not the certificate's ({model.digest[:12]}, not {claim.checkpoint[:12]})")
    _check_budget(model.name, model.config, claim)
    return model.name, [Model(claim, model.config, model.network, model.name)]


def _known(certificate: Certificate, home: Home) -> str:
    """The name in a certificate only chooses among the searches that this home has."""
    if certificate.search not in search_names(home):
        raise UsageError(
            f"the certificate is of a search {certificate.search!r}, which {str(home.root)!r} does not have; "
            "--search NAME says which of its searches is meant"
        )
    return certificate.search


def _found(run: SearchRun, claim: Claim) -> Model:
    """``Failed`` unless the search has the claim's trial, with its checkpoint and under its attack's budget."""
    from trainables.storage import explain
    from trainables.verification_run import fingerprint

    name = name_of(claim.trial, claim.offsets.tau)
    try:
        record = run.history.record(claim.trial)
    except KeyError:
        raise Failed(f"{name} of the certificate is not in search {run.name!r}") from None
    config = trial_config(run, record)
    try:
        here = fingerprint(config.folder)
    except OSError as error:
        raise Failed(explain(config.folder, error)) from None
    if here != claim.checkpoint:
        raise Failed(
            f"{name}: the checkpoint here is not the certificate's "
            f"({(here or 'missing')[:12]}, not {claim.checkpoint[:12]})"
        )
    _check_row(run, claim, name)
    _check_budget(name, config, claim)
    return Model(claim, config)


def _check_budget(name: str, config: TrialConfig, claim: Claim) -> None:
    training = config.full_training()
    if (config.threat, training.eps, training.eval_attack) != (claim.threat, claim.eps, claim.search_steps):
        raise Failed(
            f"{name} was attacked with {claim.threat}, eps {claim.eps:g} and {claim.search_steps} steps, "
            f"but here it is {config.threat}, {training.eps:g} and {training.eval_attack}"
        )


def _check_row(run: SearchRun, claim: Claim, name: str) -> None:
    """``Failed`` unless the search has this trial with these offsets, and in this role."""
    points = [offsets for offsets, _ in run.history.record(claim.trial).points if offsets.tau == claim.offsets.tau]
    if not points or not np.allclose(points[0].values, claim.offsets.values, rtol=0, atol=1e-9):
        raise Failed(f"{name}: the offsets of the certificate are not the search's")
    of_role = {
        "front": run.front().rows,
        "paper": [row for method in run.spec.methods for row in run.paper_rows(method)],
        "no_search": run.no_search_rows(),
    }
    if (claim.trial, claim.offsets.tau) not in {(r["trial"], r["offsets"]["tau"]) for r in of_role[claim.role]}:
        raise Failed(
            f"{name} has role {claim.role} in the certificate, which it does not have in search {run.name!r}; where "
            "that has gone on since, its front is another one: verify it again"
        )


def _test_split(config: TrialConfig, certificate: Certificate, say: Say) -> Split:
    """The test images; ``Failed`` unless they are the certificate's. What cannot be checked of them is said."""
    import torch

    from trainables.data import digest, open_test

    device = "cuda" if torch.cuda.is_available() else "cpu"
    split = open_test(config.data_spec, Path(config.home), device)
    if len(split) != certificate.images or digest(split) != certificate.data:
        raise Failed(f"the test images of {config.dataset!r} here are not the certificate's: pixels or labels differ")
    if unchecked := _check_tracks(split, certificate):
        say(unchecked)
    return split


def _check_tracks(split: Split, certificate: Certificate) -> str | None:
    """What of the tracks cannot be checked, in a sentence. ``Failed`` where they are others here: they decide how wide
    intervals from the certificate are."""
    here, theirs = split.groups, certificate.tracks
    if theirs is None:
        what = "the certificate does not say of which tracks the test images are, so intervals from it count each image"
        return None if here is None else what
    if here is None:
        return "nothing says here of which tracks the test images are, so those of the certificate are not checked"
    pairs = np.stack([here.cpu().numpy(), theirs])
    if {len(np.unique(numbers)) for numbers in pairs} != {np.unique(pairs, axis=1).shape[1]}:
        raise Failed("the tracks of the test images here are not the certificate's")
    return None


def _check(
    model: Model, split: Split, rows: np.ndarray, attack: str, classes: tuple[str, ...], *, level: float
) -> dict[str, Any]:
    """One row of the result; ``why``: what does not hold, or None. ``level``: of each test; 0 for no tests."""
    import torch

    from trainables.data import Split as Some

    claim = model.claim
    network, here = _network(model)
    if here != classes:
        raise Failed(f"{model.name}: the classes here, or their order, are not the certificate's")
    network = network.to(split.labels.device)

    def attacked(some: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        index = torch.as_tensor(some, device=split.labels.device)
        part = Some(split.base, split.index[index], split.labels[index])
        return _attack(network, part, attack, claim, number)

    clean, robust = attacked(rows, 1)
    said_clean, said_robust = claim.clean[rows], claim.robust[rows]
    differ = rows[clean != said_clean]
    rounding = _on_the_edge(network, split, differ)
    row = {
        "row": claim.trial,
        "name": model.name,
        "offsets": claim.offsets.to_dict(),
        "role": claim.role,
        "device": split.labels.device.type,
        "clean_differ": len(differ),
        "clean_rounding": rounding,
        "robust_now_broken": int((said_robust & ~robust).sum()),
        "broken_now_robust": int((~said_robust & robust).sum()),
    }
    why = None
    if len(differ) > rounding:
        why = f"{len(differ) - rounding} clean images are classified otherwise, which rounding does not explain"
    elif level:
        runs = [robust]
        maybe = ~(said_robust & robust)
        for number in range(2, RUNS + 1):
            again = robust.copy()
            again[maybe] = attacked(rows[maybe], number)[1] if maybe.any() else again[maybe]
            runs.append(again)
        row |= _tests(said_robust, np.stack(runs), maybe)
        why = _why(row, level)
    return {**row, "holds": why is None, "why": why}


def _network(model: Model) -> tuple[nn.Module, tuple[str, ...]]:
    """The model, and the classes of its data here."""
    from trainables.data import check
    from trainables.model_io import load_trial

    config = model.config
    if model.network is not None:
        return model.network, tuple(check(config.data_spec, Path(config.home)).classes)
    network, about = load_trial(config.folder, Path(config.home), config.dataset, model.claim.offsets)
    return network, tuple(about["architecture"]["classes"])


def _attack(network: Any, part: Split, attack: str, claim: Claim, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images are classified right without and under the attack; ``number`` seeds it, the certificate's is 0."""
    from trainables.threat_model import find_threat_model
    from trainables.verification import Cascade

    threat = find_threat_model(claim.threat)
    cascade = Cascade(network, part, attack, eps=claim.eps, search_steps=claim.search_steps, seed=number, threat=threat)
    for _ in cascade.run():
        pass
    return cascade.clean.numpy(), cascade.robust.numpy()


def _on_the_edge(network: Any, split: Split, rows: np.ndarray) -> int:
    """How many of the images lie so near to a decision border that rounding decides."""
    import torch

    if not len(rows):
        return 0
    with torch.no_grad():
        x, _ = split.batch(torch.as_tensor(rows, device=split.labels.device))
        logits = network(x).double()
    top = logits.topk(2, 1).values
    return int((top[:, 0] - top[:, 1] <= ROUNDING * logits.abs().amax(1)).sum())


def _tests(said: np.ndarray, runs: np.ndarray, maybe: np.ndarray) -> dict[str, Any]:
    """``said`` (N,): robust in the certificate; ``runs`` (RUNS, N): robust here; ``maybe`` (N,): attacked in all."""
    all_ = np.concatenate([said[None], runs])[:, maybe]
    alone = all_.sum(0) == 1
    claimed = int((alone & all_[0]).sum())
    differ = said != runs[0]
    hidden = int((differ & ~said).sum())
    return {
        "p_robust": tail(claimed, int(alone.sum()), 1 / (len(runs) + 1)),
        "p_broken": tail(hidden, int(differ.sum()), 0.5),
    }


def tail(k: int, n: int, p: float) -> float:
    """The probability of at least ``k`` of ``n`` (binomial)."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def _why(row: dict[str, Any], level: float) -> str | None:
    if row["p_robust"] < level:
        return (
            f"{row['robust_now_broken']} images said to be robust are broken now, more than the attack's random starts "
            f"explain (p = {row['p_robust']:.1g})"
        )
    if row["p_broken"] < level:
        return (
            f"{row['broken_now_robust']} images said to be broken withstand the attack now, more than the attack's "
            f"random starts explain (p = {row['p_broken']:.1g})"
        )
    return None


def why_not(result: dict[str, Any]) -> str:
    """Why the certificate does not hold, in one sentence."""
    wrong = [row for row in result["rows"] if not row["holds"]]
    more = f" (and {len(wrong) - 1} other rows)" if len(wrong) > 1 else ""
    return f"the certificate does not hold: {wrong[0]['name']}: {wrong[0]['why']}{more}"


def show_audit(result: dict[str, Any]) -> None:
    """Print `audit`'s result as a table."""
    from tuner.report.console import stdout_console
    from tuner.report.tables import PlainTable

    console = stdout_console()
    table = PlainTable(title=f"{result['sample']} images (seed {result['seed']}), attack {result['attack']}")
    for name in ("", "role", "clean differ", "of them rounding", "robust, now broken", "broken, now robust", "verdict"):
        table.add_column(name)
    for row in result["rows"]:
        numbers = ("clean_differ", "clean_rounding", "robust_now_broken", "broken_now_robust")
        verdict = "holds" if row["holds"] else "does not hold"
        table.add_row(row["name"], ROLE_NAMES[row["role"]], *(str(row[n]) for n in numbers), verdict)
    console.print(table)
    if result["attack"] != result["certificate_attack"]:
        console.print(
            f"The certificate's attack is {result['certificate_attack']}: what another attack breaks is a finding "
            "about the attacks, not tested against the certificate.",
            soft_wrap=True,
        )
    if result["holds"]:
        console.print("The certificate holds.")
