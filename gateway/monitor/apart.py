"""Do two variants differ from each other? Counts of both over the same time, tested against each other. Pure.

That one arm differs from its reference and the other does not is no proof that they differ: the difference between
significant and not significant is not itself significant (Gelman and Stern 2006, doi:10.1198/000313006X152649). When
both drift weakly and alike, an arm by itself fires while the other is quiet in some windows of every day; this test
stays quiet. Randomised at the same time, the arms need neither a reference nor a model of seasons.

Counts are rows. Rows of one unit come in clumps, so with few units the p-value is too small: a gate beside the
evidence on units (`router.evidence`), not a replacement.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.monitor.families import simes
from gateway.monitor.words import State
from router.evidence.special import chi_square_above

ALPHA: Final = 0.001
"""Of one window. Two of three at this level: once in 300,000 windows of equal arms."""
LEAST_ROWS: Final = 200
LEAST_EXPECTED: Final = 5.0
OF, NEEDED = 3, 2
_Pair = tuple[float, float]


class Apart(msgspec.Struct, frozen=True):
    """The last windows' verdicts, oldest first: 1 = differ, 0 = do not, -1 = too few rows."""

    windows: tuple[int, ...] = ()

    def close(self, champion: Sequence[float], canary: Sequence[float], alpha: float = ALPHA) -> "Apart":
        """Take in one closed window: rows of each bin, the same bins for both."""
        return self.close_all([(champion, canary)], alpha)

    def close_all(self, pairs: Sequence[tuple[Sequence[float], Sequence[float]]], alpha: float = ALPHA) -> "Apart":
        """The same for several things counted in one window: Simes' test over all of them."""
        return self.judged([p_value(*pair) for pair in pairs if enough(*pair)], alpha)

    def judged(self, p_values: Sequence[float], alpha: float = ALPHA) -> "Apart":
        """The same of p-values of what had enough rows; none = too few rows."""
        verdict = int(simes(p_values) <= alpha) if p_values else -1
        return Apart((*self.windows, verdict)[-OF:])

    @property
    def state(self) -> State:
        """Firing = they differ in 2 of the last 3 windows."""
        if not self.windows or self.windows[-1] < 0:
            return "insufficient"
        differ = sum(verdict == 1 for verdict in self.windows)
        return "firing" if differ >= NEEDED else "pending" if differ else "ok"


def enough(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether both have enough rows to be compared."""
    return min(sum(first), sum(second)) >= LEAST_ROWS


def p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Chi-square test that two samples come from one distribution.

    Neighbouring bins are joined until each sample expects 5 in each; 1.0 when fewer than two bins remain.

    Args:
        first, second: rows per bin, the same bins.
    """
    assert len(first) == len(second), "the arms are counted in the same bins"
    total_1, total_2 = sum(first), sum(second)
    if not total_1 or not total_2:
        return 1.0
    total = total_1 + total_2
    pairs = _joined(list(zip(first, second, strict=True)), LEAST_EXPECTED * total / min(total_1, total_2))
    if len(pairs) < 2:
        return 1.0
    # The two-sample form: sum over bins of (a sqrt(B/A) - b sqrt(A/B))^2 / (a + b).
    up, down = (total_2 / total_1) ** 0.5, (total_1 / total_2) ** 0.5
    statistic = sum((a * up - b * down) ** 2 / (a + b) for a, b in pairs)
    return chi_square_above(statistic, len(pairs) - 1)


def _joined(pairs: Sequence[_Pair], least: float) -> list[_Pair]:
    """Bins that hold at least `least` rows of both samples together; what remains goes to the last one."""
    found: list[_Pair] = []
    a = b = 0.0
    for one, other in pairs:
        a, b = a + one, b + other
        if a + b >= least:
            found.append((a, b))
            a = b = 0.0
    if (a or b) and found:
        last_a, last_b = found.pop()
        found.append((last_a + a, last_b + b))
    return found
