"""URLs of stores: what cannot be meant is refused before anything starts, and no password is repeated."""

import asyncio
from pathlib import Path

import pytest

from gateway.config import ConfigError
from gateway.store.opening import check_url, open_store

MALFORMED = {
    "redis://": "expected redis://HOST",
    "redis://h:port": "expected redis://HOST.*: Port",
    "redis://h:99999999": "expected redis://HOST.*: Port",
    "redis://h:0": "expected redis://HOST",
    "redis://h/first": "expected redis://HOST",
    "redis://h/1#x": "expected redis://HOST",
    "rediss://:secret@": "expected rediss://HOST",
    "redis://[::1": "expected redis|Invalid IPv6",
    "unix://": "expected unix:///PATH",
    "redis+sentinel://": r"expected redis\+sentinel://HOST:PORT",
    "redis+sentinel://h:1": r"expected redis\+sentinel://HOST:PORT",
    "redis+sentinel://h/s": r"expected redis\+sentinel://HOST:PORT",
    "redis+sentinel://h:1,:2/s": r"expected redis\+sentinel://HOST:PORT",
    "redis+sentinel://h:x/s": r"expected redis\+sentinel://HOST:PORT.*: Port",
    "redis+sentinel://h:1/s/first": r"expected redis\+sentinel://HOST:PORT",
    "redis+sentinel://h:1/s?x=1": "x: expected sentinel_username",
}


@pytest.mark.parametrize(("url", "said"), MALFORMED.items())
def test_malformed_addresses_are_refused_before_anything_starts(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"store: ({said})") as one:
        check_url(url)
    with pytest.raises(ConfigError) as other:
        asyncio.run(open_store(url, tmp_path))
    assert str(one.value) == str(other.value)
    assert "secret" not in str(one.value)


@pytest.mark.parametrize("url", ["redis://h:1?nonsense=1", "redis://h?db=first", "rediss://h?ssl_cert_reqs=maybe"])
def test_settings_that_there_are_not_are_refused_at_once(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="store: "):
        asyncio.run(open_store(url, tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://u:p@h:1/2?socket_keepalive=1",
        "rediss://[::1]:7",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://u:p@[::1]:1,b:2/s/3?sentinel_password=x",
    ],
)
def test_wellformed_addresses_are_taken(tmp_path: Path, url: str) -> None:
    async def work() -> None:
        await (await open_store(url, tmp_path)).close()

    check_url(url)
    asyncio.run(work())
