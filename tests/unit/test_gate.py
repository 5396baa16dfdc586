"""From a header to an actor, what of it is remembered, and which endpoint asks for which scope."""

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.routing import Route

from gateway.errors import HttpError
from gateway.http.access import DATA, OPEN, admin_needs, data_needs, require
from gateway.http.admin import build_admin
from gateway.http.app import build_app
from gateway.http.gate import KNOWN_MAX, MODELS_MAX, Gate
from gateway.http.origin import Names
from gateway.keys import LOCAL, SCOPES, Actor, KeyFacts, digest_of, new_key

TEXT = new_key(lambda size: bytes(range(size)))
VALUE = b"Bearer " + TEXT.encode()
NOW_S = 1_800_000_000.0


class Clock:
    now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def facts(text: str = TEXT, *, name: str = "app", expires_s: int | None = None, **more: Any) -> KeyFacts:
    given = {"scopes": ("infer",), "models": (), "labels": ()} | more
    return KeyFacts(name, digest_of(text.encode()), expires_s=expires_s, **given)


def gate(*keys: KeyFacts, clock: Clock | None = None) -> Gate:
    made = Gate(wall_s=clock or Clock())
    made.apply(keys or (facts(),))
    return made


def refused(made: Gate, *values: bytes) -> str:
    with pytest.raises(HttpError) as error:
        made.authenticate(values)
    assert (error.value.status, error.value.code) == (401, "unauthorized")
    assert error.value.headers == ((b"www-authenticate", b"Bearer"),)
    return error.value.message


# ---- who ----


def test_the_bearer_becomes_an_actor() -> None:
    made = gate(facts(scopes=("view", "audit"), labels=("release",), models=("a*",)))
    actor = made.authenticate([VALUE]).actor
    assert actor == Actor("app", frozenset({"view", "audit"}), frozenset({"release"}), ("a*",))


def test_the_scheme_has_no_case_but_the_key_has() -> None:
    made = gate()
    for scheme in (b"bearer ", b"BEARER ", b"BeArEr "):
        assert made.authenticate([scheme + TEXT.encode()]).actor.name == "app"


KEY_BYTES = TEXT.encode()
WRONG = [
    b"", b"Bearer", b"Bearer ", b"Bearer  ", b"Basic " + KEY_BYTES, KEY_BYTES, b"Bearer\t" + KEY_BYTES,
    b"Bearer  " + KEY_BYTES, b" Bearer " + KEY_BYTES, VALUE + b" ", VALUE + b"\n", VALUE + b"\r\n", VALUE + b"=",
    VALUE[:-1], VALUE + b"A", b"Bearer " + KEY_BYTES.upper(), b"Bearer " + KEY_BYTES.lower(),
    b"Bearer " + KEY_BYTES.swapcase(), b"Bearer tg-" + KEY_BYTES[3:], VALUE[:-1] + b"\xff", "Bearer tg_ключ".encode(),
    b"Bearer " + b"\xc3\xa9" * 23, b"Bearer " + b"x" * 1_000_000, b"Bearer " + new_key(bytes).encode(),
    VALUE + b"," + VALUE,
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_what_lets_nobody_in(value: bytes) -> None:
    made = gate()
    message = refused(made, value)
    assert TEXT not in message
    assert made.known == {}, "only what was right is remembered"


def test_none_or_two_let_nobody_in() -> None:
    made = gate()
    assert "a key is needed" in refused(made)
    assert "one authorization header" in refused(made, VALUE, VALUE)


def test_revoked_unknown_and_expired_are_not_told_apart() -> None:
    clock = Clock()
    made = gate(facts(expires_s=int(NOW_S) + 1), clock=clock)
    made.authenticate([VALUE])
    clock.now_s += 1
    expired = refused(made, VALUE)
    made.apply(())
    assert refused(made, VALUE) == expired == refused(made, b"Bearer " + new_key(bytes).encode())


# ---- what the fast lane sees ----


def test_the_fast_lane_passes_what_was_found_good_for_this_model_and_nothing_else() -> None:
    made = gate(facts(models=("a*",)))
    assert not made.passes(VALUE, "a1"), "never asked"
    made.authenticate([VALUE])
    assert not made.passes(VALUE, "a1"), "known, but not for inference with a1"
    made.authenticate([VALUE]).remember("a1")
    assert made.passes(VALUE, "a1")
    assert not made.passes(VALUE, "a2")
    assert not made.passes(VALUE[:-1] + b"x", "a1")
    assert not made.passes(b"", "a1")


def test_a_change_of_keys_forgets_and_no_change_does_not() -> None:
    other = facts(new_key(bytes), name="other")
    made = gate(facts(), other)
    made.authenticate([VALUE]).remember("m")
    made.apply((facts(), other))
    assert made.passes(VALUE, "m")
    made.apply((other,))
    assert not made.passes(VALUE, "m")
    refused(made, VALUE)


def test_the_tick_ends_what_has_expired() -> None:
    clock = Clock()
    made = gate(facts(expires_s=int(NOW_S) + 10), facts(new_key(bytes), name="other"), clock=clock)
    made.authenticate([VALUE]).remember("m")
    made.tick(NOW_S + 9.9)
    assert made.passes(VALUE, "m")
    clock.now_s = NOW_S + 10
    made.tick(clock.now_s)
    assert not made.passes(VALUE, "m")
    refused(made, VALUE)
    assert made.authenticate([b"Bearer " + new_key(bytes).encode()]).actor.name == "other"


def test_an_expired_key_is_refused_before_the_tick_and_not_remembered() -> None:
    clock = Clock()
    made = gate(facts(expires_s=int(NOW_S) + 10), clock=clock)
    clock.now_s = NOW_S + 10
    refused(made, VALUE)
    assert made.known == {}


def test_what_is_remembered_is_bounded() -> None:
    texts = [new_key(lambda size, i=i: i.to_bytes(size, "big")) for i in range(KNOWN_MAX + 10)]
    made = gate(*[facts(text, name=f"k{i}") for i, text in enumerate(texts)])
    for text in texts:
        made.authenticate([b"Bearer " + text.encode()])
        assert len(made.known) <= KNOWN_MAX
    grant = made.authenticate([b"Bearer " + texts[0].encode()])
    for i in range(MODELS_MAX + 10):
        grant.remember(f"m{i}")
        assert len(grant.models) <= MODELS_MAX
    grant.remember("x" * 257)
    assert "x" * 257 not in grant.models


# ---- what for ----

_ANYTHING: Any = SimpleNamespace(dataplane=None, gate=None, policies=None, rollouts=None)


def admin_routes() -> list[Route]:
    return build_admin(_ANYTHING, _ANYTHING, _ANYTHING, {}, 1, gate=None, names=_ANYTHING).routes  # type: ignore[return-value]


def data_routes() -> list[Route]:
    return build_app(_ANYTHING, _ANYTHING, _ANYTHING).routes  # type: ignore[return-value]


def test_every_route_of_the_data_port_is_open_or_names_its_scopes() -> None:
    paths = {route.path for route in data_routes()}
    assert paths - OPEN <= set(DATA)
    assert {route.path for route in data_routes()} >= OPEN


def test_an_endpoint_that_nobody_thought_of_needs_scope_admin() -> None:
    assert data_needs("/v3/new", "GET").scopes == {"admin"}
    assert admin_needs("/admin/v1/new/{name}", "GET").scopes == {"admin"}
    assert admin_needs("/admin/v1/new/{name}", "GET").model is False


def test_no_admin_endpoint_but_health_and_metrics_is_for_those_who_infer_or_scrape() -> None:
    for route in admin_routes():
        for method in route.methods or ():
            needs = admin_needs(route.path, method)
            assert "infer" not in needs.scopes
            assert ("metrics" in needs.scopes) == (route.path == "/metrics")


@pytest.mark.parametrize(
    ("path", "method", "scope"),
    [
        ("/admin/v1/models", "GET", "view"),
        ("/admin/v1/models/{name}/load", "POST", "admin"),
        ("/admin/v1/models/{name}/aliases/{alias}", "PUT", "admin"),
        ("/admin/v1/policies/{name}", "GET", "view"),
        ("/admin/v1/policies/{name}", "PUT", "route"),
        ("/admin/v1/rollouts/{name}/abort", "POST", "route"),
        ("/admin/v1/audit", "GET", "audit"),
        ("/admin/v1/keys", "GET", "admin"),
        ("/admin/v1/keys/{name}", "DELETE", "admin"),
        ("/admin/v1/modelsandmore", "GET", "admin"),
        ("/metrics", "GET", "metrics"),
    ],
)
def test_scopes_of_the_admin_port(path: str, method: str, scope: str) -> None:
    assert admin_needs(path, method).scopes == {scope}


@pytest.mark.parametrize("scope", SCOPES)
def test_no_scope_implies_another(scope: str) -> None:
    needs = [data_needs(path, "POST") for path in DATA if not DATA[path].scopes >= set(SCOPES)]
    needs += [admin_needs(route.path, method) for route in admin_routes() for method in route.methods or ()]
    for one in needs:
        if scope in one.scopes:
            require(Actor("a", frozenset({scope})), one, "m")
        else:
            with pytest.raises(HttpError, match="lacks scope") as error:
                require(Actor("a", frozenset({scope})), one, "m")
            assert error.value.status == 403


def test_a_key_of_some_models_is_for_nothing_that_concerns_all() -> None:
    actor = Actor("a", frozenset(SCOPES), models=("a*",))
    for path, method in (("/admin/v1/keys", "POST"), ("/admin/v1/keys/{name}", "DELETE"), ("/metrics", "GET")):
        with pytest.raises(HttpError, match="limited to some models"):
            require(actor, admin_needs(path, method), "a1")
    require(actor, admin_needs("/admin/v1/models", "GET"), "")
    require(actor, data_needs("/v2/models/{name}/infer", "POST"), "a1")
    with pytest.raises(HttpError, match="not for model 'b'"):
        require(actor, data_needs("/v2/models/{name}/infer", "POST"), "b")
    with pytest.raises(HttpError, match="limited to some models"):
        require(actor, data_needs("/v2/models/stats", "GET"), "")


def test_where_nobody_is_asked_everybody_may_everything() -> None:
    for route in admin_routes():
        require(LOCAL, admin_needs(route.path, "POST"), "m")


# ---- for whom a browser speaks ----


def judged(names: Names, host: str | None = "localhost", **headers: str) -> int:
    sent = [(b"host", host.encode("latin-1"))] if host is not None else []
    try:
        names.check([*sent, *((name.encode(), value.encode("latin-1")) for name, value in headers.items())])
    except HttpError as error:
        return error.status
    return 200


OURS = Names("127.0.0.1", ("ops.example",))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8081", "localhost.", "127.0.0.1", "127.8.9.1:1", "[::1]:8081", "Ops.Example:443"]
)
def test_hosts_of_this_port(host: str) -> None:
    assert judged(OURS, host) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.1.2.3", "[2001:db8::1]",
     "0x7f.1", "x.localhost"],
)  # fmt: skip
def test_hosts_of_others(host: str) -> None:
    assert judged(OURS, host) == 403


@pytest.mark.parametrize(
    "host", [None, "", "a/b:@", "a b", "a@b", "localhost:x", "localhost:123456", "[::1", "a,b", "hé"]
)
def test_hosts_that_are_none(host: str | None) -> None:
    assert judged(OURS, host) == 400


def test_an_address_will_do_where_others_reach_the_port() -> None:
    wide = Names("0.0.0.0")
    assert [judged(wide, host) for host in ("10.1.2.3:8081", "[2001:db8::1]", "localhost", "evil.example")] == [
        200, 200, 200, 403,
    ]  # fmt: skip
    assert judged(Names("gate.internal"), "gate.internal:8081") == 200


@pytest.mark.parametrize("header", ["origin", "referer"])
def test_pages_of_others(header: str) -> None:
    assert judged(OURS, "localhost:8081", **{header: "http://localhost:8081/x"}) == 200
    assert judged(OURS, "ops.example", **{header: "https://ops.example"}) == 200
    others = ["null", "", "http://evil.example", "http://localhost:9999", "http://localhost", "http://localhost:8081@evil.example",
              "http://[", "localhost:8081", "http://localhost:8081.evil.example"]  # fmt: skip
    assert [judged(OURS, "localhost:8081", **{header: other}) for other in others] == [403] * len(others)
