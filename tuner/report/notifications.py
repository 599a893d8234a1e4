"""Messages about a search for people and programs: by a signed webhook, and by Apprise to Slack, e-mail and others.

``TUNER_NOTIFY`` in the driver's environment names the places, separated by spaces. Their addresses are secrets (who has
Slack's may write to the channel), so they stand neither in a spec nor in a message, and an error names only the host.

A webhook's request is a ``POST`` of JSON as Standard Webhooks 1.0.0 (standardwebhooks.com) has it: ``type``,
``timestamp``, ``data``, and ``text``, which is what Slack-compatible receivers show. Its headers ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature`` are signed with ``TUNER_NOTIFY_SECRET``: HMAC-SHA256 of
``ID.TIMESTAMP.BODY``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, Protocol

from trainables.urls import open_url
from tuner.errors import Failed, UsageError
from tuner.escape import finite
from tuner.report.gain import gains_in
from tuner.results.listener import Listener
from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun
from tuner.results.summary import front_json

PLACES, SECRET = "TUNER_NOTIFY", "TUNER_NOTIFY_SECRET"
EVERY_S = 600.0  # at least, between two messages about the front or about the same trouble
MOVED = 0.01  # of its hypervolume: a front that has grown less is not worth a message
TIMEOUT_S = 10.0
PAUSES_S = (1.0, 5.0)  # before a place that did not answer is tried again
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Message:
    """``kind``: search.finished, search.stopped, search.failed, front.moved, trouble or test. ``text``: for people."""

    kind: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    at: float = field(default_factory=time.time)

    def body(self) -> bytes:
        when = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds")
        said = {"type": self.kind, "timestamp": when, "text": self.text, "data": self.data}
        return json.dumps(finite(said), allow_nan=False).encode()


class Place(Protocol):
    """Where messages go. ``name`` holds no secret."""

    name: str

    def send(self, message: Message) -> str | None:
        """Send it; what went wrong, in a few words, or None. ``Again`` where a later try may help."""


class Again(Exception):
    """A place did not take a message and may take it later."""


@dataclass(frozen=True)
class Webhook:
    url: str
    secret: str

    @property
    def name(self) -> str:
        parts = urllib.parse.urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"

    def send(self, message: Message) -> str | None:
        body, now = message.body(), int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "robust-tuner",
            "webhook-id": message.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(self.secret, message.id, now, body),
        }
        try:
            with open_url(urllib.request.Request(self.url, body, headers), TIMEOUT_S):
                return None
        except urllib.error.HTTPError as error:
            if error.code in TRANSIENT:
                raise Again(f"HTTP {error.code}") from None
            return f"HTTP {error.code}"
        except OSError as error:  # also what urllib makes of them
            raise Again(str(getattr(error, "reason", error))) from None
        except (HTTPException, ValueError):
            return "its answer is not HTTP"


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """``webhook-signature`` of Standard Webhooks, version and base64. ``secret``: base64, also after ``whsec_``."""
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


@dataclass(frozen=True)
class OfApprise:
    """A service that Apprise knows; ``plugin`` is one of its plug-ins with an address."""

    plugin: Any

    @property
    def name(self) -> str:
        return str(self.plugin.service_name)

    def send(self, message: Message) -> str | None:
        if not self.plugin.notify(body=message.text, title="tuner"):
            raise Again("the message was not taken")
        return None


def places_to_notify() -> list[Place]:
    """Those of ``TUNER_NOTIFY``. ``UsageError`` where one is no address, or a webhook has no secret to sign with."""
    return [_place(number, url) for number, url in enumerate(os.environ.get(PLACES, "").split(), 1)]


def _place(number: int, url: str) -> Place:
    scheme, colon, _ = url.partition("://")  # without one, it may be a piece of a secret
    which = f"address {number} of {PLACES}" + (f" ({scheme[:20]}://...)" if colon else "")
    web = url.startswith(("https://", "http://"))
    try:
        from apprise import Apprise
    except ImportError:
        if not web:
            raise UsageError(f"{which} needs Apprise: pip install 'robust-tuner[notify]'") from None
    else:
        # it raises for bytes that are no text, whatever it is told
        if plugin := url.isprintable() and Apprise.instantiate(url, suppress_exceptions=True):
            return OfApprise(plugin)
    if not web or not _is_address(url):
        raise UsageError(f"{which} is no address of a webhook (https://...) or of a service that Apprise knows")
    secret = os.environ.get(SECRET, "")
    try:
        signature(secret, "", 0, b"")
    except ValueError:
        secret = ""
    if len(secret) < 24:
        raise UsageError(
            f"{which} is a webhook, whose messages are signed: set {SECRET} to whsec_ and the base64 of 24 to 64 "
            "random bytes, which the receiver knows too"
        )
    return Webhook(url, secret)


def _is_address(url: str) -> bool:
    """Whether a request can be sent there: a host, a port that is one, and none but printable ASCII, as HTTP has it."""
    try:
        parts = urllib.parse.urlsplit(url)
        (parts.hostname or "").encode("idna")  # as a socket does: no part is empty or too long
        return bool(parts.hostname) and parts.port != 0 and url.isascii() and url.isprintable()
    except ValueError:
        return False


def deliver(place: Place, message: Message) -> str | None:
    """Send a message, again after a pause where that may help; what went wrong, or None."""
    for pause in (*PAUSES_S, None):
        try:
            return place.send(message)
        except Again as error:
            problem = str(error)
        except Exception as error:  # of a service's own code; its words may repeat the address
            return type(error).__name__
        if pause is not None:
            time.sleep(pause)
    return problem


class Notifications(Listener):
    """Sends a message when the search ends, when its front has moved, and when something was lost.

    A thread of its own sends them, so no place delays the search; ``close_s``: how many seconds its end may wait for
    them. ``say`` prints the first failure of each place.
    """

    name = "notifications"

    def __init__(self, to: list[Place], say: Callable[[str], None], close_s: Callable[[], float]):
        self.to, self.say, self.close_s = to, say, close_s
        self._run: SearchRun | None = None
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._due = time.monotonic() + EVERY_S  # no message about the front before
        self._told = 0.0  # the hypervolume of the last one
        self._troubles: dict[str, float] = {}
        self._failed: set[str] = set()
        self.thread = threading.Thread(target=self._deliver, name="notifications", daemon=True)
        self._closing = 0.0

    def search_started(self, run: SearchRun) -> None:
        self._run, self._told = run, run.front().hypervolume
        self.thread.start()

    def front_changed(self, front: Front, finished: int) -> None:
        if time.monotonic() < self._due or front.hypervolume <= self._told * (1 + MOVED):
            return
        text = (
            f"front of {len(front.rows)} points after {finished} trainings in full, hypervolume {front.hypervolume:.4f}"
        )
        self._post("front.moved", text, hypervolume=front.hypervolume, before=self._told, points=len(front.rows))
        self._due, self._told = time.monotonic() + EVERY_S, front.hypervolume

    def trouble(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._troubles.get(text, now):
            self._troubles[text] = now + EVERY_S
            self._post("trouble", text)

    def search_ended(self, run: SearchRun, state: str) -> None:
        result = front_json(run)
        said = gains_in(result, run.spec.objectives)
        trials = ", ".join(f"{n} {what}" for what, n in result["trials"].items() if n)
        named = ("state", "objectives", "front", "hypervolume", "gain", "trials")
        data = {key: result[key] for key in named} | {"state": state}  # failed where the driver did, too
        self._post(f"search.{state}", f"{state}: {trials}\n{said}", **data)
        self._queue.put(None)
        self._closing = time.monotonic() + self.close_s()

    def result(self) -> dict[str, Any]:
        self.thread.join(max(0.0, self._closing - time.monotonic()))
        return {}

    def _post(self, kind: str, text: str, **data: Any) -> None:
        name = self._run.name if self._run else ""
        self._queue.put(Message(kind, f"search {name}: {text}", {"search": name, **data}))

    def _deliver(self) -> None:
        while message := self._queue.get():
            for place in self.to:
                problem = deliver(place, message)
                if problem and place.name not in self._failed:
                    self._failed.add(place.name)
                    self.say(f"notification to {place.name}: {problem}; the search goes on")


def notify() -> list[dict[str, Any]]:
    """Send a test message to every place of ``TUNER_NOTIFY``: a row for each with its ``place`` and ``problem``.

    ``UsageError`` where there is none or one is wrong, ``Failed`` where one does not take it.
    """
    found = places_to_notify()
    if not found:
        raise UsageError(f"{PLACES} names no place; set it to addresses such as https://HOST/HOOK or mailto://...")
    message = Message("test", "a test message of tuner: what it says of searches will arrive here")
    rows = [{"place": place.name, "problem": deliver(place, message)} for place in found]
    if broken := [row for row in rows if row["problem"]]:
        raise Failed("; ".join(f"{row['place']} took no message: {row['problem']}" for row in broken))
    return rows
