"""A small driver of a real Chromium: W3C WebDriver over HTTP, so no further dependency is needed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = (
    None
    if CHROMIUM and DRIVER
    else ("needs a real browser: install it with `apt-get install chromium chromium-driver` (Debian, Ubuntu)")
)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"  # no name resolves: only loopback is left


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Browser:
    """``with Browser(390, 844) as page: page.open(url); page.js("return document.title")``"""

    def __init__(self, width: int = 1280, height: int = 900):
        self.width, self.height = width, height

    def __enter__(self) -> Browser:
        self.profile = tempfile.mkdtemp(prefix="tuner-browser-")
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=quiet, stderr=quiet)
        flags = [*FLAGS, OFFLINE, f"--user-data-dir={self.profile}", f"--window-size={self.width},{self.height}"]
        options = {"binary": CHROMIUM, "args": flags}
        wait_until(lambda: self._call("GET", "/status")["ready"], 20)
        made = self._call(
            "POST",
            "/session",
            {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}},
        )
        self.base += "/session/" + made["sessionId"]
        # a window cannot be as narrow as a phone: set the page's own size
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=self.width,
            height=self.height,
            deviceScaleFactor=1,
            mobile=self.width < 600,
        )
        return self

    def __exit__(self, *_) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(10)
            shutil.rmtree(self.profile, ignore_errors=True)

    def _call(self, verb: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def cdp(self, command: str, **params):
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def js(self, code: str, *arguments):
        return self._call("POST", "/execute/sync", {"script": code, "args": list(arguments)})

    def wait(self, code: str, seconds: float = 60):
        """The first true value of a JavaScript expression."""
        return wait_until(lambda: self.js(f"return {code}"), seconds, code)

    def frame(self, number: int | None) -> None:
        """Go into the page's iframe of this number; None goes back to the top."""
        self._call("POST", "/frame", {"id": number})

    def hover(self, x: float, y: float, click: bool = False) -> None:
        actions = [
            {"type": "pointerMove", "duration": 50, "x": int(x) - 5, "y": int(y)},
            {"type": "pointerMove", "duration": 50, "x": int(x), "y": int(y)},
        ]
        if click:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": actions}]})

    def errors(self) -> list[str]:
        return [e["message"] for e in self._call("POST", "/se/log", {"type": "browser"}) if e["level"] == "SEVERE"]

    def picture(self, path: Path, whole: bool = False) -> Path:
        """A screenshot; ``whole``: of the page's full height."""
        if whole:
            height = self.js("return document.documentElement.scrollHeight")
            self.cdp(
                "Emulation.setDeviceMetricsOverride",
                width=self.width,
                height=height,
                deviceScaleFactor=1,
                mobile=self.width < 600,
            )
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))
        return path


def wait_until(true, seconds: float, what: str = ""):
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if value := true():
                return value
        except (OSError, RuntimeError) as error:
            last = error
        time.sleep(0.2)
    raise TimeoutError(f"not true within {seconds} s: {what} {last or ''}")
