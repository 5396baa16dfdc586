"""From a URL to a store."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.config import ConfigError
from gateway.store import addresses
from gateway.store.base import Limits, Store
from gateway.store.sqlite import open_sqlite, wall_ms

FILE_NAME: Final = "store.db"


def check_url(url: str) -> None:
    """Raises ConfigError when no store understands the URL, which is not repeated: there may be a password in it."""
    scheme, given, _ = url.partition("://")
    if not given or scheme not in addresses.SCHEMES:
        known = ", ".join(f"{known}://" for known in addresses.SCHEMES)
        raise ConfigError(
            f"store: expected {known}, or nothing for a file in the data folder; "
            f"got {repr(scheme) if given else 'no scheme'}"
        )
    try:
        addresses.check(url)
    except ValueError as error:
        raise ConfigError(f"store: {error}") from error


async def open_store(
    url: str | None, data_dir: Path, *, clock_ms: Callable[[], int] = wall_ms, limits: Limits | None = None
) -> Store:
    """The store of a URL; without one the file `store.db` in the data folder.

    A Redis that is away does not fail this: the store opens, and calls raise StoreAway until it is there.

    Args:
        clock_ms: of SQLite; Redis has its own.

    Raises:
        ConfigError: a URL that no store understands.
        StoreAway, StoreUnusable: SQLite alone, see `open_sqlite`.
    """
    if url is None:
        return await open_sqlite(data_dir / FILE_NAME, clock_ms=clock_ms, limits=limits)
    check_url(url)
    from gateway.store.redisstore import open_redis  # noqa: PLC0415  redis costs 0.2 s and 20 MB to import

    return await open_redis(url, limits=limits)
