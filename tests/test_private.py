"""S4: on a machine that several people use, a search's Ray instance is its user's alone."""

import contextlib
import os
import re
import stat
import urllib.error
import urllib.request

import pytest

from trainables.files import locked
from tuner.execution import ray_session
from tuner.execution.ray_instance import connect
from tuner.execution.ray_session import private_session
from tuner.spec.search_spec import SearchSpec

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# One of each server that runs code or hands out data; the service says which port has it.
METHODS = {
    "/ray.rpc.InternalKVGcsService/InternalKVPut",
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/PushTask",
}


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def settings():
    return {name: os.environ.get(name) for name in NAMES}


def listening():
    """(address, port) of every server of this process and of those that it started."""
    import psutil

    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from (c.laddr for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN)


def answer(port, method, token):
    """What a server says to a call: a code of gRPC's."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            key = [("authorization", f"Bearer {token}")] if token else []
            channel.unary_unary(method)(b"", timeout=10, metadata=key)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def http_answer(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/get_or_create_runtime_env", timeout=10) as page:
            return page.status
    except urllib.error.HTTPError as error:
        return error.code
    except Exception:
        return None  # it speaks gRPC


@pytest.fixture
def careless(monkeypatch):
    """A user with an open umask and settings of a cluster."""
    for name, value in zip(NAMES, ("disabled", "of-the-cluster", "/nowhere")):
        monkeypatch.setenv(name, value)
    before = os.umask(0)
    yield settings()
    os.umask(before)


@pytest.mark.process
def test_s4_a_search_has_its_ray_for_itself(careless, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connect(SearchSpec()) as ray:
        inside = settings()
        token, folder = open(inside["RAY_AUTH_TOKEN_PATH"]).read(), os.path.dirname(inside["RAY_AUTH_TOKEN_PATH"])
        session = ray._private.worker._global_node.get_session_dir_path()
        assert session.startswith(f"{folder}/") and mode(folder) == 0o700, "Ray's own folder in it is open to everybody"
        assert mode(inside["RAY_AUTH_TOKEN_PATH"]) == 0o600 and re.fullmatch("[0-9a-f]{64}", token)
        assert inside == {**careless, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None, NAMES[2]: f"{folder}/token"}
        ports = set()
        for address in listening():
            assert address.ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1"), address
            ports.add(address.port)
        asked = {}
        for port in ports:
            if http_answer(port) is None:
                codes = {m: answer(port, m, None) for m in METHODS}
                asked |= {m: port for m, code in codes.items() if code == "UNAUTHENTICATED"}
                assert set(codes.values()) <= {"UNAUTHENTICATED", "UNIMPLEMENTED"}, (port, codes)
        assert asked.keys() == METHODS, "every kind of server was among them"
        assert 401 in map(http_answer, ports), "the agent that makes environments, which are commands too"
        read = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
        assert answer(asked[read], read, token) == "OK" and answer(asked[read], read, "0" * 64) == "UNAUTHENTICATED"
    assert settings() == careless and not os.path.exists(folder)


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_session, "_LONGEST", 200)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def test_s4_each_session_has_its_own_token(base, careless):
    tokens = []
    for _ in range(2):
        with private_session() as temp:
            (folder,) = base.iterdir()
            assert temp == str(folder / "r") and mode(folder) == 0o700 and mode(folder / "token") == 0o600
            tokens.append((folder / "token").read_text())
            os.makedirs(f"{temp}/session/sockets")
        assert settings() == careless and not list(base.iterdir())
    assert len(set(tokens)) == 2
    with pytest.raises(KeyError), private_session():
        raise KeyError
    assert settings() == careless and not list(base.iterdir())


def test_s4_what_killed_searches_left_is_removed(base):
    """That of a running one stays, and whatever is not ours."""
    for name in ("ray-killed", "ray-running", "ray-", "other"):
        (base / name / "r").mkdir(parents=True)
        (base / name / "lock").touch()
    (base / "ray-again/r/session_2026/logs").mkdir(parents=True)  # a process of Ray's wrote there after its removal
    (base / "ray-of-others/r/thesis").mkdir(parents=True)
    (base / "ray-file").write_text("lock")
    (base / "elsewhere").mkdir()
    (base / "elsewhere" / "lock").touch()
    (base / "ray-link").symlink_to(base / "elsewhere")
    left = {"ray-running", "other", "ray-of-others", "ray-file", "ray-link", "elsewhere"}
    with locked(base / "ray-running" / "lock"):
        with private_session():
            assert {p.name for p in base.iterdir()} - left and left <= {p.name for p in base.iterdir()}
    assert {p.name for p in base.iterdir()} == left


def test_c14_what_cannot_be_removed_yet_is_removed_later(base, monkeypatch):
    """Processes of a search that was left while its Ray was starting wrote on: without its lock, nobody ever came
    back for the folder."""
    writing = [True]
    real = ray_session.shutil.rmtree

    def rmtree(path, **how):
        if not (writing[0] and "ray-left" in str(path)):
            real(path, **how)

    monkeypatch.setattr(ray_session.shutil, "rmtree", rmtree)
    (base / "ray-left" / "r").mkdir(parents=True)
    (base / "ray-left" / "lock").touch()
    (base / "ray-left" / "token").touch()
    with private_session():
        assert sorted(path.name for path in (base / "ray-left").iterdir()) == ["lock", "r"]
        writing[0] = False
    assert not list(base.iterdir())


@pytest.mark.parametrize("folder, taken", [("/x" * 14, False), ("/nowhere", False), ("{}", True)])
def test_a_folder_whose_sockets_have_no_room_is_passed_over(tmp_path, monkeypatch, folder, taken):
    """P12: the path of a socket has 107 characters at most, so a long TMPDIR gives way to /tmp."""
    if not taken:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setattr(ray_session.tempfile, "tempdir", str(tmp_path))
        assert len(str(tmp_path)) > ray_session._LONGEST and str(ray_session._base()) == "/tmp"
    else:
        monkeypatch.setattr(ray_session, "_LONGEST", len(str(tmp_path)))
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        assert ray_session._base() == tmp_path
