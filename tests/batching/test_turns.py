"""Turns of several models: a mistake in one costs the others nothing."""

import pytest

from runtimes.batching.turns import TurnScheduler
from tests.simulation.world import VirtualLoop


class Model:
    """Counts its turns; one that is broken raises in each."""

    def __init__(self, *, broken: bool = False) -> None:
        self.turns = 0
        self.broken = broken

    def turn(self, budget_ns: int, must: bool) -> int:
        self.turns += 1
        if self.broken:
            raise RuntimeError("a mistake of ours")
        return 1_000

    def sweep(self, now_ns: int) -> bool:
        return False


def test_what_comes_before_executions_comes_once_a_turn() -> None:
    loop, models = VirtualLoop(), [Model(), Model()]
    turns_before: list[int] = []
    scheduler = TurnScheduler(
        loop, loop.now_ns, budget_ns=1_000_000, before=lambda: turns_before.append(models[0].turns + models[1].turns)
    )
    for _ in range(2):
        for model in models:
            scheduler.request(model)
        loop.run(lambda: None)
    assert turns_before == [0, 2]


def test_a_mistake_in_one_turn_costs_no_other_model_its_own() -> None:
    loop = VirtualLoop()
    scheduler = TurnScheduler(loop, loop.now_ns, budget_ns=1_000_000)
    models = [Model(), Model(broken=True), Model()]
    for model in models:
        scheduler.request(model)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        loop.run(lambda: None)
    assert [model.turns for model in models] == [1, 1, 1]
    for model in models:
        model.broken = False
        scheduler.request(model)
    loop.run(lambda: None)
    assert [model.turns for model in models] == [2, 2, 2]
