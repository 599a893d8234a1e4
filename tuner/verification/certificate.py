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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainables.offsets import NONE, Offsets
from trainables.reading import Damaged, intact, read_json, shaped
from trainables.threats import LINF, THREATS
from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.home import SEARCH_NAME
from tuner.verification.job import Job, Tested
from tuner.verification.rows import ROLES
from tuner.verification.summary import TEST_SPLIT, flags_of, tracks_of

NAME = "verified.json"
KIND = "tuner verification certificate"
FORMAT = 1
SAID = ("method", "dataset", "image_size", "test_split", "imbalance", "model")  # of a search's spec
CLASS_NAME = 255  # characters, as many as `trainables.data.store` takes, which loads torch
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
    """``data``: sha256 of the test images and labels (`trainables.data.digest`). ``labels`` (N,) and ``train_counts``
    (K,): earlier versions wrote none. ``tracks`` (N,): of which track each image is, None where each is its own or,
    with ``hidden_tracks``, nothing says it. ``spec``: `SAID`, as text, empty where it is not said; like all but
    ``data`` it is its sender's word."""

    search: str
    attack: str
    data: str
    images: int
    classes: tuple[str, ...]
    claims: tuple[Claim, ...]
    labels: np.ndarray | None = None
    train_counts: tuple[int, ...] = ()
    tracks: np.ndarray | None = None
    hidden_tracks: bool = False
    spec: dict[str, str] = field(default_factory=dict)


def write_certificate(
    run: Tested, attack: str, done: list[tuple[Job, dict[str, Any]]], *, model: str | None = None
) -> None:
    """Write ``verified.json`` of a search or a model; ``done`` as `summary` takes it, without models trained anew.
    ``model``: what its network is called, where the spec does not say it."""
    own = [(job, stored, flags_of(job.flags)) for job, stored in done if job.seed is None]
    first, (labels, _, _) = own[0][1], own[0][2]
    certificate = {
        "kind": KIND,
        "format": FORMAT,
        "search": run.name,
        "spec": run.spec.identity() | ({"model": model} if model else {}),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "split": TEST_SPLIT,
        "attack": attack,
        "images": len(labels),
        "classes": first["classes"],
        "data": first["data"],
        "labels": packed_labels(labels),
        "train_counts": first["train_counts"],
        **_tracks_said(first, own[0][0].flags),
        "rows": [
            {
                "trial": job.trial,
                "offsets": job.offsets.to_dict(),
                "role": job.role,
                "checkpoint": job.published or stored["checkpoint"],
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


def _tracks_said(stored: dict[str, Any], flags: Path) -> dict[str, Any]:
    """``tracks`` of the test images as text, or that they are hidden; nothing where there are none."""
    if (tracks := tracks_of(flags)) is not None:
        return {"tracks": packed_tracks(tracks)}
    return {"hidden_tracks": True} if stored.get("hidden_tracks") else {}


def latest_images(folder: Path) -> str | None:
    """The digest of the test images that the latest certificate in a search's or a model's folder is of; None where
    there is none. What was stored before of others is no result beside it."""
    found = intact(lambda: read_json(folder / NAME, LARGEST))
    return found["data"] if shaped(found, {"data": str}) else None


def packed_labels(labels: np.ndarray) -> str:
    """(N,) class numbers as hexadecimal digits, four for each image."""
    return labels.astype(">u2").tobytes().hex()


def packed_tracks(tracks: np.ndarray) -> str:
    """(N,) int64 as hexadecimal digits, eight for each image, which number the tracks anew from 0."""
    return np.unique(tracks, return_inverse=True)[1].astype(">u4").tobytes().hex()


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
    classes = tuple(_text(name, CLASS_NAME) for name in stored["classes"])
    claims = tuple(_claim(row, images, len(classes)) for row in stored["rows"])
    _require(bool(claims) and len(set((c.trial, c.offsets.tau) for c in claims)) == len(claims), "rows")
    _require(SEARCH_NAME.fullmatch(stored["search"]) is not None, "search")
    attack, data = _text(stored["attack"], 40), _sha256(stored["data"])
    labels, counts = _labels(stored, images, len(classes))
    tracks, hidden = _tracks(stored, images), stored.get("hidden_tracks") is True
    said = _said(stored.get("spec", {}))
    return Certificate(
        stored["search"], attack, data, images, classes, claims, labels, counts, tracks, hidden and tracks is None, said
    )


def _labels(stored: dict[str, Any], images: int, classes: int) -> tuple[np.ndarray | None, tuple[int, ...]]:
    if "labels" not in stored:
        return None, ()
    labels = np.frombuffer(bytes.fromhex(stored["labels"]), dtype=">u2").astype(np.int64)
    _require(len(labels) == images and labels.max() < classes, "labels")
    counts = tuple(_number(count, 1, 10**9) for count in stored["train_counts"])
    _require(len(counts) == classes, "train_counts")
    return labels, counts


def _tracks(stored: dict[str, Any], images: int) -> np.ndarray | None:
    if "tracks" not in stored:
        return None
    tracks = np.frombuffer(bytes.fromhex(stored["tracks"]), dtype=">u4").astype(np.int64)
    _require(len(tracks) == images, "tracks")
    return tracks


def _said(spec: dict[str, Any]) -> dict[str, str]:
    methods = spec.get("method", "")
    shown = {**spec, "method": " + ".join(map(str, methods)) if isinstance(methods, list) else methods}
    texts = {key: str(shown.get(key) or "") for key in SAID}
    return {key: text[:200] for key, text in texts.items()} | {"dataset": texts["dataset"][-200:]}  # its end names it


def _claim(row: dict[str, Any], images: int, classes: int) -> Claim:
    _require(row["role"] in (*ROLES, "model"), "role")
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
