"""The token that a Ray cluster asks for."""

from __future__ import annotations

import os
from pathlib import Path

from tuner.errors import ClusterError


def local_token() -> str | None:
    """The token Ray itself would send: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip() or None
    except OSError as error:
        if named:
            raise ClusterError(
                f"RAY_AUTH_TOKEN_PATH names {named!r}, which cannot be read ({error.strerror})", 2
            ) from None
        return None


def use_token() -> None:
    """Before ray is imported: on a cluster it sends the token that is there only where told to."""
    if os.environ.get("RAY_ADDRESS") and not os.environ.get("RAY_AUTH_MODE") and local_token():
        os.environ["RAY_AUTH_MODE"] = "token"
