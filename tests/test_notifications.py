"""Messages about searches: signed as Standard Webhooks says, taken by a real SMTP server, never in a search's way."""

import email
import http.server
import json
import socket
import threading

import pytest

from tests.histories import fill, run_of
from tuner.errors import Failed, UsageError
from tuner.execution.driver import check
from tuner.home import Home
from tuner.report import notifications
from tuner.report.notifications import Message, Notifications, Webhook, notify, places_to_notify, signature
from tuner.results.history import History
from tuner.spec.search_spec import SearchSpec

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_signature_is_that_of_standard_webhooks():
    """The test vector of the specification's reference libraries."""
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected
    assert signature(SECRET.removeprefix("whsec_"), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


@pytest.fixture
def receiver():
    """A web server on loopback: ``taken`` has (path, headers, body) of each request; it answers with ``codes``, then
    200."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.taken.append((self.path, self.headers, body))
            self.send_response(server.codes.pop(0) if server.codes else 200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.taken, server.codes, server.url = [], [], f"http://127.0.0.1:{server.server_address[1]}/hook/T0KEN"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hooked(receiver, monkeypatch):
    monkeypatch.setenv("TUNER_NOTIFY", receiver.url)
    monkeypatch.setenv("TUNER_NOTIFY_SECRET", SECRET)
    monkeypatch.setattr(notifications, "PAUSES_S", (0.0, 0.0))
    return receiver


@pytest.mark.slow
def test_a_webhook_takes_a_signed_message(hooked):
    assert notify() == [{"place": hooked.url.removesuffix("/hook/T0KEN"), "problem": None}]
    ((path, headers, body),) = hooked.taken
    assert path == "/hook/T0KEN" and headers["Content-Type"] == "application/json"
    said = headers["webhook-signature"]
    assert said == signature(SECRET, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    message = json.loads(body)
    assert message["type"] == "test" and "test message" in message["text"] and message["data"] == {}


def test_a_place_that_fails_for_a_moment_is_tried_again(hooked):
    hooked.codes += [503, 429]
    notify()
    assert len({headers["webhook-id"] for _, headers, _ in hooked.taken}) == 1 and len(hooked.taken) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("codes", "tries", "said"), [([404], 1, "HTTP 404"), ([500] * 3, 3, "HTTP 500")])
def test_a_place_that_refuses_is_named_without_its_secret(hooked, codes, tries, said):
    hooked.codes += codes
    with pytest.raises(Failed, match=said) as failure:
        notify()
    assert len(hooked.taken) == tries and "T0KEN" not in str(failure.value)


@pytest.mark.slow
def test_a_redirect_to_another_place_is_not_followed(hooked, receiver, monkeypatch):
    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(302)
            self.send_header("Location", receiver.url)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("TUNER_NOTIFY", f"http://127.0.0.1:{server.server_address[1]}/")
        with pytest.raises(Failed, match="HTTP 302"):
            notify()
        server.shutdown()
    assert not receiver.taken


WRONG = {
    "ftp://h/x": "is no address",
    "https:///x": "is no address",
    "nonsense": "is no address",
    "https://h/S3CRET": "set TUNER_NOTIFY_SECRET",
}


@pytest.mark.parametrize("url", WRONG)
@pytest.mark.parametrize("secret", ["", "whsec_short", "not base64 !!!!!!!!!!!!!!!!!!!!!!!!"])
def test_wrong_places_end_a_search_before_it_starts(url, secret, monkeypatch, tmp_path):
    monkeypatch.setenv("TUNER_NOTIFY", url)
    monkeypatch.setenv("TUNER_NOTIFY_SECRET", secret)
    with pytest.raises(UsageError, match=WRONG[url]) as error:
        check(SearchSpec(method="srat"), Home(tmp_path))
    assert "S3CRET" not in str(error.value)


def test_without_apprise_only_webhooks_are_possible(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    monkeypatch.setenv("TUNER_NOTIFY", "mailto://h?to=a@b.org")
    with pytest.raises(UsageError, match=r"pip install 'robust-tuner\[notify\]'"):
        places_to_notify()
    monkeypatch.setenv("TUNER_NOTIFY", "https://h/x")
    monkeypatch.setenv("TUNER_NOTIFY_SECRET", SECRET)
    assert places_to_notify() == [Webhook("https://h/x", SECRET)]


def test_slack_is_known_by_the_address_that_it_gives(monkeypatch):
    hook = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    monkeypatch.setenv("TUNER_NOTIFY", hook)
    (place,) = places_to_notify()
    assert place.name == "Slack"


def test_no_place_no_message(monkeypatch):
    monkeypatch.delenv("TUNER_NOTIFY", raising=False)
    assert places_to_notify() == []
    with pytest.raises(UsageError, match="TUNER_NOTIFY names no place"):
        notify()


def test_mail_arrives_at_a_real_server(monkeypatch):
    from aiosmtpd.controller import Controller

    taken = []

    class Keep:
        async def handle_DATA(self, server, session, envelope):
            taken.append(envelope)
            return "250 OK"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(Keep(), hostname="127.0.0.1", port=port)
    controller.start()
    monkeypatch.setenv(
        "TUNER_NOTIFY", f"mailto://127.0.0.1:{port}?from=tuner@example.org&to=me@example.org&mode=insecure"
    )
    try:
        assert notify() == [{"place": "E-Mail", "problem": None}]
    finally:
        controller.stop()
    (envelope,) = taken
    assert envelope.rcpt_tos == ["me@example.org"]
    message = email.message_from_bytes(envelope.content)
    assert "test message" in str(message.get_payload(0) if message.is_multipart() else message.get_payload())


# ---- what a search says --------------------------------------------------------------------------------------------


class Kept:
    """A place that keeps what it gets, or refuses it."""

    def __init__(self, problem=None):
        self.name, self.problem, self.taken = "a place", problem, []

    def send(self, message: Message):
        self.taken.append(message)
        return self.problem


@pytest.fixture
def run(tmp_path):
    spec = SearchSpec(method="srat", trials=6, max_epochs=3)
    return run_of(spec, fill(History(None), spec, curves=True), Home(tmp_path / "home"))


def told(run, place, *calls, close_s=10.0, said=None):
    listener = Notifications([place], (said if said is not None else []).append, lambda: close_s)
    listener.search_started(run)
    for name, *given in calls:
        getattr(listener, name)(*given)
    listener.search_ended(run, "finished")
    assert listener.result() == {}
    return place.taken


def test_the_end_is_told_with_the_front_and_what_it_adds(run):
    (message,) = told(run, Kept())
    assert (
        message.kind == "search.finished"
        and f"search {run.name}: finished: 4 finished, 2 stopped, 1 failed" in message.text
    )
    assert "no search" in message.text and message.data["state"] == "finished"
    front = run.front()
    assert message.data["hypervolume"] == front.hypervolume and len(message.data["front"]) == len(front.rows)
    json.loads(message.body())


def test_kind_text_and_data_of_a_search_whose_driver_failed_are_of_one_state(run):
    """Its trials have ended: by them alone it is finished."""
    place = Kept()
    listener = Notifications([place], print, lambda: 10.0)
    listener.search_started(run)
    listener.search_ended(run, "failed")
    listener.result()
    (message,) = place.taken
    assert (message.kind, message.data["state"]) == ("search.failed", "failed") and ": failed: " in message.text


def test_a_front_is_told_of_when_it_has_moved_but_not_all_the_time(run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(notifications.time, "monotonic", lambda: now[0])
    place, rows = Kept(), run.front().rows
    listener = Notifications([place], print, lambda: 10.0)
    listener.thread.start = lambda: None
    listener.search_started(run)

    def moved(at, hypervolume):
        now[0] = at
        listener.front_changed(type("F", (), {"rows": rows, "hypervolume": hypervolume})(), 5)
        count = 0
        while not listener._queue.empty():
            count += 1
            listener._queue.get()
        return count

    base = run.front().hypervolume
    assert moved(599, base * 2) == 0, "ten minutes have not passed since the start"
    assert moved(600, base * 1.005) == 0, "half a percent more"
    assert moved(601, base * 1.02) == 1
    assert moved(1200, base * 1.5) == 0, "ten minutes since the last one"
    assert moved(1201, base * 1.5) == 1


def test_the_same_trouble_is_told_once(run):
    lost = ("trouble", "trial 3: its node 10.0.0.7 was lost")
    messages = told(run, Kept(), lost, lost, ("trouble", "trial 4: its node 10.0.0.8 was lost"))
    assert [m.kind for m in messages] == ["trouble", "trouble", "search.finished"]
    assert messages[0].text == f"search {run.name}: {lost[1]}"


def test_a_place_that_fails_is_reported_once_and_the_search_goes_on(run):
    said = []
    told(run, Kept("HTTP 404"), ("trouble", "one"), ("trouble", "two"), said=said)
    assert said == ["notification to a place: HTTP 404; the search goes on"]


def test_a_place_that_hangs_delays_the_end_by_no_more_than_is_left(run):
    held = threading.Event()

    class Hangs(Kept):
        def send(self, message):
            held.wait(20)

    place = Hangs()
    told(run, place, close_s=0.1)
    held.set()


ODD = [
    "https://[x",
    "https://h:abc/T0KEN",
    "https://h:99999/T0KEN",
    "https://h:0/T0KEN",
    "https://h/T0K\u00e9N",
    "https://h/T0KEN\udcff",
    "https://h/\x01T0KEN",
    f"https://{'a' * 70}.example/T0KEN",
    "https://a..b/T0KEN",
    "https://h/hook T0KEN",  # two addresses, the second a piece of the first
]


@pytest.mark.parametrize("address", ODD, ids=ascii)
def test_an_address_that_cannot_be_one_is_refused_without_its_secret(address, monkeypatch):
    monkeypatch.setenv("TUNER_NOTIFY", address)
    monkeypatch.setenv("TUNER_NOTIFY_SECRET", SECRET)
    with pytest.raises(UsageError) as refused:
        places_to_notify()
    assert "of TUNER_NOTIFY" in str(refused.value) and "T0K" not in str(refused.value)


ANSWERS = [
    b"garbage\r\n\r\n",
    b"HTTP/1.1 999999 x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 302 x\r\nLocation: http://[\r\n\r\n",
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: ascii(answer[:30]))
def test_an_answer_that_is_none_is_a_problem_of_its_place(answer, monkeypatch):
    """And no end of the thread that sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        place = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/T0KEN", SECRET)
        problem = notifications.deliver(place, Message("test", "x"))
    assert problem and "T0K" not in problem


def test_a_service_whose_code_fails_is_a_problem_of_its_place():
    class Broken(Kept):
        def send(self, message):
            raise RuntimeError("T0KEN")

    assert notifications.deliver(Broken(), Message("test", "x")) == "RuntimeError"


def test_a_message_is_json_as_every_parser_reads_it():
    body = Message("test", "x", {"hypervolume": float("nan"), "front": [{"std": float("inf")}]}).body()
    assert json.loads(body, parse_constant=pytest.fail)["data"] == {"hypervolume": None, "front": [{"std": None}]}
