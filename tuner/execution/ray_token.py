"""The authentication token of a Ray cluster."""

from __future__ import annotations

import os
from pathlib import Path

from tuner.errors import ClusterError


def local_token() -> str | None:
    """The token that Ray itself would send: from RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.

    None if there is none; ``ClusterError`` if RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
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
    """Make Ray send the local token to a cluster, which it does only if told to. Call this before ray is imported."""
    if os.environ.get("RAY_ADDRESS") and not os.environ.get("RAY_AUTH_MODE") and local_token():
        os.environ["RAY_AUTH_MODE"] = "token"
