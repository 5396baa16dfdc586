"""A simulated world for two arms: hourly windows of counts, tested against a reference by 2 of 3, as alarms are."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gateway.monitor.apart import Apart
from gateway.monitor.attribution import Arm, Compared
from gateway.monitor.words import Signal, State
from router.evidence.special import chi_square_above

BINS = 10
WINDOWS_OF_A_DAY = 24
ALPHA = (0.4 / 720 / 3) ** 0.5
"""P(2 of 3) = 3 alpha^2 = the family's share of one alarm in 30 days of hourly windows."""


@dataclass(frozen=True)
class Window:
    """What is known of one window."""

    champion: Arm
    canary: Arm
    compared: Compared


def critical(alpha: float) -> float:
    """Chi-square of BINS - 1 degrees that is exceeded with probability alpha."""
    low, high = 0.0, 200.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_above(middle, BINS - 1) > alpha else (low, middle)
    return high


def shifted(strength: np.ndarray) -> np.ndarray:
    """Shares of the bins per window: tilted so that PSI against the even reference is about strength squared."""
    ramp = np.linspace(-1.0, 1.0, BINS)
    tilted = np.exp(1.6 * strength[:, None] * ramp)
    return tilted / tilted.sum(axis=1, keepdims=True)


def fires(counts: np.ndarray) -> list[State]:
    """States over the windows of counts (windows, BINS) against the even reference."""
    rows = counts.sum(axis=1, keepdims=True)
    statistic = ((counts - rows / BINS) ** 2 / (rows / BINS)).sum(axis=1)
    over = (statistic > critical(ALPHA)).astype(int)
    last = over + np.r_[0, over[:-1]] + np.r_[0, 0, over[:-2]]
    return ["firing" if hits >= 2 else "pending" if hits else "ok" for hits in last]


def windows(
    rng: np.random.Generator, rows: tuple[int, int], inputs: np.ndarray, outputs: tuple[np.ndarray, np.ndarray]
) -> Iterator[Window]:
    """Windows of two arms.

    Args:
        rows: of the champion and the canary per window.
        inputs: strength of the inputs' drift per window, the same world for both.
        outputs: strength of the outputs' drift, for the champion and the canary.
    """
    asked = [rng.multinomial(count, shifted(inputs)) for count in rows]
    answered = [rng.multinomial(count, shifted(strength)) for count, strength in zip(rows, outputs, strict=True)]
    states = [[fires(arm) for arm in arms] for arms in (asked, answered)]
    apart = {"inputs": Apart(), "outputs": Apart()}
    for at in range(len(inputs)):
        for name, arms in (("inputs", asked), ("outputs", answered)):
            apart[name] = apart[name].close(arms[0][at].tolist(), arms[1][at].tolist())
        first, second = (
            Arm(variant=name, states=_states(states[0][arm][at], states[1][arm][at]))
            for arm, name in enumerate(("stable", "canary"))
        )
        yield Window(first, second, Compared(inputs=apart["inputs"].state, outputs=apart["outputs"].state))


def _states(inputs: State, outputs: State) -> dict[Signal, State]:
    return {"input_drift": inputs, "prediction_drift": outputs, "latency": "ok", "performance_realised": "ok"}
