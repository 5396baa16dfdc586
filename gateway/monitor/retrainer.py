"""Delivers a request for retraining: reads the secret, looks up what is needed, asks, asks again. The thin shell."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from gateway.monitor.beside import beside
from gateway.monitor.retrain import Facts, Settings
from gateway.monitor.retraincalls import Call, check_secret, found_in, is_taken, lookup_of, request_of

ATTEMPTS: Final = 4
FIRST_WAIT_S: Final = 0.5
_AGAIN: Final = frozenset({408, 425, 429})

Ask = Callable[[str, str, bytes | None, Mapping[str, str]], tuple[int, bytes]]
"""method, URL, body, headers -> status and answer; raises OSError: `gateway.control.outside.call`. Runs in a thread."""
Pause = Callable[[float], Awaitable[None]]


def read_secret(settings: Settings, environment: Mapping[str, str]) -> str:
    """The secret that the settings name; "" = they name none.

    Raises:
        ValueError: it is not there or cannot be used; never shows it.
    """
    if settings.secret_env:
        where, secret = f"secret_env: {settings.secret_env}", environment.get(settings.secret_env, "")
    elif settings.secret_file:
        where = "secret_file"
        try:
            secret = Path(settings.secret_file).expanduser().read_text("ascii").strip()
        except OSError as error:
            raise ValueError(f"secret_file: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            # Not chained: the text of that error repeats what was read.
            raise ValueError("secret_file: expected ASCII") from None
    else:
        return ""
    if not secret:
        raise ValueError(f"{where}: nothing is there")
    try:
        check_secret(settings.preset, secret)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return secret


async def deliver(
    settings: Settings,
    facts: Facts,
    *,
    ask: Ask,
    secret: Callable[[], str],
    source: str,
    now_s: Callable[[], float],
    pause: Pause = asyncio.sleep,
) -> tuple[bool, str]:
    """Ask for a new training: whether it was taken, and a note for people. Cancel: it may have arrived.

    Args:
        secret: read anew for each delivery, so that a rotated one is used; runs in a thread.
        source: of the event: this node.
        pause: waits between attempts.
    """
    try:
        value = await beside(secret)
        found = ""
        before = lookup_of(settings, value)
        if before is not None:
            status, answer = await _asked(before, ask, pause)
            if not 200 <= status < 300:
                return False, f"{before.method} of {_what(settings)}: HTTP {status}"
            found = found_in(settings.preset, answer)
        request = request_of(settings.preset, settings, facts, secret=value, found=found, source=source, now_s=now_s())
        status, _ = await _asked(request, ask, pause)
    except (OSError, ValueError) as error:
        return False, str(error)[:200]
    return is_taken(settings.preset, status), f"HTTP {status}"


def _what(settings: Settings) -> str:
    return "the token" if settings.preset == "airflow" else "the deployment"


async def _asked(call: Call, ask: Ask, pause: Pause) -> tuple[int, bytes]:
    """The first answer that is final, or the last one. Raises OSError: the last attempt had none."""
    for attempt in range(ATTEMPTS):
        if attempt:
            await pause(FIRST_WAIT_S * 2 ** (attempt - 1))
        try:
            status, answer = await beside(ask, call.method, call.url, call.body, call.headers)
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if (status < 500 and status not in _AGAIN) or attempt == ATTEMPTS - 1:
            return status, answer
    raise AssertionError("the last attempt returns or raises")
