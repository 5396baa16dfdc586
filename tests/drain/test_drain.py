"""The way out, as pure decisions: order, times, and a simulated worker whose peers behave in every way."""

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.drain import IN_FLIGHT_NS, LAST_WORDS_NS, Drain, DrainPlan, Phase

SECOND = 1_000_000_000
TIMES = st.integers(0, 40 * SECOND)


def entered(drain: Drain, now_ns: int, connections: int) -> list[Phase]:
    phases = []
    while (phase := drain.advance(now_ns, connections)) is not None:
        phases.append(phase)
    return phases


def test_before_the_signal_nothing_happens() -> None:
    drain = Drain()
    assert entered(drain, 10 * SECOND, 0) == []
    assert drain.wait_ns(0) is None


def test_without_delay_and_without_connections_it_is_over_at_once() -> None:
    drain = Drain()
    drain.begin(DrainPlan(0, 0, 30 * SECOND))
    assert entered(drain, 0, 0) == [Phase.ANNOUNCED, Phase.CLOSED, Phase.FINISHING, Phase.REFUSING, Phase.STOPPED]


def test_behind_a_proxy_it_serves_on_for_the_delay_even_when_nobody_is_connected() -> None:
    drain = Drain()
    drain.begin(DrainPlan(0, 5 * SECOND, 30 * SECOND))
    assert entered(drain, 0, 0) == [Phase.ANNOUNCED]
    assert drain.wait_ns(0) == 5 * SECOND
    assert entered(drain, 5 * SECOND - 1, 0) == []
    assert entered(drain, 5 * SECOND, 3) == [Phase.CLOSED]
    assert entered(drain, 5 * SECOND + IN_FLIGHT_NS, 3) == [Phase.FINISHING]
    assert entered(drain, 29 * SECOND, 1) == []
    assert entered(drain, 30 * SECOND, 1) == [Phase.REFUSING]
    assert entered(drain, 30 * SECOND + LAST_WORDS_NS, 1) == [Phase.STOPPED]


def test_connections_found_while_closing_are_counted_again() -> None:
    drain = Drain()
    drain.begin(DrainPlan(0, 0, SECOND))
    assert drain.advance(0, 0) == Phase.ANNOUNCED
    assert drain.advance(0, 0) == Phase.CLOSED
    assert drain.advance(0, 2) is None
    assert drain.advance(IN_FLIGHT_NS, 2) == Phase.FINISHING


def test_a_second_signal_does_not_start_anew() -> None:
    drain = Drain()
    drain.begin(DrainPlan(0, 0, SECOND))
    drain.begin(DrainPlan(SECOND, 0, 9 * SECOND))
    assert entered(drain, SECOND, 1)[-1] == Phase.REFUSING


@given(delay=TIMES, grace=TIMES, looks=st.lists(st.tuples(TIMES, st.integers(0, 3)), max_size=20))
def test_phases_come_in_order_once_and_in_time(delay: int, grace: int, looks: list[tuple[int, int]]) -> None:
    plan = DrainPlan(0, delay, grace)
    drain = Drain()
    drain.begin(plan)
    seen = []
    for now_ns, connections in sorted(looks):
        now_entered = entered(drain, now_ns, connections)
        seen += now_entered
        wait_ns = drain.wait_ns(now_ns)
        assert wait_ns is None or wait_ns > 0 or connections == 0
        if now_ns < min(delay, grace):
            assert drain.phase <= Phase.ANNOUNCED
        if now_ns < grace and connections:
            assert Phase.REFUSING not in now_entered
    seen += entered(drain, plan.stops_ns, 1)
    assert seen == list(Phase)[1:]


class Peer:
    """A client of the simulation: when its answer is read, and whether it sends again on an open connection."""

    def __init__(self, rng: random.Random) -> None:
        self.busy_until_ns = rng.choice([0, rng.randrange(3 * SECOND), 10**15])
        self.idle = self.busy_until_ns == 0


@given(st.integers(0, 2**32))
def test_no_peer_that_is_answered_in_time_is_refused_and_none_holds_the_exit(seed: int) -> None:
    rng = random.Random(seed)
    delay, grace = rng.choice([0, rng.randrange(2 * SECOND)]), rng.randrange(1, 6 * SECOND)
    plan = DrainPlan(0, delay, grace)
    drain = Drain()
    drain.begin(plan)
    open_peers = [Peer(rng) for _ in range(rng.randrange(8))]
    now_ns, refused, stopped_ns = 0, [], None
    while stopped_ns is None:
        open_peers = [p for p in open_peers if p.idle or p.busy_until_ns > now_ns or drain.phase < Phase.ANNOUNCED]
        while (phase := drain.advance(now_ns, len(open_peers))) is not None:
            if phase == Phase.FINISHING:
                open_peers = [p for p in open_peers if not p.idle]
            elif phase == Phase.REFUSING:
                refused = list(open_peers)
            elif phase == Phase.STOPPED:
                stopped_ns = now_ns
        ends = [p.busy_until_ns - now_ns for p in open_peers if p.busy_until_ns > now_ns]
        now_ns += max(1, min([drain.wait_ns(now_ns) or 1, *ends]))
    assert stopped_ns <= plan.stops_ns
    assert all(p.busy_until_ns >= grace for p in refused)
