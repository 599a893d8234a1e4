"""``verified.json``, the certificate of a verification: what was attacked, how, and what became of each test image, so
that somebody else can check it (`tuner.verification.audit`).

A received certificate is untrusted: `read_certificate` returns values of the expected kinds or raises, and nothing in
one chooses a host or a path.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.offsets import NONE, Offsets
from trainables.reading import Damaged, read_json
from trainables.threats import LINF, THREATS
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import SEARCH_NAME
from tuner.results.search_run import SearchRun
from tuner.verification.job import Job
from tuner.verification.rows import ROLES
from tuner.verification.summary import TEST_SPLIT, flags_of

NAME = "verified.json"
KIND = "tuner verification certificate"
FORMAT = 1
LARGEST_IMAGE = 1 << 24  # values
LARGEST = 1 << 28  # bytes; a million images and a hundred models


@dataclass(frozen=True)
class Claim:
    """What a certificate says of one model. ``clean`` and ``robust`` (N,) bool: the test images, in their order, that
    are classified right without the attack and under it."""

    trial: int
    offsets: Offsets
    role: str
    checkpoint: str
    threat: str
    eps: float
    search_steps: int
    clean: np.ndarray
    robust: np.ndarray


@dataclass(frozen=True)
class Certificate:
    """``data``: sha256 of the test images and labels (`trainables.data.digest`)."""

    search: str
    attack: str
    data: str
    images: int
    classes: tuple[str, ...]
    claims: tuple[Claim, ...]


def write_certificate(run: SearchRun, attack: str, done: list[tuple[Job, dict[str, Any]]]) -> None:
    """Write the search's ``verified.json``; ``done`` as `summary` takes it. Models trained anew are not in it."""
    own = [(job, stored, flags_of(job.flags)) for job, stored in done if job.seed is None]
    first, (labels, _, _) = own[0][1], own[0][2]
    certificate = {
        "kind": KIND,
        "format": FORMAT,
        "search": run.name,
        "spec": run.spec.identity(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "split": TEST_SPLIT,
        "attack": attack,
        "images": len(labels),
        "classes": first["classes"],
        "data": first["data"],
        "rows": [
            {
                "trial": job.trial,
                "offsets": job.offsets.to_dict(),
                "role": job.role,
                "checkpoint": stored["checkpoint"],
                "threat": stored["threat"],
                "eps": stored["eps"],
                "search_steps": stored["search_steps"],
                "stages": [stage["name"] for stage in stored["stages"]],
                "clean": packed(clean),
                "robust": packed(robust),
                "code": stored["code"],
                "versions": stored["versions"],
                "device": stored["device"],
                "seconds": stored["seconds"],
            }
            for job, stored, (_, clean, robust) in own
        ],
    }
    write_atomically(run.folder / NAME, json.dumps(certificate, indent=1))


def packed(flags: np.ndarray) -> str:
    """(N,) bool as hexadecimal digits; the first image is the highest bit of the first byte."""
    return np.packbits(flags).tobytes().hex()


def unpacked(text: str, images: int) -> np.ndarray:
    """The opposite of `packed`; ``ValueError`` for a text of another length."""
    data = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(data) != -(-images // 8):
        raise ValueError(f"{len(text)} digits are not the flags of {images} images")
    return np.unpackbits(data, count=images).astype(bool)


def read_certificate(path: Path) -> Certificate:
    """``UsageError``, one sentence, where the file cannot be read or is no certificate of this format."""
    try:
        stored = read_json(path, LARGEST)
    except OSError as error:
        raise UsageError(f"certificate {str(path)!r} cannot be read ({error.strerror})") from None
    except Damaged as error:
        raise UsageError(f"no certificate of tuner verify: {error}") from None
    if not isinstance(stored, dict) or stored.get("kind") != KIND:
        raise UsageError(f"{str(path)!r} is no certificate of tuner verify: a search folder's {NAME} is one")
    if stored.get("format") != FORMAT:
        raise UsageError(
            f"certificate {str(path)!r} has format {_short(stored.get('format'))}; this version reads {FORMAT}"
        )
    try:
        return _certificate(stored)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"certificate {str(path)!r} is damaged: {type(error).__name__} {_short(error)}") from None


def _certificate(stored: dict[str, Any]) -> Certificate:
    images = _number(stored["images"], 1, 10**8)
    classes = tuple(_text(name, 200) for name in stored["classes"])
    claims = tuple(_claim(row, images, len(classes)) for row in stored["rows"])
    _require(bool(claims) and len(set((c.trial, c.offsets.tau) for c in claims)) == len(claims), "rows")
    _require(SEARCH_NAME.fullmatch(stored["search"]) is not None, "search")
    return Certificate(stored["search"], _text(stored["attack"], 40), _sha256(stored["data"]), images, classes, claims)


def _claim(row: dict[str, Any], images: int, classes: int) -> Claim:
    _require(row["role"] in ROLES, "role")
    threat = row.get("threat", LINF)  # earlier versions knew no other and did not say it
    _require(threat in THREATS, "threat")
    _require(isinstance(row["eps"], float) and 0 < row["eps"] <= THREATS[threat].farthest(LARGEST_IMAGE), "eps")
    clean, robust = (unpacked(row[name], images) for name in ("clean", "robust"))
    _require(not (robust & ~clean).any(), "an image that is robust but not classified right")
    offsets, trial, steps = _offsets(row["offsets"], classes), row["trial"], row["search_steps"]
    return Claim(
        _number(trial, -1, 10**9),
        offsets,
        row["role"],
        _sha256(row["checkpoint"]),
        threat,
        row["eps"],
        _number(steps, 1, 10**4),
        clean,
        robust,
    )


def _offsets(stored: dict[str, Any], classes: int) -> Offsets:
    values, tau = stored["values"], stored["tau"]
    numbers = [*values, tau]
    _require(all(isinstance(v, (int, float)) and math.isfinite(v) for v in numbers), "offsets")
    if not values:
        _require(tau == 0, "offsets")
        return NONE
    _require(len(values) == classes and tau != 0 and stored["kind"] in ("prior", "classes"), "offsets")
    return Offsets(stored["kind"], float(tau), tuple(map(float, values)))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _number(value: Any, low: int, high: int) -> int:
    _require(type(value) is int and low <= value <= high, "a whole number")
    return value


def _text(value: Any, longest: int) -> str:
    _require(isinstance(value, str) and len(value) <= longest, "a text")
    return value


def _sha256(value: Any) -> str:
    _require(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None, "a sha256")
    return value


def _short(value: Any) -> str:
    """For an error message: one line without control characters."""
    return repr(str(value))[:60]
