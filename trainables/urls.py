"""What a URL may say, and to whom a sign-in goes. No password, key or token stands in a URL that is kept or shown.

`check_public` refuses such a URL, `public` takes the secret out of one that is stored already, `masked` hides those in
a text, and `open_url` follows no redirect to another place. All of them read a URL in one way (`_parts`).
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

# The parameters of a URL that are no secret: those of pyarrow's storages, of libpq, of MySQL's drivers and of SQLite.
OPEN_PARAMETERS = frozenset(
    """
    allow_bucket_creation allow_bucket_deletion allow_delayed_open background_writes blob_storage_authority
    blob_storage_scheme check_directory_existence_before_creation client_id dfs_storage_authority dfs_storage_scheme
    enable_tls endpoint_override project_id region retry_limit_seconds scheme smart_defaults tenant_id tls_ca_dir_path
    tls_ca_file_path tls_verify_certificates
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssencmode gsslib
    host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts passfile
    port replication requirepeer service sslcert sslcompression sslcrl sslcrldir sslkey sslmode sslrootcert sslsni
    target_session_attrs tcp_user_timeout user
    charset local_infile read_default_file ssl_ca ssl_cert ssl_key ssl_mode ssl_verify_cert ssl_verify_identity
    unix_socket use_unicode
    cache check_same_thread immutable mode timeout uri
    """.split()
)
# Where what stands before an @ may be a name alone: a database's user, a container of Azure.
NAMED = re.compile(r"(.*:)?(postgres(ql)?|mysql|mariadb|abfss?)\b", re.IGNORECASE)
# Where the password of a storage belongs.
SIGN_IN = "give it in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the cloud's own sign-in)"
# Variables whose values are secret wherever they turn up in a text, and those that hold a URL with one.
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
    "RAY_AUTH_TOKEN",
    "TUNER_NOTIFY_SECRET",
)
URL_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_HIDDEN = "***"


class _Parts(NamedTuple):
    """A URL as text: ``SCHEME://[LOGIN@]PLACE[MARK KEY=VALUE]...``, where a mark is ``?``, ``&``, ``;`` or ``#``.

    ``scheme`` includes what a data set has before it: ``parquet:s3``.
    """

    scheme: str
    login: str
    place: str
    parameters: list[tuple[str, str, str]]  # (mark, key, value); a part without "=" is a value without a key


def _parts(url: str) -> _Parts:
    """The parts of a URL. A password may hold any character, also ``/`` and ``@``: a login ends at the last @."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login = rest.rpartition("@")[0] if "@" in authority or ":" in authority else ""
    rest = rest[len(login) + 1 :] if login else rest
    place, *found = re.split(r"([?&;#])", rest) if "?" in rest or "#" in rest else [rest]
    parameters = []
    for mark, text in zip(found[::2], found[1::2]):
        key, equals, value = text.partition("=")
        parameters.append((mark, key, value) if equals else (mark, "", text))
    return _Parts(scheme, login, place, parameters)


def _secret_login(parts: _Parts) -> bool:
    user, colon, password = urllib.parse.unquote(parts.login).partition(":")
    if user == "anonymous" and not colon:  # pyarrow's word for a public bucket
        return False
    return bool(password or user and not NAMED.match(parts.scheme))


def _secret_parameter(key: str, value: str) -> bool:
    if not key:
        return False
    return key.lower() not in OPEN_PARAMETERS or secret_in(urllib.parse.unquote(value)) is not None


def secret_in(url: str) -> str | None:
    """What may be secret in a URL, in words; None where everyone may read it. A text without ``://`` is no URL."""
    if "://" not in url:
        return None
    parts = _parts(url)
    if _secret_login(parts):
        return "a name or password before the @"
    return next((f"?{key}=" for _, key, value in parts.parameters if _secret_parameter(key, value)), None)


def check_public(what: str, url: str, instead: str) -> None:
    """``ValueError`` where a URL holds a secret. ``what`` names it, ``instead`` says where the secret belongs."""
    if found := secret_in(url):
        raise ValueError(
            f"{what} {masked(url, url)!r} carries a password, key or token ({found}), and what a command is given is "
            f"kept where others read it; {instead}"
        )


def public(url: str) -> str:
    """The URL without its secrets; a name that is none stays."""
    if not secret_in(url):
        return url
    scheme, login, place, parameters = parts = _parts(url)
    name = re.split(":|%3A", login)[0] if NAMED.match(scheme) or not _secret_login(parts) else ""
    kept = [f"{key}={value}" if key else value for _, key, value in parameters if not _secret_parameter(key, value)]
    return f"{scheme}://{name}{'@' if name else ''}{place}{'?' if kept else ''}{'&'.join(kept)}"


def masked(text: str, *urls: str | None) -> str:
    """The text with ``***`` for what is secret in its URLs, and for the values of ``SECRET_VARIABLES``.

    ``urls``: URLs that the text may repeat, in whole or in part. A password in one of them may hold spaces.
    """
    for url in (*urls, *map(os.environ.get, URL_VARIABLES)):
        if url and secret_in(url):
            text = text.replace(url, _masked_url(url))
            text = _without(text, _secrets_of(url))
    text = _without(text, [os.environ.get(name, "") for name in SECRET_VARIABLES])
    return _URL.sub(lambda match: _masked_word(match[0]), text)


def _secrets_of(url: str) -> list[str]:
    """What is secret in a URL, as it stands there and decoded, in whole and in the parts that a parser may take it
    for."""
    parts = _parts(url)
    user, colon, password = parts.login.partition(":")
    values = [value for _, key, value in parts.parameters if _secret_parameter(key, value)]
    values += [password if colon else user] if _secret_login(parts) else []
    pieces = [piece for value in values for piece in re.split(r"[@/?#]", value)]
    return [form for value in (*values, *pieces) for form in (value, urllib.parse.unquote(value))]


def _without(text: str, secrets: list[str]) -> str:
    """The text without these words; one of two characters is in too many others to be looked for."""
    for secret in sorted((word for word in secrets if len(word) > 2), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text


def _masked_word(word: str) -> str:
    """A URL in a text, up to the next space: quotes and brackets behind it are not of it."""
    url = word.rstrip("'\"`)]}>,.:")
    return _masked_url(url) + word[len(url) :]


def _masked_url(url: str) -> str:
    scheme, login, place, parameters = parts = _parts(url)
    shown = (_HIDDEN if _secret_login(parts) else login) + "@" if login else ""
    said = [
        mark + (f"{key}={_HIDDEN if _secret_parameter(key, value) else value}" if key else value)
        for mark, key, value in parameters
    ]
    return f"{scheme}://{shown}{place}{''.join(said)}"


# ---- requests ----------------------------------------------------------------------------------------------------

REDIRECTS = (301, 302, 303, 307, 308)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class _SamePlace(urllib.request.HTTPRedirectHandler):
    """urllib sends a request's headers, with its token, wherever an answer points."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        try:
            same = _origin(newurl) == _origin(req.full_url)
        except ValueError:  # it is no URL
            same = False
        if not same:
            raise urllib.error.HTTPError(req.full_url, code, f"sends elsewhere, to {masked(newurl)}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(request: urllib.request.Request | str, timeout: float) -> Any:
    """``urllib.request.urlopen``, but a redirect to another scheme, host or port is an ``HTTPError``."""
    return urllib.request.build_opener(_SamePlace).open(request, timeout=timeout)
