"""From rounds to verdicts: medians, ratios, pass or miss. Pure: no clock, no process, no file."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PASS, MISS, UNKNOWN = "pass", "miss", "not measured"


@dataclass(frozen=True)
class Verdict:
    """One line of the table; `rounds` are the values that the medians are of, and what was thrown away and why."""

    work: str
    reach: str
    measured: str
    outcome: str
    rounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Samples:
    """What the kept rounds of one row gave, one value per round; `bare_us` is one run or one row, as the row asks."""

    echo_rps: Sequence[float]
    server_rps: Sequence[float]
    echo_p50_us: Sequence[float]
    server_p50_us: Sequence[float]
    echo_cpu_us: Sequence[float]
    server_cpu_us: Sequence[float]
    bare_us: Sequence[float]
    errors: int = 0


def median(values: Sequence[float]) -> float:
    """Of no values: NaN, which passes nothing."""
    return statistics.median(values) if values else math.nan


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def at_least(value: float, reach: float) -> str:
    """Pass when the value reaches it; NaN is not measured."""
    if math.isnan(value):
        return UNKNOWN
    return PASS if value >= reach else MISS


def at_most(value: float, reach: float) -> str:
    """Pass when the value does not exceed it; NaN is not measured."""
    return UNKNOWN if math.isnan(value) else at_least(-value, -reach)


def faultless(outcome: str, errors: int) -> str:
    """No speed counts that came with failed requests."""
    return MISS if errors and outcome == PASS else outcome


def throughput(samples: Samples) -> float:
    """Requests per second as a multiple of echo's, of the medians."""
    return median(samples.server_rps) / median(samples.echo_rps)


def latency(samples: Samples) -> float:
    """p50 as a multiple of echo's p50 plus one bare run."""
    return median(samples.server_p50_us) / (median(samples.echo_p50_us) + median(samples.bare_us))


def share_of_ideal(samples: Samples) -> float:
    """Requests per second as a share of 1 / (echo's time per request + bare time per row)."""
    ideal_us = 1e6 / median(samples.echo_rps) + median(samples.bare_us)
    return median(samples.server_rps) * ideal_us / 1e6


def cpu(samples: Samples) -> float:
    """CPU per request of the whole tree as a multiple of echo's."""
    return median(samples.server_cpu_us) / median(samples.echo_cpu_us)


def shown(value: float, digits: int, unit: str) -> str:
    """A measured value with its unit; NaN in words."""
    return "no round was kept" if math.isnan(value) else f"{value:.{digits}f} {unit}"


def series(values: Sequence[float], digits: int = 0) -> str:
    """Values of the rounds in order, for the table."""
    return " ".join(f"{value:.{digits}f}" for value in values) or "none"


def unmeasured(works: Mapping[str, str], reason: str) -> list[Verdict]:
    """A line for each work (with its reach) that could not be measured, with the reason."""
    return [Verdict(work, reach, reason, UNKNOWN) for work, reach in works.items()]
