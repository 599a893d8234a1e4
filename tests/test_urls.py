"""S9: no password, key or token in a URL is kept, shown or sent to another place than it was given for."""

import http.server
import json
import threading
from contextlib import contextmanager

import pytest
import yaml

from tests.conftest import tuner_here
from trainables.data.spec import DataError, check_dataset
from trainables.urls import masked, public, secret_in
from tuner.errors import ClusterError, UsageError
from tuner.home import Home
from tuner.optimizer.study import open_storage
from tuner.remote.dashboard import Dashboard, cluster_address
from tuner.remote.submission import OPEN_VARIABLES, parse_env
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec
from tuner.tracking import runs
from tuner.tracking.health import mlflow_problem

WORD = "geheim-3141"
SECRET_URLS = [
    f"postgresql://me:{WORD}@host/db",
    f"postgresql://me:{WORD}/x@host/db",  # a slash: urlsplit takes "me" for the host
    f"postgresql://me:x@{WORD}@host/db",
    f"postgresql://me:{WORD} and more@host/db",
    f"postgresql://me:it's{WORD}@host/db",
    f"postgresql://me:#?{WORD}@host/db",
    f"postgresql://me%3A{WORD}@host/db",
    f"postgresql+psycopg://host/db?user=me&password={WORD}",
    f"postgresql://host/db?sslpassword={WORD}",
    f"mysql://host/db?passwd={WORD}",
    f"mysql+pymysql://me:{WORD}@host/db?charset=utf8mb4",
    f"s3://KEY:{WORD}@bucket/x",
    f"s3://{WORD}@bucket/x",
    f"s3://bucket/x?secret_key={WORD}",
    f"s3://bucket/x?region=eu&session_token={WORD}",
    f"s3://bucket/x?endpoint_override=http%3A%2F%2Fme%3A{WORD}%40host",
    f"s3://bucket/x?endpoint_override=http://me:{WORD}@host",
    f"gs://bucket/x?X-Goog-Signature={WORD}",
    f"abfss://container@account.dfs.core.windows.net/x?sig={WORD}",
    f"abfss://:{WORD}@account/container/x",
    f"https://me:{WORD}@host:5000/path",
    f"https://{WORD}@host",
    f"http://host:8265/?token={WORD}",
    f"http://host:8265/#access_token={WORD}",
    f"parquet:s3://KEY:{WORD}@bucket/x",
]
OPEN_URLS = [
    "postgresql://me@host:5432/db?sslmode=verify-full&sslrootcert=/etc/ca.pem",
    "postgresql:///db?host=/var/run/postgresql",
    "sqlite:////home/me@work/studies.db",
    "s3://bucket/x?region=eu-1&endpoint_override=http://127.0.0.1:9000&scheme=http",
    "s3://anonymous@bucket/x",
    "s3://bucket/user@example/x",
    "gs://bucket/x?project_id=mine",
    "abfss://container@account.dfs.core.windows.net/x",
    "file:///home/me/a:b",
    "http://[::1]:8265",
    "/a/folder:with@signs",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_s9_a_secret_in_a_url_is_found_and_masked(url):
    found = secret_in(url)
    assert found and WORD not in found
    assert WORD not in masked(url, url), "the whole text is the URL"
    assert WORD not in masked(f"cannot open {url!r}: {url}", url), "a known URL in a text"
    cleaned = public(url)
    assert WORD not in cleaned and secret_in(cleaned) is None
    assert cleaned.partition("://")[0] == url.partition("://")[0]
    if " " not in url:
        said = masked(f"cannot open '{url}' now ({url}), it says")
        assert WORD not in said and said.startswith("cannot open '") and said.endswith("), it says")


@pytest.mark.parametrize("url", OPEN_URLS)
def test_s9_what_is_no_secret_stays(url):
    assert secret_in(url) is None and public(url) == url and masked(f"at {url!r}, ok") == f"at {url!r}, ok"


def test_s9_public_keeps_what_is_open():
    assert public(f"postgresql://me:{WORD}@host/db?sslmode=require&password=x#y") == (
        "postgresql://me@host/db?sslmode=require&y"
    )
    assert masked(f"s3://k:{WORD}@b/x?region=eu&token={WORD}") == "s3://***@b/x?region=eu&token=***"


def test_s9_values_of_secret_variables_are_masked_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-2718")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:pa/{WORD}@host/db")
    said = masked(f'could not translate host name "{WORD}@host", token-2718 in the header')
    assert said == 'could not translate host name "***@host", *** in the header'


STORAGES = [url for url in SECRET_URLS if url.startswith(("s3", "gs", "abfs"))]
DATABASES = [url for url in SECRET_URLS if url.startswith(("postgresql", "mysql"))]


@pytest.mark.parametrize(
    "field, url",
    [
        *(("storage", url) for url in STORAGES),
        *(("study_storage", url) for url in DATABASES),
        *(("dataset", f"{kind}:{url}") for url in STORAGES for kind in ("parquet", "folder", "stored")),
    ],
)
def test_s9_every_url_option_refuses_secrets(field, url):
    """A spec is where all of them end: of the command line, a file, Python, `submit` and `resume --address`."""
    with pytest.raises(UsageError, match=f"--{field.replace('_', '-')} .* carries a password, key or token") as error:
        SearchSpec(**{field: url})
    assert WORD not in str(error.value) and "\n" not in str(error.value)
    if field == "dataset":
        with pytest.raises(DataError) as error:
            check_dataset(url)
        assert WORD not in str(error.value)


COMMANDS = [
    ["search", "--dataset", f"parquet:s3://K:{WORD}@b/x"],
    ["search", "--storage", f"s3://b/x?secret={WORD}"],
    ["search", "--study-storage", f"postgresql://me:{WORD}@h/d"],
    ["search", "--study-storage", f"redis://me:{WORD}@h/d"],
    ["search", "--dataset", f"nonsense:s3://K:{WORD}@b/x"],
    ["ls", "--storage", f"s3://K:{WORD}@b/x"],
    ["front", "x", "--storage", f"s3://K:{WORD}@b/x"],
    ["resume", "x", "--address", "http://h:1", "--dataset", f"parquet:s3://K:{WORD}@b/x"],
    ["resume", "x", "--address", "http://h:1", "--study-storage", f"postgresql://me:{WORD}@h/d"],
    ["resume", "x", "--address", "http://h:1", "--storage", f"s3://K:{WORD}@b/x"],
    ["resume", "x", "--address", f"http://me:{WORD}@h:1"],
    ["submit", "--address", f"http://h:1/?token={WORD}"],
    ["submit", "--address", "http://h:1", "--dataset", f"parquet:s3://K:{WORD}@b/x"],
    ["jobs", "--address", f"http://{WORD}@h:1"],
    ["doctor", "--address", f"me:{WORD}@h:1"],
    ["doctor", "--address", "http://h:1", "--storage", f"s3://K:{WORD}@b/x"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c[0]} {c[-2]}")
def test_s9_commands_refuse_in_one_sentence(command, tmp_path):
    for more in ([], ["--json"]):
        done = tuner_here(*command, *more, env={"TUNER_HOME": tmp_path})
        assert done.returncode == 2 and WORD not in done.stdout + done.stderr, done.stderr
        assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1


def test_s9_a_stored_spec_loses_its_passwords_when_it_is_read(tmp_path):
    """Searches of earlier versions keep opening; what is written and logged from then on is clean."""
    values = SearchSpec(name="old").to_dict() | {
        "dataset": f"parquet:s3://KEY:{WORD}@bucket/x?region=eu",
        "study_storage": f"postgresql://me:{WORD}@host/db",
        "storage": f"s3://bucket/y?secret_key={WORD}",
    }
    folder = tmp_path / "searches" / "old"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(yaml.safe_dump(values))
    run = load_search(Home(tmp_path), "old")
    assert run.spec.dataset == "parquet:s3://bucket/x?region=eu" and run.spec.storage == "s3://bucket/y"
    assert run.spec.study_storage == "postgresql://me@host/db"
    tags = runs.parent_changes(run.spec).params
    assert WORD not in run.spec.to_yaml() + json.dumps(tags, default=str) + run.spec.experiment_name


def test_s9_a_database_that_cannot_be_opened_is_named_without_its_password(tmp_path):
    for url in (f"postgresql://me:pa/{WORD}@nowhere.invalid/db", f"nonsense://me:{WORD} x@nowhere.invalid/db"):
        with pytest.raises(UsageError, match="--study-storage") as error:
            open_storage(url, tmp_path)
        assert WORD not in str(error.value)


NAMES = """OPENAI_APIKEY OPENAI_API_KEY APIKEY HF_TOKEN WANDB_KEY DB_PW MYPWD SSH_PRIVATE GITHUB_PAT SLACK_WEBHOOK
AZURE_SAS BEARER AUTH COOKIE SESSION DSN DATABASE_URL LICENSE N MLFLOW_TRACKING_PASSWORD AWS_SECRET_ACCESS_KEY
AWS_SESSION_TOKEN AWS_ACCESS_KEY_ID RAY_AUTH_TOKEN PGPASSWORD GOOGLE_APPLICATION_CREDENTIALS""".split()


@pytest.mark.parametrize("name", NAMES)
def test_s9_env_takes_values_of_known_variables_alone(name):
    with pytest.raises(UsageError, match="everyone on the cluster") as error:
        parse_env([f"{name}={WORD}"])
    assert WORD not in str(error.value) and "\n" not in str(error.value)
    assert parse_env([name]) == ([name], {})


@pytest.mark.parametrize(
    "item",
    [
        f"MLFLOW_TRACKING_URI=https://me:{WORD}@host",
        f"HTTPS_PROXY=me:{WORD}@proxy:3128",
        f"TUNER_STORAGE=s3://bucket?secret_key={WORD}",
        f"AWS_ENDPOINT_URL=https://{WORD}@host",
    ],
)
def test_s9_env_takes_no_sign_in_in_a_value(item):
    with pytest.raises(UsageError) as error:
        parse_env([item])
    assert WORD not in str(error.value)


def test_s9_env_shows_no_value_where_the_name_is_wrong():
    with pytest.raises(UsageError) as error:
        parse_env([f"a b={WORD}"])
    assert WORD not in str(error.value)
    assert "MLFLOW_TRACKING_URI" in OPEN_VARIABLES
    assert parse_env(["OMP_NUM_THREADS=1"]) == ([], {"OMP_NUM_THREADS": "1"})


# ---- redirects -------------------------------------------------------------------------------------------------------


@contextmanager
def site(answer):
    """A server on loopback: ``answer(path)`` is (status, headers, body); yields its address and the requests seen."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()


MODE = (200, {}, b'{"authentication_mode": "token"}')


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_s9_a_token_follows_no_redirect_to_another_place(status, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", WORD)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", WORD)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with site(lambda path: (200, {}, b"{}")) as (other, stolen):

        def answer(path):
            return MODE if "authentication" in path else (status, {"Location": other + path}, b"")

        with site(answer) as (address, seen):
            cluster = Dashboard(address)
            for ask in (cluster.versions, cluster.jobs, lambda: cluster.stop("x")):
                with pytest.raises(ClusterError, match=f"sends elsewhere, to {other}"):
                    ask()
            assert f"sends elsewhere, to {other}" in mlflow_problem(address)
            assert [auth for path, auth in seen[1:]] == [f"Bearer {WORD}"] * 4
    assert stolen == []


def test_s9_a_redirect_to_the_same_place_is_followed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", WORD)

    def answer(path):
        return (200, {}, b"{}") if path.startswith("/new") else (302, {"Location": "/new" + path}, b"")

    with site(answer) as (address, seen):
        assert mlflow_problem(address) is None and seen[-1][0].startswith("/new")


def test_s9_addresses(monkeypatch):
    assert cluster_address("head:8265/") == "http://head:8265"
    assert cluster_address("https://head") == "https://head"
