"""The form of a store's URL. Never imports redis: whoever only starts a server would pay 0.2 s and 20 MB for it."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

Address = tuple[str, int]

SINGLE: Final = ("redis", "rediss", "unix")
SENTINEL: Final = "redis+sentinel"
# The second one with TLS.
CLUSTER: Final = ("redis+cluster", "rediss+cluster")
SCHEMES: Final = (*SINGLE, SENTINEL, *CLUSTER)
_OF_SENTINELS: Final = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True, slots=True)
class Sentinels:
    """`redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/SERVICE[/DB]`.

    Attributes:
        username, password: of the Redis behind, None = none.
        login: of the Sentinels, in redis-py's words: `?sentinel_username=` and `?sentinel_password=`.
    """

    addresses: tuple[Address, ...]
    service: str
    db: int
    username: str | None
    password: str | None
    login: dict[str, str]


def check(url: str) -> None:
    """Raises ValueError with what was expected when no Redis can be meant. Settings after `?` are redis-py's matter."""
    parts = urlsplit(url)
    if parts.scheme == SENTINEL:
        sentinels(url)
    elif parts.scheme in CLUSTER:
        cluster(url)
    elif parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ValueError("expected unix:///PATH")
    else:
        _check_single(parts)


def sentinels(url: str) -> Sentinels:
    """What a URL of Sentinels says. Raises ValueError."""
    parts = urlsplit(url)
    expected = f"expected {SENTINEL}://HOST:PORT[,HOST:PORT...]/SERVICE[/DB]"
    service, _, db = parts.path.strip("/").partition("/")
    if not service or not (db or "0").isdecimal() or parts.fragment:
        raise ValueError(expected)
    asked = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(asked) - set(_OF_SENTINELS)):
        raise ValueError(f"{unknown[0]}: expected {' or '.join(_OF_SENTINELS)}")
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return Sentinels(
        _addresses(parts, expected),
        service,
        int(db or 0),
        unquote(user) or None,
        unquote(password) or None,
        {_OF_SENTINELS[key]: value for key, value in asked.items()},
    )


def cluster(url: str) -> tuple[Address, ...]:
    """The nodes that a Cluster's URL names. Raises ValueError."""
    parts = urlsplit(url)
    expected = f"expected {parts.scheme}://HOST:PORT[,HOST:PORT...]"
    found = _addresses(parts, expected)
    if parts.path not in ("", "/", "/0") or parts.fragment:
        raise ValueError(f"{expected}: a Cluster has one database, 0")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if parts.scheme == CLUSTER[0] or not name.startswith("ssl_"):
            raise ValueError(f"{name}: expected ssl_... after {CLUSTER[1]}://, nothing after {CLUSTER[0]}://")
    return found


def _addresses(parts: SplitResult, expected: str) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2].split(",")
    try:
        pairs = [(one.hostname, one.port) for one in (urlsplit(f"//{host}") for host in hosts)]
    except ValueError as error:
        raise ValueError(f"{expected}: {error}") from error
    found = tuple((host, port) for host, port in pairs if host and port)
    if len(found) < len(pairs):
        raise ValueError(expected)
    return found


def _check_single(parts: SplitResult) -> None:
    expected = f"expected {parts.scheme}://HOST[:PORT][/DB]"
    try:
        valid = parts.port != 0
    except ValueError as error:
        raise ValueError(f"{expected}: {error}") from error
    # redis-py takes database 0 where it cannot read one.
    if not valid or not parts.hostname or not (parts.path.strip("/") or "0").isdecimal() or parts.fragment:
        raise ValueError(expected)
