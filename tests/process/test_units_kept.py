"""Units are kept as keyed hashes alone: everything that a store, the disk and callers hold after feedback, an
experiment, a rollout with errors, samples of a shadow and a decision log is searched for hashes that the salt gives
away."""

import base64
import json
import re
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.control.policycache import PolicyCache
from gateway.predictions import read
from gateway.unitkeys import keyed, unit_text
from router.hashing import placer
from tests import models
from tests.process.callers import Caller, apply, cli, policy, tensor, until
from tests.store.places import RedisServer
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
EXPERIMENT = policy(
    "affine",
    split={"stable": 5000, "canary": 5000},
    shadow={"variant": "canary", "percent": 100, "compare": {"atol": 0.001}, "samples": {"ttl": "1h", "max": 50}},
    experiment={
        "control": "stable",
        "hypothesis": "they pay",
        "goals": [{"metric": "reward.paid", "type": "proportion", "direction": "up", "mde": 0.05}],
    },
)
ROLLOUT = policy(
    "lookup",
    steps=[{"setWeight": 5000, "hold": {"minDuration": "1h"}}],
    analysis={"guardrails": [{"metric": "error_rate", "margin": {"absolute": 0.9}}]},
)
USERS = [f"customer-{number}" for number in range(120)]


@pytest.fixture(params=["file", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Tree, Callable[[], dict[str, bytes]]]]:
    """A gateway, and all that it has written, by where."""
    config = "version_policy: {all: true}\n"
    for version, scale in ((1, 1.0), (2, 2.0)):
        models.write(tmp_path / "models", "affine", models.affine(scale), version, config)
    for version, size in ((1, 8), (2, 4)):
        models.write(tmp_path / "models", "lookup", models.lookup(size), version, config)
    settings: dict[str, Any] = {"models__quiet_period_ms": 0, "decisions__log": True}
    if request.param == "file":
        with serve(tmp_path / "models", "--workers", "2", **settings) as tree:
            yield tree, lambda: files(tree.data_dir)
        return
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    redis = RedisServer(tmp_path)
    redis.start()
    try:
        with serve(tmp_path / "models", "--workers", "2", store__url=redis.url, **settings) as tree:
            yield tree, lambda: files(tree.data_dir) | dumped(redis)
    finally:
        redis.stop()


def files(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and "models" not in path.relative_to(folder).parts:
            found[path.name] = path.read_bytes()
            if found[path.name].startswith(b"SQLite format 3"):
                found |= rows(path)
    return found


def rows(path: Path) -> dict[str, bytes]:
    found = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for at, row in enumerate(database.execute(f"SELECT * FROM {table}")):
                found[f"{table} {at}"] = b"\n".join(
                    value if isinstance(value, bytes) else str(value).encode() for value in row
                )
    return found


def dumped(redis: RedisServer) -> dict[str, bytes]:
    def flat(value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, dict):
            return b"\n".join(flat(one) for pair in value.items() for one in pair)
        if isinstance(value, list | tuple | set):
            return b"\n".join(map(flat, value))
        return str(value).encode()

    found = {}
    with redis.client() as client:
        for key in client.keys("*"):
            kind = client.type(key)
            ask = {b"string": client.get, b"hash": client.hgetall, b"stream": client.xrange, b"set": client.smembers}
            value = client.zrange(key, 0, -1, withscores=True) if kind == b"zset" else ask[kind](key)
            found[key.decode()] = flat(value)
    return found


def opened(blob: bytes) -> list[bytes]:
    """With what is packed in it."""
    found = [blob]
    for text in re.findall(rb"[0-9A-Za-z!#$%&()*+\-;<=>?@^_`{|}~]{12,}", blob):
        try:
            found.append(zlib.decompress(base64.b85decode(text)))
        except (ValueError, zlib.error):
            continue
    return found


def spelled(unit: int) -> list[bytes]:
    """As numbers are written here: all 64 bits of it or 63."""
    found = []
    for number in {unit, unit & (1 << 63) - 1}:
        found += [b"%016x" % number, b"%d" % number, number.to_bytes(8, "big"), number.to_bytes(8, "little")]
    return found


def units_in(blobs: dict[str, list[bytes]], units: list[int]) -> dict[str, int]:
    """Where -> how many of these units are found there."""
    found = {}
    for name, parts in blobs.items():
        count = sum(any(text in part for text in spelled(unit) for part in parts) for unit in units)
        if count:
            found[name] = count
    return found


def asked(tree: Tree, model: str, body: bytes, users: list[str] = USERS) -> list[str]:
    """Each user asks once; the ids of the answers, where they have one."""
    caller = Caller(tree.port, model)
    answers = [caller.ask(body, f"x-user-id: {user}\r\n") for user in users]
    caller.close()
    assert {answer.status for answer in answers} == {200}
    return [answer.headers.get("x-prediction-id", "") for answer in answers]


def test_no_hash_that_the_salt_gives_away_is_written_or_given_to_anybody(place: Any) -> None:
    tree, written = place
    apply(tree, EXPERIMENT)
    apply(tree, ROLLOUT)
    until(tree, "lookup", "BAKING")
    ids = asked(tree, "affine", tensor([1.0, 3.0], "FP32", shape=[1, 2]))
    asked(tree, "lookup", tensor([1]))
    asked(tree, "lookup", tensor([6]), USERS[:4])  # the canary fails on it: noted, and too few to end the rollout
    body = [{"prediction_id": one, "reward": {"paid": 1.0}, "label": "NO"} for one in ids]
    status, text = tree.call("POST", "/v1/feedback", body)
    assert status == 200, text

    secrets = PolicyCache(tree.data_dir).read()
    salted = {model: [placer("sha1-60", model)(user.encode())[1] for user in USERS] for model in ("affine", "lookup")}
    wanted = {model: list(map(keyed(secrets.unit_key, model), units)) for model, units in salted.items()}
    kept: dict[str, list[bytes]] = {}

    def all_kept() -> bool:
        nonlocal kept
        kept = {name: opened(blob) for name, blob in written().items()}
        experiment = [count for count in units_in(kept, wanted["affine"]).values() if count == len(USERS)]
        # The document and the stream of the experiment, and the log; a rollout keeps a sample.
        return len(experiment) >= 3 and len(units_in(kept, wanted["lookup"])) >= 3

    tree.until("everything written", all_kept)
    for model, units in salted.items():
        assert units_in(kept, units) == {}, model
    keys = {key.id: key.secret for key in secrets.signing}
    assert [read(one, keys).unit for one in ids] == wanted["affine"]
    shown = json.loads(cli(tree, "shadow", "samples", "affine", "--json").stdout)["samples"]
    assert shown
    assert {one["unit"] for one in shown} <= set(map(unit_text, wanted["affine"]))
    assert not any(user.encode() in part for user in USERS for parts in kept.values() for part in parts)
