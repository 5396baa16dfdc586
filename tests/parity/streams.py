"""Fixed inputs for the comparison with other libraries: the same numbers in every environment and version.

Only `random.Random.random()` is drawn from, as Python promises its sequence; numpy's generators may change.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """Two samples of one column."""

    name: str
    numeric: bool
    reference: NDArray
    current: NDArray


def normal(rng: random.Random, count: int, mean: float = 0.0, sd: float = 1.0) -> NDArray:
    """By Box and Muller."""
    return np.array(
        [
            mean + sd * math.sqrt(-2.0 * math.log(1.0 - rng.random())) * math.cos(2.0 * math.pi * rng.random())
            for _ in range(count)
        ]
    )


def letters(rng: random.Random, count: int, shares: str) -> NDArray:
    """Letters, each as often as it stands in `shares`."""
    return np.array([shares[int(rng.random() * len(shares))] for _ in range(count)])


def cases() -> list[Case]:
    """Numbers with and without drift, below and above the size where NannyML estimates; categories, new ones too."""
    rng = random.Random(20)
    skewed = np.exp(normal(rng, 1_500, 0.0, 0.8))
    return [
        Case("same", True, normal(rng, 1_500), normal(rng, 400)),
        Case("shifted", True, normal(rng, 1_500), normal(rng, 400, 0.4)),
        Case("wider", True, normal(rng, 900, 5.0, 0.1), normal(rng, 900, 5.0, 0.3)),
        Case("skewed", True, skewed, np.exp(normal(rng, 350, 0.2, 0.8))),
        Case("large", True, normal(rng, 12_000), normal(rng, 700, 0.1, 1.3)),
        Case("few values", True, np.floor(rng_uniform(rng, 1_200) * 12), np.floor(rng_uniform(rng, 300) * 14)),
        Case("letters", False, letters(rng, 1_200, "aaabbc"), letters(rng, 300, "aabbbc")),
        Case("new letter", False, letters(rng, 1_200, "aaabbc"), letters(rng, 300, "aaabbcd")),
        Case("lost letter", False, letters(rng, 1_200, "aaaabbbbc"), letters(rng, 300, "ab")),
        Case("two letters", False, letters(rng, 800, "aab"), letters(rng, 800, "ab")),
        Case("one letter", False, letters(rng, 800, "a"), letters(rng, 100, "a")),
    ]


def rng_uniform(rng: random.Random, count: int) -> NDArray:
    """Of 0..1."""
    return np.array([rng.random() for _ in range(count)])


@dataclass(frozen=True)
class Table:
    """Rows of several columns, some of them missing: NaN and None."""

    numbers: NDArray
    categories: list[list[str | None]]


def table(seed: int, rows: int, tied: float) -> Table:
    """Three numbers, of which two are tied together, and two categories; every 40th number and category is missing."""
    rng = random.Random(seed)
    first, noise, third = normal(rng, rows), normal(rng, rows), normal(rng, rows, 50.0, 10.0)
    numbers = np.column_stack([first, tied * first + math.sqrt(1.0 - tied**2) * noise, third])
    numbers[::40, 0] = math.nan
    colours: list[str | None] = [str(one) for one in letters(rng, rows, "rrrrggb")]
    sizes: list[str | None] = ["large" if value > 0.3 else "small" for value in first]
    colours[::40] = [None] * len(colours[::40])
    return Table(numbers, [colours, sizes])


def error_streams() -> list[tuple[dict[str, float], list[float]]]:
    """ADWIN's settings (River's names), and a stream of 0 and 1 whose rate jumps."""
    settings: list[dict[str, float]] = [
        {},
        {"clock": 1},
        {"delta": 0.05, "max_buckets": 3},
        {"delta": 0.5, "clock": 7, "min_window_length": 2},
    ]
    found = []
    for seed in range(12):
        rng = random.Random(seed)
        stream: list[float] = []
        for _ in range(5):
            rate, length = rng.random(), 50 + int(rng.random() * 1_500)
            stream += [float(rng.random() < rate) for _ in range(length)]
        found.append((settings[seed % 4], stream))
    return found


COUNTS = [
    (0, 5_000, 0, 50_000),
    (3, 5_000, 0, 50_000),
    (40, 5_000, 200, 50_000),
    (5, 1_000, 200, 10_000),
    (2_600, 5_000, 25_000, 50_000),
    (0, 200, 900, 2_000),
    (1_000, 1_000, 999, 1_000),
]
"""k of n rows now, k of m rows of the reference."""


SCORES = np.array([0.0, 0.003, 0.05, 0.1, 0.125, 0.2, 0.301, 0.4, 0.5, 0.55, 0.6, 0.75, 0.8, 0.901, 0.95, 0.999, 1.0])
"""Scores to be calibrated; some lie outside of what a calibration was fitted on."""


def scored() -> dict[str, tuple[NDArray, NDArray]]:
    """Scores and labels 0 or 1: scores that are bent, bent and tied, and such that are probabilities already."""
    rng, found = random.Random(30), {}
    for name, bend, places in (("bent", 2.0, 9), ("tied", 0.5, 2), ("probabilities", 1.0, 9)):
        scores = np.round(0.02 + 0.96 * rng_uniform(rng, 3_000), places)
        labels = (rng_uniform(rng, 3_000) < scores**bend).astype(np.float64)
        found[name] = scores, labels
    return found
