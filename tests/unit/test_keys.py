"""Keys as values, and their file: what is kept, what is refused, and that two who change it lose nothing."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keyfile import KeyFile, KeysUnusable
from gateway.keys import (
    KEY,
    KEYS_MAX,
    SCOPES,
    Actor,
    Key,
    UnknownKey,
    Wish,
    created,
    digest_of,
    expiry,
    facts_of,
    new_key,
    revoked,
    shown,
    state_of,
)
from runtimes.errors import Conflict, InvalidInput

NOW_S = 1_800_000_000.0
APP = Wish("app", ("infer",))


def key(name: str = "app", **more: object) -> Key:
    return Key(name, digest_of(name.encode()).hex(), ("infer",), (), (), 1, **more)  # type: ignore[arg-type]


# ---- values ----


@given(st.binary(min_size=32, max_size=32))
def test_a_key_has_its_form_whatever_the_random_bytes(data: bytes) -> None:
    assert KEY.fullmatch(new_key(lambda size: data[:size]))


def test_keys_differ_by_all_of_their_random_bytes() -> None:
    zeros = bytearray(32)
    found = {new_key(lambda size: bytes(zeros))}
    for i in range(32):
        zeros[i] = 1
        found.add(new_key(lambda size: bytes(zeros)))
        zeros[i] = 0
    assert len(found) == 33


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        (
            Wish("app", ("root",)),
            "'root' is no scope; known scopes: infer, feedback, metrics, view, route, admin, audit",
        ),
        (Wish("app", ("Infer",)), "'Infer' is no scope"),
        (Wish("app", ()), "at least one of infer"),
        (Wish("", ("infer",)), "no name"),
        (Wish("a b", ("infer",)), "no name"),
        (Wish("a\n", ("infer",)), "no name"),
        (Wish("x" * 65, ("infer",)), "no name"),
        (Wish("local", ("infer",)), "may be called 'local'"),
        (Wish("app", ("infer",), ("a/b",)), "no pattern"),
        (Wish("app", ("infer",), ("",)), "no pattern"),
        (Wish("app", ("infer",), ("[a-z]",)), "no pattern"),
        (Wish("app", ("infer",), ("a",) * 33), "at most 32"),
        (Wish("app", ("infer",), (), ("a b",)), "no label"),
        (Wish("app", ("infer",), expires_s=int(NOW_S)), "is in the past"),
        (Wish("app", ("infer",), expires_s=0), "expires: 1970-01-01T00:00:00Z is in the past"),
    ],
)
def test_a_wish_that_is_refused(wish: Wish, told: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(told)):
        created((), wish, bytes(32), NOW_S)


def test_a_name_is_given_once_even_when_it_was_revoked() -> None:
    one = created((), APP, bytes(32), NOW_S)
    for keys in (one, revoked(one, "app", NOW_S)):
        with pytest.raises(Conflict, match="there is a key 'app' already"):
            created(keys, APP, bytes(32), NOW_S)


def test_there_is_a_bound_on_keys() -> None:
    many = tuple(key(f"k{i}") for i in range(KEYS_MAX))
    with pytest.raises(InvalidInput, match=str(KEYS_MAX)):
        created(many, APP, bytes(32), NOW_S)


def test_revoking_says_when_keeps_the_rest_and_is_final() -> None:
    keys = (key("a", expires_s=5), key("b"))
    after = revoked(keys, "b", NOW_S)
    assert after[0] == keys[0]
    assert after[1].revoked_s == int(NOW_S)
    assert revoked(after, "b", NOW_S + 100) == after
    with pytest.raises(UnknownKey, match="no key 'bb'; did you mean 'b'"):
        revoked(keys, "bb", NOW_S)


def test_only_keys_in_force_are_told_to_those_who_check() -> None:
    expired, gone, later = key("a", expires_s=int(NOW_S)), key("b", revoked_s=1), key("c", expires_s=int(NOW_S) + 1)
    assert [state_of(k, NOW_S) for k in (expired, gone, later)] == ["expired", "revoked", "in force"]
    (fact,) = facts_of((expired, gone, later), NOW_S)
    assert (fact.name, fact.digest) == ("c", digest_of(b"c"))


def test_what_is_shown_lets_nobody_in() -> None:
    assert "sha256" not in shown(key(), NOW_S)
    assert key().sha256 not in json.dumps(shown(key(), NOW_S))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90d", NOW_S + 90 * 86400),
        ("12h", NOW_S + 12 * 3600),
        ("30m", NOW_S + 1800),
        ("45s", NOW_S + 45),
        ("2030-01-31", 1896048000),
        ("2030-01-31T12:00:00Z", 1896048000 + 43200),
        ("2030-01-31t12:00:00z", 1896048000 + 43200),
        ("2030-01-31T12:00:00+02:00", 1896048000 + 36000),
    ],
)
def test_an_expiry(text: str, seconds: float) -> None:
    assert expiry(text, NOW_S) == int(seconds)


@pytest.mark.parametrize("text", ["", "soon", "90", "-1d", "1.5d", "90 d", "2030-13-01", "9999999d"])
def test_an_expiry_that_is_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="expires: expected a span"):
        expiry(text, NOW_S)


def test_patterns_of_models() -> None:
    actor = Actor("a", frozenset(), models=("fraud-*", "v?"))
    assert [actor.covers(name) for name in ("fraud-1", "fraud-", "fraud", "v1", "v12", "V1")] == [
        True, True, False, True, False, False,
    ]  # fmt: skip
    assert Actor("a", frozenset()).covers("anything")


# ---- the file ----


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path, wall_s=lambda: NOW_S)


def test_no_file_is_no_keys(file: KeyFile, tmp_path: Path) -> None:
    assert file.read() == ()
    assert file.stamp() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_kept_as_its_digest_alone(file: KeyFile, tmp_path: Path) -> None:
    text, kept = file.create(Wish("app", SCOPES, ("a*",), ("release",), int(NOW_S) + 5))
    assert file.read() == (kept,)
    assert kept.sha256 == digest_of(text.encode()).hex()
    content = (tmp_path / "keys.json").read_text()
    assert text.removeprefix("tg_") not in content
    assert json.loads(content)["version"] == 1
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_the_mode_does_not_depend_on_the_umask(file: KeyFile, tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        file.create(APP)
    finally:
        os.umask(before)
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_a_change_replaces_the_file(file: KeyFile, tmp_path: Path) -> None:
    file.create(APP)
    before, stamp = (tmp_path / "keys.json").read_bytes(), file.stamp()
    with (tmp_path / "keys.json").open("rb") as open_before:
        file.revoke("app")
        assert open_before.read() == before, "who reads meanwhile reads the old file, whole"
    assert file.stamp() != stamp
    assert file.read()[0].revoked_s == int(NOW_S)
    stamp = file.stamp()
    file.revoke("app")
    assert file.stamp() == stamp, "nothing has changed"


def test_a_refused_change_leaves_the_file_as_it_was(file: KeyFile, tmp_path: Path) -> None:
    file.create(APP)
    before = file.stamp()
    with pytest.raises(Conflict):
        file.create(APP)
    with pytest.raises(UnknownKey):
        file.revoke("nobody")
    assert file.stamp() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.lock"]


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    def make(i: int) -> None:
        KeyFile(tmp_path).create(Wish(f"k{i}", ("infer",)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(40)))
    assert {k.name for k in KeyFile(tmp_path).read()} == {f"k{i}" for i in range(40)}


def test_a_rest_of_a_change_that_was_killed_is_no_hindrance(file: KeyFile, tmp_path: Path) -> None:
    (tmp_path / "keys.new").write_text("half a fi")
    file.create(APP)
    assert len(file.read()) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777])
def test_a_file_that_others_may_use_is_refused(file: KeyFile, tmp_path: Path, mode: int) -> None:
    file.create(APP)
    before = file.stamp()
    (tmp_path / "keys.json").chmod(mode)
    assert file.stamp() != before, "a running server has to notice"
    for use in (file.read, lambda: file.create(Wish("b", ("infer",))), lambda: file.revoke("app")):
        with pytest.raises(KeysUnusable, match="chmod 600"):
            use()


def test_a_link_or_a_folder_in_its_place_is_refused(file: KeyFile, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"version": 1, "keys": []}')
    other.chmod(0o600)
    (tmp_path / "keys.json").symlink_to(other)
    with pytest.raises(KeysUnusable):
        file.read()
    (tmp_path / "keys.json").unlink()
    (tmp_path / "keys.json").mkdir(0o700)
    with pytest.raises(KeysUnusable):
        file.read()


GOOD = {"name": "a", "sha256": "0" * 64, "scopes": ["infer"], "models": [], "labels": [], "created_s": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "version"),
        ('{"version": 2, "keys": [], "new": 1}', "of version 2; version 1 is understood"),
        ('{"version": "1", "keys": []}', "damaged"),
        ('{"version": 1, "keys": [], "more": 1}', "more"),
        (json.dumps({"version": 1, "keys": [GOOD | {"sha256": ""}]}), "64 hexadecimal"),
        (json.dumps({"version": 1, "keys": [GOOD | {"sha256": "zz" * 32}]}), "damaged"),
        (json.dumps({"version": 1, "keys": [GOOD | {"name": ""}]}), "no name"),
        (json.dumps({"version": 1, "keys": [GOOD | {"scopes": ["root"]}]}), "no scope"),
        (json.dumps({"version": 1, "keys": [GOOD, GOOD]}), "twice"),
        (json.dumps({"version": 1, "keys": [GOOD, GOOD | {"name": "b"}]}), "twice"),
        (" " * (9 * 1024 * 1024), "longer"),
    ],
)
def test_a_damaged_file_is_refused_with_a_reason_and_no_path(
    file: KeyFile, tmp_path: Path, content: str, told: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeysUnusable, match=told) as refused:
        file.read()
    assert str(tmp_path) not in refused.value.message
