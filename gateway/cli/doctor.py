"""`tidegate doctor`, `tidegate version`: what is installed, what this machine allows, what a server says of itself."""

import os
import platform
import resource
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway import __version__, native
from gateway.cli.client import AdminUrl, Refused, admin_url, call
from gateway.cli.output import Failure, Json, bytes_text, print, print_json, print_table
from gateway.config import Config, ConfigError, asks_for_keys, keys_in_words, usable_cpus
from gateway.configfile import load_config

_COMPILE = "faster when compiled: docs/adr/013-compiled.md"
_LIBRARIES = (
    "onnxruntime",
    "numpy",
    "uvicorn",
    "uvloop",
    "httptools",
    "starlette",
    "orjson",
    "pysimdjson",
    "msgspec",
    "librt",
)


def show_version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__, "compiled": native.is_compiled()})
    else:
        print(f"tidegate {__version__}")


def doctor(admin: AdminUrl = None, as_json: Json = False) -> None:
    """Check this machine and, if one runs, the server."""
    checks = _checks()
    server = _server(admin)
    if as_json:
        print_json({"checks": checks, "libraries": _libraries(), "server": server})
    else:
        print_table(
            "this machine", ["check", "result", "advice"], [(c["check"], c["result"], c["advice"]) for c in checks]
        )
        print_table("libraries", ["name", "version"], list(_libraries().items()))
        _print_server(server, admin_url(admin))
    if any(check["failed"] for check in checks):
        raise Failure("something has to be put right before a server can run")


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version(), "tidegate": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _checks() -> list[dict[str, Any]]:
    from gateway.datadir import default_path

    try:
        config = load_config({}, os.environ).config
        settings = _check("configuration", "ok")
    except ConfigError as error:
        return [_check("configuration", str(error), "put it right; `tidegate config show` explains", failed=True)]
    folder = Path(config.data.dir).expanduser() if config.data.dir else default_path()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(parent, os.W_OK)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = config.limits.connections + 200
    repository = Path(config.models.repository).expanduser()
    return [
        settings,
        _check("CPUs", str(usable_cpus())),
        _check(
            "data folder",
            f"{folder}",
            "" if writable else "cannot be written: use --data-dir or --ephemeral",
            failed=not writable,
        ),
        _check("hot path", native.in_words(), "" if native.is_compiled() else _COMPILE),
        _check("open files", str(files), "" if files >= wanted else f"raise the limit to {wanted}: ulimit -n"),
        _check("repository", str(repository), "" if repository.exists() else "does not exist yet"),
        _store(config.store.url),
        _keys(config, folder),
    ]


def _store(url: str | None) -> dict[str, Any]:
    from gateway.store.opening import check_url

    if url is None:
        return _check("store", "a file in the data folder")
    try:
        check_url(url)
    except ConfigError as error:
        return _check("store", str(error).removeprefix("store: "), "put store.url right", failed=True)
    return _check("store", f"{urlsplit(url).scheme} at {urlsplit(url).netloc.rpartition('@')[2]}")


def _keys(config: Config, folder: Path) -> dict[str, Any]:
    """Whether keys are asked for, in words, and whether their file can be used."""
    from gateway.keyfile import KeyFile, KeysUnusable
    from gateway.keys import facts_of

    words = keys_in_words(config)
    try:
        count = len(facts_of(KeyFile(folder).read(), time.time()))
    except KeysUnusable as error:
        return _check("keys", words, error.message, failed=asks_for_keys(config))
    if not asks_for_keys(config):
        return _check("keys", words)
    return _check("keys", f"{words}; {count} in force", "" if count else "tidegate keys create NAME --scope infer")


def _check(check: str, result: str, advice: str = "", *, failed: bool = False) -> dict[str, Any]:
    return {"check": check, "result": result, "advice": advice, "failed": failed}


def _server(admin: str | None) -> dict[str, Any] | None:
    base = admin_url(admin)
    try:
        server = call("GET", f"{base}/admin/v1/server", timeout_s=2.0).json()
        workers = call("GET", f"{base}/admin/v1/workers", timeout_s=2.0).json()
    except Refused as refused:
        raise Failure(
            f"a server answers at {base}, but {refused.message}; doctor needs a key with scope view"
        ) from refused
    except Failure:
        if admin is not None:
            raise
        return None
    return {**server, "worker_processes": workers}


def _print_server(server: dict[str, Any] | None, where: str) -> None:
    if server is None:
        print(f"no server answers at {where}; start one with `tidegate serve`")
        return
    print(
        f"server {server['version']}: mode {server['control_mode']}, repository {server['repository']}, "
        f"revision {server['revision']}, {'ready' if server['ready'] else 'NOT ready'}"
        + (", EPHEMERAL state" if server["ephemeral"] else "")
        + (", asks for a key" if server["auth"] == "keys" else ", NOBODY IS ASKED FOR A KEY")
    )
    for line in server["warnings"]:
        print(f"  {line}")
    for line in server["waits_for"]:
        print(f"  waits for {line}")
    for line in server["passed_over"]:
        print(f"  passed over: {line}")
    columns = ["slot", "pid", "listening", "connections", "loop lag ms", "memory", "restarts", "last reason", "models"]
    rows = [
        (
            w["slot"], w["pid"], "yes" if w["listening"] else "no", w["connections"], w["loop_lag_ms"],
            bytes_text(w["rss_bytes"]), w["restarts"], w["last_reason"], ", ".join(w["models"]),
        )
        for w in server["worker_processes"]
    ]  # fmt: skip
    print_table("workers", columns, rows)
