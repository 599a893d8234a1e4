"""Check whether an MLflow server answers, by plain HTTP without importing mlflow. `doctor` does it on every node."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.parse
import urllib.request

from trainables.urls import REDIRECTS, open_url, public


def mlflow_problem(uri: str | None, timeout: float = 10) -> str | None:
    """What is wrong with the MLflow server at ``uri``, without the address's password; None if it answers or if ``uri``
    is no server. ``timeout`` in seconds."""
    if not uri or not uri.startswith(("http:", "https:")):
        return None
    url = urllib.parse.urlsplit(uri)
    plain = public(uri).rstrip("/")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or url.username
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or url.password or ""
    request = urllib.request.Request(f"{plain}/api/2.0/mlflow/experiments/search?max_results=1")
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    elif os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}")
    try:
        with open_url(request, timeout):
            return None
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return (
                f"{plain} refuses the sign-in ({error.code}); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD there"
            )
        return f"{plain} {error.reason if error.code in REDIRECTS else f'answers {error.code}'}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{plain} does not answer ({getattr(reason, 'strerror', None) or reason})"
