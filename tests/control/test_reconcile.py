"""Swaps as pure decisions: new beside old, routes move when the new one is READY, failures take nothing away."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control.messages import ModelState, PolicyState, Snapshot, Status, VariantPin, WantedModel
from gateway.control.reconcile import Desired, Traffic, decide, is_ready, view_of, waits_for
from runtimes.registry.modelconfig import ModelConfig

CONFIG = ModelConfig()
EMPTY = Snapshot(0, (), {}, False)


def wanted(version: int, digest: str = "d", generation: int = 0) -> WantedModel:
    return WantedModel("m", version, f"{digest}{version}", "/cache", "model.onnx", CONFIG, generation)


def desired(*versions: int, offered: tuple[int, ...] | None = None, **more: object) -> dict[str, Desired]:
    targets = tuple(wanted(version) for version in versions)
    return {"m": Desired(CONFIG, targets, offered=frozenset(offered or versions), **more)}  # type: ignore[arg-type]


def status(*ready: int, failed: tuple[int, ...] = (), loading: tuple[int, ...] = (), listening: bool = True) -> Status:
    states = [ModelState("m", v, f"d{v}", 0, "READY", "", 5) for v in ready]
    states += [ModelState("m", v, f"d{v}", 0, "UNAVAILABLE", "session: no") for v in failed]
    states += [ModelState("m", v, f"d{v}", 0, "LOADING") for v in loading]
    return Status(1, True, tuple(states), listening)


def step(before: Snapshot, want: dict[str, Desired], *statuses: Status) -> Snapshot:
    return decide(want, before, view_of(statuses), ready=True)


def served(snapshot: Snapshot) -> tuple[int | None, tuple[int, ...], list[int]]:
    route = snapshot.routes["m"]
    return route.default, route.versions, sorted(model.version for model in snapshot.models)


def test_a_first_version() -> None:
    loading = step(EMPTY, desired(1), status(loading=(1,)))
    assert served(loading) == (None, (), [1])
    assert loading.routes["m"].reason == "it is loading"
    assert served(step(loading, desired(1), status(1))) == (1, (1,), [1])


def test_a_swap_loads_beside_and_then_lets_go() -> None:
    first = step(EMPTY, desired(1), status(1), status(1))
    fetching = step(first, desired(offered=(1, 2), pending=frozenset({2})), status(1), status(1))
    assert served(fetching) == (1, (1,), [1])
    beside = step(fetching, desired(2, offered=(1, 2)), status(1, loading=(2,)), status(1))
    assert served(beside) == (1, (1,), [1, 2])
    half = step(beside, desired(2, offered=(1, 2)), status(1, 2), status(1, loading=(2,)))
    assert served(half) == (1, (1,), [1, 2])
    assert served(step(half, desired(2, offered=(1, 2)), status(1, 2), status(1, 2))) == (2, (2,), [2])


def test_a_failed_load_never_removes_what_serves() -> None:
    first = step(EMPTY, desired(1), status(1))
    failed_here = step(first, desired(2, offered=(1, 2)), status(1, failed=(2,)))
    assert served(failed_here) == (1, (1,), [1, 2])
    probed = step(first, desired(offered=(1, 2), failed={2: "probe: it crashed"}), status(1))
    assert served(probed) == (1, (1,), [1])
    assert [(s.version, s.state, s.reason) for s in probed.states] == [
        (1, "READY", ""),
        (2, "UNAVAILABLE", "probe: it crashed"),
    ]


def test_even_when_the_old_one_is_gone_from_the_repository() -> None:
    first = step(EMPTY, desired(1), status(1))
    assert served(step(first, desired(2, offered=(2,)), status(1, failed=(2,)))) == (1, (1,), [1, 2])
    assert served(step(first, desired(2, offered=(2,)), status(1, 2))) == (2, (2,), [2])


def test_one_of_several_targets_that_fails_keeps_the_old_ones() -> None:
    first = step(EMPTY, desired(1, 2), status(1, 2))
    after = step(first, desired(2, 3, offered=(1, 2, 3)), status(1, 2, failed=(3,)))
    assert served(after) == (2, (1, 2), [1, 2, 3])


def test_a_name_that_is_gone_has_no_route() -> None:
    first = step(EMPTY, desired(1), status(1))
    assert step(first, {}, status(1)).routes == {}


def test_a_respawn_that_cannot_load_takes_a_version_from_nobody() -> None:
    first = step(EMPTY, desired(1), status(1), status(1))
    assert served(step(first, desired(1), status(1), status(failed=(1,)))) == (1, (1,), [1])


def test_a_reload_keeps_the_route_while_the_new_load_runs() -> None:
    first = step(EMPTY, desired(1), status(1))
    again = {"m": Desired(CONFIG, (wanted(1, generation=1),), offered=frozenset({1}))}
    assert served(step(first, again, status(1))) == (1, (1,), [1])


def test_workers_that_do_not_listen_do_not_count_while_others_do() -> None:
    first = step(EMPTY, desired(1), status(1), status(loading=(1,), listening=False))
    assert served(first) == (1, (1,), [1])


def test_nothing_new_is_no_revision() -> None:
    first = step(EMPTY, desired(1), status(1))
    assert step(first, desired(1), status(1)) is first
    assert first.revision == 1


# ---- policies ----


def policy(one: int, other: int, revision: int = 1, **more: Any) -> PolicyState:
    """With versions `one` as "stable" and `other` as "canary"."""
    pins = (VariantPin("stable", "m", one, f"d{one}"), VariantPin("canary", "m", other, f"d{other}"))
    document = {"stable": one, "canary": other}
    return PolicyState("m", 1, revision, document, pins, bytes(10_000), **{"stable": 0, **more})


def with_policy(before: Snapshot, state: PolicyState, *statuses: Status) -> Snapshot:
    want = desired(*sorted({3, *(pin.version for pin in state.variants)}))
    return decide(want, before, view_of(statuses), ready=True, traffic=Traffic((state,)))


def test_a_policy_waits_for_its_stable_version_while_another_answers() -> None:
    before = step(EMPTY, desired(3), status(3))
    loading = with_policy(before, policy(1, 2), status(3, loading=(1, 2)), status(1, 3))
    assert loading.policies == ()
    assert served(loading) == (3, (3,), [1, 2, 3])
    # The canary may come later: its share goes to stable until then.
    assert with_policy(loading, policy(1, 2), status(1, 3, loading=(2,))).policies == (policy(1, 2),)


def test_a_new_document_waits_while_the_one_before_decides() -> None:
    before = with_policy(step(EMPTY, desired(3), status(3)), policy(3, 1), status(1, 3))
    loading = with_policy(before, policy(2, 1, 2), status(1, 3, loading=(2,)))
    assert loading.policies == (policy(3, 1),)
    assert with_policy(loading, policy(2, 1, 2), status(1, 2, 3)).policies == (policy(2, 1, 2),)


def test_other_bytes_under_the_same_document_wait_too() -> None:
    before = with_policy(step(EMPTY, desired(3), status(3)), policy(3, 1), status(1, 3))
    other = policy(3, 1, 2)
    other = msgspec.structs.replace(other, variants=(VariantPin("stable", "m", 3, "else"), other.variants[1]))
    assert with_policy(before, other, status(1, 3)).policies == (policy(3, 1),)


def test_while_a_document_waits_the_canary_of_the_one_before_has_nothing() -> None:
    """Its rollout was against another stable version, so it is over."""
    before = with_policy(step(EMPTY, desired(3), status(3)), policy(3, 1, canary=1), status(1, 3))
    for after in (policy(2, 1, 2), policy(2, 1, 2, canary=1, zeroed=True), policy(2, 1, 2, canary=-1)):
        before = with_policy(before, after, status(1, 3, loading=(2,)))
        assert before.policies == (policy(3, 1, canary=1, zeroed=True),)
    assert with_policy(before, policy(2, 1, 2), status(1, 2, 3)).policies == (policy(2, 1, 2),)


def test_while_a_document_waits_what_is_killed_in_it_has_nothing_in_the_one_before() -> None:
    before = with_policy(step(EMPTY, desired(3), status(3)), policy(3, 1), status(1, 3))
    for killed in ((), ("canary",), ("canary",)):
        before = with_policy(before, policy(2, 1, 2, killed=killed), status(1, 3, loading=(2,)))
        assert before.policies == (policy(3, 1, killed=killed),)


def test_nor_has_what_the_document_before_calls_otherwise() -> None:
    """It is killed by the name that it has in the document which waits."""
    before = with_policy(step(EMPTY, desired(3), status(3)), policy(3, 1), status(1, 3))
    after = policy(2, 1, 2, killed=("beta",))
    after = msgspec.structs.replace(after, variants=(after.variants[0], VariantPin("beta", "m", 1, "d1")))
    assert with_policy(before, after, status(1, 3, loading=(2,))).policies == (policy(3, 1, killed=("canary",)),)


def test_what_answers_for_all_is_not_taken_out_by_a_kill_in_the_next_document() -> None:
    before = with_policy(step(EMPTY, desired(3), status(3)), policy(3, 1), status(1, 3))
    waiting = with_policy(before, policy(1, 2, 2, killed=("stable",), stable=1), status(1, 3, loading=(2,)))
    assert waiting.policies == (policy(3, 1, killed=("canary",)),), "what is called stable there is the canary here"


def test_another_document_with_the_same_stable_version_never_waits() -> None:
    """Also where that version is not here: the document before could not answer either."""
    before = with_policy(step(EMPTY, desired(3), status(3)), policy(3, 1), status(1, 3))
    again = policy(3, 2, 2)
    assert with_policy(before, again, status(1, loading=(2, 3))).policies == (again,)


def test_a_first_policy_waits_also_when_it_gives_the_canary_nothing() -> None:
    before = step(EMPTY, desired(3), status(3))
    assert with_policy(before, policy(1, 2, zeroed=True), status(3, loading=(1, 2))).policies == ()


def test_a_step_of_a_policy_never_waits() -> None:
    before = with_policy(step(EMPTY, desired(3), status(3)), policy(3, 1), status(1, 3))
    # Stable has crashed on one worker.
    assert with_policy(before, policy(3, 1, 2), status(1, 3), status(1)).policies == (policy(3, 1, 2),)


def test_at_a_start_nobody_answers_before_the_policy() -> None:
    for ready in ((), (3,)):
        assert with_policy(EMPTY, policy(1, 2), status(*ready)).policies == (policy(1, 2),)


def test_readiness() -> None:
    up, down = view_of([status(1)]), view_of([status(failed=(1,))])
    assert is_ready(desired(1), ["m"], up, {}, degraded=False)
    assert not is_ready(desired(1), ["m"], down, {}, degraded=False)
    assert is_ready(desired(1), ["m"], down, {}, degraded=True)
    assert not is_ready(desired(1), ["m", "other"], up, {}, degraded=False)
    assert is_ready({}, [], view_of([]), {}, degraded=False)


def test_a_node_is_ready_when_the_stable_version_of_each_policy_is() -> None:
    """Without it the policy refuses everybody, whatever else is there."""
    newest, both = view_of([status(2, loading=(1,))]), view_of([status(1, 2)])
    assert not is_ready(desired(1, 2), ["m"], newest, {"m": 1}, degraded=True)
    assert is_ready(desired(1, 2), ["m"], both, {"m": 1}, degraded=False)
    broken = view_of([status(2, failed=(1,))])
    assert not is_ready(desired(1, 2), ["m"], broken, {"m": 1}, degraded=False)
    assert is_ready(desired(1, 2), ["m"], broken, {"m": 1}, degraded=True)
    # It is gone from the repository.
    assert not is_ready(desired(2), ["m"], newest, {"m": 1}, degraded=False)
    assert is_ready(desired(2), ["m"], newest, {"m": 1, "other": 5}, degraded=True)
    waiting = with_policy(step(EMPTY, desired(3), status(loading=(1, 3))), policy(1, 2), status(3, loading=(1, 2)))
    assert waits_for(["m", "gone"], waiting) == [
        "m: version 1, stable in its policy: it is loading",
        "gone: not in the repository",
    ]
    assert waits_for(["m"], with_policy(waiting, policy(1, 2), status(1, 3, loading=(2,)))) == []


VERSIONS = st.frozensets(st.integers(1, 4), max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(VERSIONS, VERSIONS, VERSIONS, VERSIONS), min_size=1, max_size=8))
def test_whatever_happens_a_route_leads_to_a_version_that_a_worker_holds(
    steps: list[tuple[frozenset[int], frozenset[int], frozenset[int], frozenset[int]]],
) -> None:
    """Two workers report anything at all; and while something selected or kept is up, the name has a default."""
    snapshot = EMPTY
    for targets, offered, first, second in steps:
        statuses = (status(*first), status(*second))
        want = desired(*sorted(targets), offered=tuple(targets | offered))
        after = step(snapshot, want, *statuses)
        route = after.routes["m"]
        assert set(route.versions) <= first | second
        assert set(route.versions) <= {model.version for model in after.models}
        assert route.default is None or route.default in route.versions
        if targets & first & second:
            assert route.default is not None
        was = snapshot.routes.get("m")
        if was and was.default in first & second and not targets & first & second:
            assert route.default is not None, "what served and still could was taken away"
        snapshot = after
