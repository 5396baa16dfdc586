"""Looking for the next request instead of sleeping: tried where callers come back at once, ended where in vain."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from runtimes.batching.linger import MISS, NEAR_NS, TRIES_AFTER, Linger
from runtimes.batching.turns import TurnScheduler
from tests.simulation.world import VirtualLoop

LINGER_NS = 60_000


def trying() -> Linger:
    found = Linger()
    for _ in range(TRIES_AFTER):
        found.came(NEAR_NS)
    return found


def test_it_is_tried_after_many_that_came_soon_in_a_row() -> None:
    found = Linger()
    for _ in range(TRIES_AFTER - 1):
        found.came(NEAR_NS)
    found.came(NEAR_NS + 1)
    for _ in range(TRIES_AFTER - 1):
        found.came(NEAR_NS)
        assert not found.pays
    found.came(NEAR_NS)
    assert found.pays


def test_a_try_ends_with_its_first_miss() -> None:
    found = trying()
    found.missed()
    assert not found.pays


def test_what_has_paid_for_long_forgives_three_misses_and_no_fourth() -> None:
    found = trying()
    for _ in range(10_000):
        found.came(10_000)
    for _ in range(3):
        found.missed()
        assert found.pays
    found.missed()
    assert not found.pays


@given(st.lists(st.booleans(), max_size=2_000))
def test_misses_stay_a_small_part_whatever_comes(soon: list[bool]) -> None:
    found, misses, turns = Linger(), 0, 0
    for near in soon:
        turns += 1
        if found.pays and not near:
            misses += 1
            found.missed()
        else:
            found.came(10_000 if near else NEAR_NS + 1)
    assert MISS * misses <= turns


class Caller(VirtualLoop):
    """A loop whose lone caller asks again so long after each answer; counts how often the loop slept in between."""

    def __init__(self, think_ns: int, linger_ns: int = LINGER_NS) -> None:
        super().__init__()
        self.think_ns = think_ns
        self.asks = self.left = 0
        self.scheduler = TurnScheduler(self, self.now_ns, budget_ns=1_000_000, linger_ns=linger_ns)
        self.looks = 0

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.looks += callback == self.scheduler._look
        super().call_soon(callback)

    def ask(self) -> None:
        self.asks += 1
        self.scheduler.request(self)

    def turn(self, budget_ns: int, must: bool) -> int:
        self.left -= 1
        if self.left > 0:
            self.at(self.now + self.think_ns, self.ask)
        return 20_000

    def sweep(self, now_ns: int) -> bool:
        return False

    def serve(self, requests: int) -> int:
        """Looks for so many requests, one after the other."""
        self.left, self.looks = requests, 0
        self.ask()
        self.run(lambda: None)
        return self.looks


def test_a_caller_who_comes_back_at_once_is_looked_for() -> None:
    assert Caller(think_ns=20_000).serve(TRIES_AFTER) == 0
    looks = Caller(think_ns=20_000).serve(TRIES_AFTER + 100)
    assert 100 * 15 < looks < 100 * 25, "one each microsecond until the request is there"


def test_who_comes_later_than_a_look_lasts_costs_one_look_in_sixty_four() -> None:
    looks = Caller(think_ns=100_000).serve(10 * TRIES_AFTER)
    assert 0 < looks <= 10 * (LINGER_NS // 1_000 + 2)


def test_who_comes_seldom_is_never_looked_for() -> None:
    assert Caller(think_ns=300_000).serve(1_000) == 0


def test_nobody_is_looked_for_while_a_model_runs_in_a_thread() -> None:
    caller = Caller(think_ns=20_000)
    caller.scheduler.running = 1
    assert caller.serve(1_000) == 0
    caller.scheduler.running = 0
    assert caller.serve(1_000) > 0


def test_nobody_is_looked_for_while_somebody_waits() -> None:
    caller = Caller(think_ns=20_000)
    caller.serve(2 * TRIES_AFTER)
    caller.scheduler.watch(caller)
    caller.left = 0
    caller.looks = 0
    caller.ask()
    caller.run(lambda: None, most_steps=2)
    assert caller.looks == 0


def test_it_can_be_switched_off() -> None:
    assert Caller(think_ns=20_000, linger_ns=0).serve(1_000) == 0
