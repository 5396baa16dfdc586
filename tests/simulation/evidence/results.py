"""What a simulation found, and whether it is what was promised."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """How often something that must be rare happened.

    Attributes:
        promised: the most allowed; None = a rule of others, for comparison.
    """

    test: str
    setting: str
    rule: str
    hits: int
    replicas: int
    promised: float | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """Exact binomial limits of the true rate, 99 % each way."""
        return _limit(self.hits - 1, self.replicas, above=True), _limit(self.hits, self.replicas, above=False)

    @property
    def kept(self) -> bool:
        """Whether the promise stands: the lower limit is not above it."""
        return self.promised is None or self.limits[0] <= self.promised

    def cells(self) -> list[str]:
        """A row of the table."""
        low, high = self.limits
        promise = "-" if self.promised is None else f"<= {self.promised:.1%} {'yes' if self.kept else 'NO'}"
        seen = f"{self.hits / self.replicas:.2%} ({low:.2%} to {high:.2%})"
        return [self.test, self.setting, self.rule, f"{self.replicas:,}", seen, promise]


@dataclass(frozen=True)
class Delay:
    """How long something took.

    Attributes:
        planned: what the plan said; None = no plan.
        mean: infinite when some were not found.
        bad: median of the canary's bad responses until then.
    """

    test: str
    setting: str
    median: float
    p90: float
    mean: float
    found: float
    replicas: int
    planned: float | None
    bad: float

    @property
    def kept(self) -> bool:
        """Whether the mean, which a plan states, is within 1.5 times of it either way, and the median not above."""
        if self.planned is None:
            return True
        return self.planned / 1.5 <= self.mean <= 1.5 * self.planned and self.median <= 1.5 * self.planned

    def cells(self) -> list[str]:
        """A row of the table."""
        plan = "-" if self.planned is None else f"{self.planned:,.0f} {'yes' if self.kept else 'NO'}"
        times = [f"{self.median:,.0f}", f"{self.p90:,.0f}", f"{self.mean:,.0f}"]
        return [self.test, self.setting, f"{self.replicas:,}", f"{self.found:.1%}", *times, plan, f"{self.bad:.0f}"]


def _log_pmf(k: int, n: int, p: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(p) + (n - k) * math.log1p(-p)


def _limit(k: int, n: int, *, above: bool) -> float:
    """p at which P(at most k of n) is 99 % (above) or 1 %."""
    if k < 0 or k >= n:
        return float(k >= n)
    wanted, low, high = (0.99 if above else 0.01), 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        at_most = math.fsum(math.exp(_log_pmf(i, n, middle)) for i in range(k + 1))
        low, high = (middle, high) if at_most > wanted else (low, middle)
    return (low + high) / 2
