"""How a right value becomes a wrong one: bytes, JSON, text. All choices are drawn from a ``random.Random``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3.5, 7.5, -0.0, 1e300, -1e300, 5e-324, 10**30, 2**31, 2**53, 2**63, -(2**64)),
    *(
        float("inf"),
        float("-inf"),
        float("nan"),
        "",
        " ",
        "x",
        "0",
        "-1",
        "1e320",
        "nan",
        "inf",
        "null",
        "true",
        "a" * 300,
    ),
    *("\x00", "\x1b[2J", "[/red]", "<!--<script>", "a|b\nc", "../../x", "/etc/passwd", "é\u202e\U0001f600", "\ud800"),
    *("http://[::1", "s3://KEY:SECRET@b/x", "file:///x::s3://b", "parquet:", "folder:/nowhere", "1:2:3", "2001-13-45"),
    *([], {}, [[]], [None], ["x"], {"": None}, {"x": {"y": []}}, [1, "x"], [[1, 2], [3]], [0.1, 0.2], [float("nan")]),
]
FLAGS = [value for value in HOSTILE if isinstance(value, str) and "\x00" not in value and "\ud800" not in value] + [
    *("1000000000000000000000000000000", "1" * 400, "-5", "1/0", "8/255", "cvar:0", "exp:-1", "exp:1e400", "40epochs"),
    *("9" * 400 + "h", "0.5", "16", "at", "srat", "cnn:99999999", "resnet18:0", "clean_acc>=nan", "clean_acc>=0.5"),
    *("start=1e320", "start=.inf", "beta=[", "lr=!!bool x", "eps=*a", "lr=" + "[" * 500, "=", "lr=0x" + "f" * 400),
]


def deep(levels: int = 5000) -> str:
    return "[" * levels + "]" * levels


def any_value(draw: Random) -> Any:
    return copy.deepcopy(draw.choice(HOSTILE))


NUMBERS = (b"999999999999", b"-1", b"1e999", b"NaN", b"null", b'"x"', b"{", b"]")
# What takes the place of a slice of a file.
DAMAGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    lambda draw, part: bytes([part[0] ^ 1 << draw.randrange(8)]) + part[1:] if part else b"",
    lambda draw, part: draw.randbytes(draw.choice((1, 2, 16))) + part,
    lambda draw, part: b"",
    lambda draw, part: part + part,
    lambda draw, part: bytes(len(part)),
    lambda draw, part: b"\xff" * len(part),
    lambda draw, part: draw.choice(NUMBERS),
)


def in_bytes(draw: Random, data: bytes) -> bytes:
    """One to three damages of a disk, a transfer or an editor."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(len(data) + 1)
        end = at + draw.choice((1, 1, 4, 64, 4096))
        rest = data[end:] if draw.random() < 0.85 else b""  # else it is cut
        data = data[:at] + draw.choice(DAMAGES)(draw, data[at:end]) + rest
    return data


def in_json(draw: Random, value: Any) -> Any:
    """One to three parts of a JSON value put in another's place, left out, or added."""
    value = {"root": copy.deepcopy(value)}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        holder, key = draw.choice(_places(value))
        match draw.randrange(6):
            case 0 if holder is not value:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 2 if isinstance(holder, dict) and holder is not value:
                holder[draw.choice(("", "x", "epoch", "trial", "__class__"))] = holder[key]
            case 3 if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
                holder[key] = holder[key] * draw.choice((-1, 2, 10, 0, 1e300, 0.5)) + draw.choice((0, 1, 0.5))
            case 4 if isinstance(holder[key], str):
                holder[key] += draw.choice(("x", "\n", " ", "é", "\x1b[2J"))
            case _:
                holder[key] = any_value(draw)
    return value["root"]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) in nested dicts and lists."""
    found = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(item, (dict, list)):
            found += _places(item)
    return found


def json_text(draw: Random, value: Any) -> bytes:
    """A JSON file with something wrong in it."""
    if draw.random() < 0.3:
        return in_bytes(draw, json.dumps(value, indent=draw.choice((None, 1))).encode())
    if draw.random() < 0.03:
        return deep().encode()
    return json.dumps(in_json(draw, value)).encode("utf-8", "surrogatepass")


def in_lines(draw: Random, lines: list[str]) -> bytes:
    """A log with something wrong in its lines, or in their order."""
    lines = list(lines)
    at = draw.randrange(len(lines))
    match draw.randrange(7):
        case 0:
            del lines[at]
        case 1:
            lines.insert(draw.randrange(len(lines)), lines[at])
        case 2:
            lines[at] = draw.choice(("[]", "3", "{}", deep(), "null", '"x"', "x"))
        case 3:
            lines[at] = in_bytes(draw, lines[at].encode()).decode(errors="surrogateescape")
        case _:
            lines[at] = json.dumps(in_json(draw, json.loads(lines[at])))
    return "\n".join([*lines, ""]).encode("utf-8", "surrogateescape" if _escaped(lines) else "surrogatepass")


def _escaped(lines: list[str]) -> bool:
    return any("\udc80" <= c <= "\udcff" for line in lines for c in line)
