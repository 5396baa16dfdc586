"""Redis full, foreign, guarded; with a Sentinel."""

import signal
import subprocess
from pathlib import Path

import pytest

from gateway.store import export, rediscopy
from gateway.store.base import Limits, Store, StoreAway, StoreUnusable
from gateway.store.redisstore import VERSION, RedisStore
from tests.store.places import RedisServer
from tests.store.redisworld import WHO, again, opened, run, running

# ---- full, foreign, guarded ----


def test_full_it_is_away_and_says_so(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        names: list[str] = []
        with pytest.raises(StoreAway, match="Redis cannot do it now"):
            await fill(store, names)
        assert names
        assert len(await store.list("policy")) == len(names)

    async def fill(store: Store, names: list[str]) -> None:
        for number in range(100):
            await store.put("policy", f"n{number}", bytes(100_000), expected=0, audit=WHO)
            names.append(f"n{number}")

    async def go(url: str) -> None:
        async with opened(url, timeout_s=10) as store:
            await work(store)

    with running(tmp_path, "--maxmemory", "4mb") as server:
        run(go(server.url))


def test_notes_say_what_an_operator_should_know(tmp_path: Path) -> None:
    async def go(url: str) -> None:
        async with opened(url, timeout_s=10) as store:
            check = await store.check()
            assert check.problems == ()
            assert len(check.notes) == 2
            assert "append-only" in check.notes[0]
            assert "allkeys-lru" in check.notes[1]

    with running(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        run(go(server.url))


def test_a_chain_without_its_name_and_a_cut_one_are_found(own_redis: RedisServer) -> None:
    async def go() -> None:
        async with opened(own_redis.url, timeout_s=10) as store:
            for name in ("a", "b"):
                for _ in range(3):
                    await store.audit_append(name, WHO)
            with own_redis.client() as client:
                last = client.xrevrange("tidegate:{b}:audit", count=1)[0][0]
                client.xdel("tidegate:{b}:audit", last)
                assert "b/3: the chain should end at 3, it ends at 2" in (await store.audit_verify()).broken
                client.delete("tidegate:{b}:audit", "tidegate:{b}:head")
                client.srem("tidegate:names", "a")
            assert "a/1: the name of its chain is not in the index" in (await store.audit_verify()).broken

    run(go())


def test_a_newer_schema_is_refused_by_name(own_redis: RedisServer) -> None:
    async def go() -> None:
        with own_redis.client() as client:
            client.set("tidegate:schema", VERSION + 1)
        async with opened(own_redis.url, timeout_s=10) as store:
            with pytest.raises(StoreUnusable, match=f"schema version {VERSION + 1}, this program knows {VERSION}"):
                await store.put("policy", "a", b"", expected=0)
            assert "schema version" in str(store.status().away)
            with own_redis.client() as client:
                client.set("tidegate:schema", VERSION)
            await store.put("policy", "a", b"", expected=0)

    run(go())


def test_a_restore_that_broke_off_is_not_taken_for_a_store(own_redis: RedisServer, tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(own_redis.url, timeout_s=10) as store:
            before = await store.put("policy", "a", b"1", expected=0)
            await store.backup(tmp_path / "backup")
            with own_redis.client() as client:
                client.hset("tidegate:restoring", mapping={"": 0, "a": 1_000})
                client.delete("tidegate:{a}:head", "tidegate:{a}:docs")
            # Who has met it before is kept from writing, too.
            with pytest.raises(StoreAway, match="being restored"):
                await store.put("policy", "a", b"2", expected=0)
            with pytest.raises(StoreAway, match="being restored"):
                await store.stream_append("s", "r", 1, 1, b"")
        async with opened(own_redis.url, timeout_s=10) as store:
            with pytest.raises(StoreAway, match="broken off"):
                await store.list("policy")
            assert "broken off" in str(store.status().away)
            await store.restore(tmp_path / "backup", aside=tmp_path / "aside")
            assert await store.list("policy") == (before,)
            # The number that was given before it broke off stands beside the mark.
            assert (await store.put("policy", "a", b"2", expected=before.revision)).revision == 1_002

    run(go())


def test_a_backup_of_a_newer_redis_is_refused_before_anything_has_gone(own_redis: RedisServer, tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(own_redis.url, timeout_s=10) as store:
            kept = await store.put("policy", "a", b"1", expected=0)
            await store.backup(tmp_path / "backup")
            head, *frames = export.read(tmp_path / "backup")
            writer = export.Writer(tmp_path / "newer")
            writer.frame(head)
            for name, dumps in frames:
                # The last ten bytes are the version of the format, and a checksum.
                writer.frame([name, [(part, dump[:-10] + b"\xff\xff" + dump[-8:]) for part, dump in dumps]])
            writer.finish()
            writer.discard()
            with pytest.raises(StoreUnusable, match="payload version"):
                await store.restore(tmp_path / "newer", aside=tmp_path / "aside")
            assert (await store.list("policy"), await store.life()) == ((kept,), 0)
            await store.put("policy", "a", b"2", expected=kept.revision)

    run(go())


def test_one_restore_goes_on_at_a_time(own_redis: RedisServer, tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(own_redis.url, timeout_s=10) as store:
            await store.put("policy", "a", b"1", expected=0)
            await store.backup(tmp_path / "backup")
            with own_redis.client() as client:
                client.set("tidegate:restorer", "another", px=60_000)
                with pytest.raises(StoreAway, match="another restore goes on"):
                    await store.restore(tmp_path / "backup", aside=tmp_path / "aside")
                client.delete("tidegate:restorer")
            assert not (tmp_path / "aside").exists()
            await store.restore(tmp_path / "backup", aside=tmp_path / "aside")
            async with rediscopy.patient(store._link) as link:
                late = rediscopy.Alone(link)
                await late.begin()
                with own_redis.client() as client:
                    client.set("tidegate:restorer", "another")
                with pytest.raises(StoreAway, match="took too long"):
                    await late.hold()

    run(go())


def test_passwords_are_used_and_not_shown(tmp_path: Path) -> None:
    async def go(server: RedisServer) -> None:
        url = f"redis://:secret@127.0.0.1:{server.port}/0"
        async with opened(url, timeout_s=10) as store:
            await store.put("policy", "a", b"", expected=0)
            assert store.status().address == f"redis://127.0.0.1:{server.port}/0"
        for wrong in (url.replace("secret", "wrong"), server.url):
            async with opened(wrong, timeout_s=10) as store:
                with pytest.raises(StoreUnusable, match="user or the password"):
                    await store.get("policy", "a")

    with running(tmp_path, "--requirepass", "secret") as server:
        run(go(server))


def test_unix_sockets_and_tls(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
        subprocess.run([*make, *names, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")

    async def go(server: RedisServer) -> None:
        async with opened(f"unix://{folder}/socket?db=1", timeout_s=10) as store:
            await store.put("policy", "a", b"1", expected=0)
        url = f"rediss://localhost:{server.port}/1?ssl_ca_certs={folder}/cert"
        async with opened(url, timeout_s=10) as store:
            assert (await store.get("policy", "a")).body == b"1"
            assert str(folder) not in store.status().address
        async with opened(f"rediss://localhost:{server.port}/1", timeout_s=10) as store:
            with pytest.raises(StoreAway):
                await store.get("policy", "a")

    tls = ["--tls-cert-file", f"{folder}/cert", "--tls-key-file", f"{folder}/key", "--tls-auth-clients", "no"]
    server = RedisServer(folder, "--save", "", "--port", "0", "--unixsocket", f"{folder}/socket", *tls)
    server.arguments += ("--tls-port", str(server.port))
    try:
        server.start()
        run(go(server))
    finally:
        server.stop()


def test_sentinel_names_the_one_that_writes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("main", "copy", "sentinel")]
    for folder in folders:
        folder.mkdir()

    async def go(sentinel: RedisServer, first: RedisServer) -> None:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/tide/0"
        async with opened(url) as store:
            kept = await again(lambda: store.put("policy", "a", b"1", expected=0))
            changes = store.watch()
            assert (await anext(changes)).revision == kept.revision
            # Acknowledged by the copy as well before its leader dies.
            with first.client() as client:
                assert client.execute_command("WAIT", 1, 10_000) == 1
            first.stop(signal.SIGKILL)
            second = await again(lambda: store.put("policy", "a", b"2", expected=kept.revision), 50)
            while (await anext(changes)).revision != second.revision:
                pass

    with running(folders[0]) as first, running(folders[1], "--replicaof", "127.0.0.1", str(first.port)):
        config = folders[2] / "sentinel.conf"
        config.write_text(
            f"sentinel monitor tide 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds tide 500\n"
            "sentinel failover-timeout tide 2000\n"
        )
        sentinel = RedisServer(folders[2])
        config.write_text(f"port {sentinel.port}\nbind 127.0.0.1\n{config.read_text()}")
        try:
            sentinel.start_sentinel(config)
            with first.client() as client:
                assert client.execute_command("WAIT", 0, 0) >= 0
            run(go(sentinel, first))
        finally:
            sentinel.stop()


def test_two_prefixes_do_not_see_each_other(shared_redis: RedisServer) -> None:
    async def go() -> None:
        url = shared_redis.url
        async with opened(url, prefix="one*", timeout_s=10) as one, opened(url, prefix="one", timeout_s=10) as two:
            await one.put("policy", "a", b"1", expected=0, audit=WHO)
            assert await two.list("policy") == ()
            assert (await two.audit_verify()).records == 0
            await two.put("policy", "a", b"2", expected=0)
            assert (await one.get("policy", "a")).body == b"1"

    run(go())


def test_a_limit_of_ours_is_the_limit_there(shared_redis: RedisServer) -> None:
    async def go() -> None:
        async with opened(shared_redis.url, prefix="bound", limits=Limits(stream_rows=2), timeout_s=10) as store:
            assert isinstance(store, RedisStore)
            for number in range(5):
                await store.stream_append("s", "r", 1, number, b"")
            with shared_redis.client() as client:
                assert client.xlen("bound:{s}:stream") == 2

    run(go())
