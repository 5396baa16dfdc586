"""ADWIN beside the golden figures: that it finds changes, forgets the old, and survives being written down."""

import json
import random

import pytest

from gateway.monitor.adwin import Adwin


def flips(seed: int, *rates: float, length: int = 2_000) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < rate) for rate in rates for _ in range(length)]


def test_the_published_index() -> None:
    rng = random.Random(12345)
    stream = rng.choices([0, 1], k=1000) + rng.choices(range(4, 8), k=1000)
    detector = Adwin()
    assert [at for at, value in enumerate(stream) if detector.update(value)] == [1023]


@pytest.mark.parametrize("restart", [True, False])
def test_a_jump_of_errors_is_found_and_the_old_rate_forgotten(restart: bool) -> None:
    detector = Adwin(restart=restart)
    found = [at for at, value in enumerate(flips(3, 0.05, 0.2)) if detector.update(value)]
    assert found
    assert 2_000 < found[0] < 2_300
    assert detector.mean == pytest.approx(0.2, abs=0.03)


def test_without_a_change_there_is_hardly_an_alarm_and_memory_stays_small() -> None:
    alarms = 0
    for seed in range(20):
        detector = Adwin()
        alarms += sum(detector.update(value) for value in flips(seed, 0.1, length=5_000))
        if not alarms:
            assert detector.width == 5_000
            assert detector.mean == pytest.approx(detector.total / 5_000)
            assert sum(map(len, detector.plain()["rows"])) <= 6 * 11
    assert alarms <= 1


def test_mean_and_variance_are_those_of_the_window() -> None:
    detector = Adwin()
    assert detector.mean == detector.variance == 0.0
    values = [1.0, 4.0, 4.0, 7.0]
    for value in values:
        assert not detector.update(value)
    assert (detector.width, detector.mean, detector.variance) == (4, 4.0, pytest.approx(4.5))
    assert "width=4" in repr(detector)


def test_a_constant_after_a_change_has_no_variance_below_none() -> None:
    detector = Adwin(delta=0.5, clock=1, least=2, restart=False)
    for value in flips(1, 0.5, 0.0, 0.9, 1.0, length=500):
        detector.update(value)
        assert detector.squares >= 0.0


@pytest.mark.parametrize("cut", [0, 1, 1_500, 2_111])
def test_it_survives_being_written_down(cut: int) -> None:
    stream = flips(8, 0.05, 0.3)
    whole, before = Adwin(), Adwin()
    for value in stream[:cut]:
        whole.update(value)
        before.update(value)
    after = Adwin()
    after.restore(json.loads(json.dumps(before.plain())))
    assert [after.update(value) for value in stream[cut:]] == [whole.update(value) for value in stream[cut:]]
    assert after.plain() == whole.plain()
