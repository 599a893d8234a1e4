"""The live page's server: a thread pool on loopback that reads the home and writes nothing but notes.

Who may ask: an address has a key of this process in it, which other users of the machine and pages of other origins do
not know; the name that is asked for must be one of loopback's, so that no foreign name can be bound to it; a note needs
the key once more, in a header that no form can send. See SECURITY.md.
"""

from __future__ import annotations

import gzip
import hmac
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from trainables.gpu_use import Gpus
from trainables.reading import Damaged, parse_json, shaped
from tuner.errors import Failed, UsageError
from tuner.home import Home, check_name
from tuner.report.html.page import Served, plain
from tuner.report.live.now import Watched
from tuner.report.live.page import list_page, search_page
from tuner.report.live.picture import Painter
from tuner.results.listing import Listing
from tuner.results.searches import search_names
from tuner.results.steering import NOTE, ask

HOSTS = ("127.0.0.1", "localhost", "[::1]")
TOKEN = "X-Tuner-Token"
MOST_WATCHED = 16  # searches in memory
BODY_BYTES = 8 * NOTE
GZIP_BYTES = 20_000
LISTED_S = 5.0  # a search whose history grows is read again for the list after so long, or ten times what that takes
SECURE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# plotly compiles the shaders of its parallel coordinates, and writes styles
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Live:
    """What the pages say of the searches of a home; may be asked from several threads."""

    def __init__(self, home: Home):
        self.home, self.painter, self.gpus = home, Painter(home), Gpus()
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._listing, self._rows = Listing(home), dict[str, tuple[float, dict[str, Any]]]()

    def watched(self, name: str) -> Watched:
        with self._lock:
            if name not in self._watched:
                while len(self._watched) >= MOST_WATCHED:
                    self._watched.pop(next(iter(self._watched)))
                self._watched[name] = Watched(self.home, name)
            found = self._watched[name] = self._watched.pop(name)  # the last one that is forgotten
        return found

    def search(self, name: str, seen: str, picture: int) -> dict[str, Any]:
        """What is new of a search for a page that has ``seen`` a version and shows the ``picture`` of some changes."""
        watched, pictured = self.watched(name), self.painter.look_at(name)
        data, made = pictured.data, pictured.changes
        with watched.lock:
            watched.look()
            same = watched.version == seen and made == picture
            drawn, limits = (made, data["range"]) if data else (-1, None)
            said = {} if same else watched.now(drawn, limits)
        said |= {"version": watched.version, "same": same, "clock": time.time(), "picture_of": made}
        said |= {"gpus": self.gpus.ask(), "machine": socket.gethostname(), "problem": pictured.problem}
        if made != picture and data:
            said |= {"picture": data, "importances": pictured.importances}
        return said

    def note(self, name: str, about: dict[str, Any]) -> dict[str, Any]:
        if not shaped(about, {"trial": int}):
            raise UsageError("a note is of a trial, by its number")
        watched = self.watched(name)
        with watched.lock:
            watched.look()
            answer = ask(watched.run, "note", **{k: about[k] for k in ("trial", "text", "star") if k in about})
        return {"done": bool(answer), "words": answer.words if answer else "asked for"}

    def searches(self) -> list[dict[str, Any]]:
        """The home's searches, the newest first; one that cannot be read says why."""
        names = search_names(self.home)
        rows = [{"search": name, **self._row(name)} for name in names]
        with self._lock:
            self._listing.keep()
        return rows[::-1]

    def _row(self, name: str) -> dict[str, Any]:
        due, row = self._rows.get(name, (0.0, {}))
        if time.monotonic() < due:
            return row
        begin = time.monotonic()
        try:
            with self._lock:
                row = {k: v for k, v in self._listing.row(name).items() if k != "stamp"}
        except Exception as error:  # whatever is wrong with it must not hide the others
            row = {"state": "unreadable", "note": str(error)}
        took = time.monotonic() - begin
        self._rows[name] = time.monotonic() + max(LISTED_S, 10 * took) * (took > 0.05), row
        return row

    def close(self) -> None:
        self.painter.close()


class NotFound(Exception):
    """Nothing is at this address."""


class Handler(BaseHTTPRequestHandler):
    """One request. The server has ``live``, its ``key``, and links to ``mlflow``."""

    server: LiveServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tuner", ""
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses hold the key."""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, make: Callable[[list[str], dict[str, str]], None]) -> None:
        try:
            parts = self._parts()
            query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            make(parts, query)
        except PermissionError as error:
            self._json({"error": str(error)}, 403)
        except NotFound:
            self._json({"error": "nothing is here"}, 404)
        except UsageError as error:
            self._json({"error": str(error)}, 400)
        except (Failed, Damaged, OSError) as error:
            with suppress(OSError):  # a browser that has left needs no answer
                self._json({"error": str(error)}, 500)

    def _parts(self) -> list[str]:
        """The address behind the key; ``PermissionError`` unless it was asked for by a name of loopback, with it."""
        host = self.headers.get("Host", "")
        if re.sub(r":\d+$", "", host) not in HOSTS:
            raise PermissionError("this page answers to 127.0.0.1 and localhost alone")
        _, key, *rest = [unquote(part) for part in urlsplit(self.path).path.split("/")] + [""]
        if not hmac.compare_digest(key.encode(), self.server.key.encode()):
            raise PermissionError("open the address that `tuner ui` printed, with its key")
        return [part for part in rest if part]

    def _get(self, parts: list[str], query: dict[str, str]) -> None:
        live, root = self.server.live, f"/{self.server.key}"
        match parts:
            case []:
                self._page(lambda served: list_page(live.home, root, served))
            case ["search", name]:
                check_name(name)
                run = live.watched(name).run
                self._page(lambda served: search_page(run, root, self.server.key, served, self.server.mlflow))
            case ["api", "searches"]:
                self._json(live.searches())
            case ["api", "search", name]:
                picture = query.get("picture", "")
                number = int(picture) if picture.removeprefix("-").isdecimal() and len(picture) < 16 else -1
                self._json(live.search(check_name(name), query.get("seen", ""), number))
            case ["plotly.js"]:
                self._send(_plotly(), "text/javascript; charset=utf-8", packed=True, cache="private, max-age=86400")
            case _:
                raise NotFound

    def _post(self, parts: list[str], query: dict[str, str]) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != self.headers.get("Host"):
            raise PermissionError("a page of another origin may not ask for this")
        if not hmac.compare_digest(self.headers.get(TOKEN, "").encode(), self.server.key.encode()):
            raise PermissionError(f"the header {TOKEN} is missing or wrong")
        about = self._body()
        match parts:
            case ["api", "search", name, "note"]:
                self._json(self.server.live.note(check_name(name), about))
            case _:
                raise NotFound

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES:
            self.close_connection = True
            raise UsageError(f"the body has at most {BODY_BYTES} bytes")
        try:
            found = parse_json(self.rfile.read(int(length)))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UsageError("the body is no JSON object")
        return found

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _page(self, make: Callable[[Served], str]) -> None:
        served = Served(f"/{self.server.key}/plotly.js", secrets.token_urlsafe(16))
        policy = {"Content-Security-Policy": POLICY.format(nonce=served.nonce)}
        self._send(make(served).encode(), "text/html; charset=utf-8", headers=policy)

    def _json(self, value: Any, status: int = 200) -> None:
        text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"))
        self._send(text.encode(), "application/json", status)

    def _send(
        self,
        data: bytes,
        kind: str,
        status: int = 200,
        *,
        headers: dict[str, str] | None = None,
        packed: bool = False,
        cache: str = SECURE["Cache-Control"],
    ) -> None:
        """``packed``: the data are gzip already, which every browser takes."""
        if not packed and len(data) > GZIP_BYTES and "gzip" in self.headers.get("Accept-Encoding", ""):
            data, packed = gzip.compress(data, 1), True
        self.close_connection = self.close_connection or status != 200  # its body may not have been read
        self.send_response(status)
        sent = {**SECURE, "Cache-Control": cache, "Content-Type": kind, "Content-Length": str(len(data))}
        sent |= {"Connection": "close"} if self.close_connection else {}
        for name, value in {**sent, **(headers or {}), **({"Content-Encoding": "gzip"} if packed else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    return gzip.compress(get_plotlyjs().encode(), 6)


class LiveServer(ThreadingHTTPServer):
    """Serves the live pages of a home on 127.0.0.1 from a thread, in a ``with`` block. ``port``: a free one for 0;
    ``UsageError`` where it cannot be used. ``mlflow``: links to MLflow's pages, by search, once they are known."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, home: Home, port: int = 0):
        self.key, self.mlflow = secrets.token_urlsafe(18), dict[str, dict[str, str]]()
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "a port is 1 to 65535"
            raise UsageError(f"--live-port {port} cannot be used ({reason}); choose another or leave it out") from None
        self.live = Live(home)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{self.key}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that has left, or a client that speaks no HTTP."""

    def __enter__(self) -> LiveServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, name="live", daemon=True).start()
        return self

    def __exit__(self, *about: Any) -> None:
        self.shutdown()
        self.server_close()
        self.live.close()
