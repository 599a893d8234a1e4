"""Text is text: names of classes, files and searches, and what other programs said, mean nothing to what shows them.

One function for each medium. `to_stdout` (`print_json` for JSON) and `to_stderr` are the only ones that print; tables
are `PlainConsole`'s.
"""

from __future__ import annotations

import html as html_
import json
import math
import re
import sys
import unicodedata
from typing import Any

# Control characters (ESC), invisible ones that turn the direction of a line, halves of a character, line separators.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_JOINERS = "\u200c\u200d"  # of Persian words, Indian scripts and emoji
TAG_LENGTH, PARAM_LENGTH, EXPERIMENT_LENGTH = 8000, 6000, 500  # characters that MLflow takes


def printable(text: object) -> str:
    """The text with what a reader would not see, or a terminal would obey, written out: ``\\x1b``. Lines stay lines."""
    return "".join(c if _is_shown(c) else _written_out(c) for c in str(text))


def _is_shown(char: str) -> bool:
    return char in _JOINERS or char in "\n\t" or unicodedata.category(char) not in _HIDDEN


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode()


def one_line(text: object) -> str:
    """`printable`, on one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def to_stdout(text: object, end: str = "\n") -> None:
    print(printable(text), end=end, flush=True)


def to_stderr(text: object) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """As every JSON parser reads it: what is no finite number is null."""
    to_stdout(json.dumps(finite(value), indent=1, allow_nan=False))


def finite(value: Any) -> Any:
    """The value as JSON can hold it: what is no finite number is None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def html(text: object) -> str:
    """For HTML, between tags and in quoted attributes."""
    return html_.escape(printable(text))


def plotly(text: object) -> str:
    """For plotly's labels, which take ``<b>`` for bold and know ``&lt;`` but not ``&quot;``."""
    return html_.escape(printable(text), quote=False)


def script(value: Any) -> str:
    """JSON for a ``<script type="application/json">``, which no text in it can end."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e")


def markdown(text: object) -> str:
    """For a sentence or a table's cell in Markdown."""
    text = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", one_line(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return re.sub(r"^(\s*\d*)(?<!\d)([-+#=])|^(\s*\d+)([.)])", r"\1\3\\\2\4", text)


def code(text: object) -> str:
    """For a sentence or a table's cell in Markdown, in the letters of code."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{space}{text or ' '}{space}{fence}".replace("|", "\\|")


def mlflow(text: object, most: int = TAG_LENGTH) -> str:
    """For a tag, parameter or name in MLflow: it refuses longer ones, and its databases some characters."""
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"
