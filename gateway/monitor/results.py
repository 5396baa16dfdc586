"""What a closed window says: plain values that serialise, for verdicts, pages and `monitor explain`."""

import msgspec

from gateway.monitor.cbpe import Performance
from gateway.monitor.families import State
from gateway.monitor.performance import Verdict


class Compared(msgspec.Struct, frozen=True):
    """One feature, or the score, against the reference.

    Attributes:
        rows: that have data; 0 = nothing was compared.
        p_value: of a difference at least as large without drift.
        degrees: groups of bins compared, less one; 0 = nothing to compare, or an exact test.
        psi, js, hellinger, tvd, linf, ks, wasserstein, chi_square: as `gateway.monitor.distances.Distances`.
        chi_square_p: its p-value, overdispersion taken out. It decides nothing: `p_value` is of a better law. None = of
            an earlier build, as is chi_square.
        quality: rows of each word of `plan.QUALITY` that are not 0.
    """

    name: str
    rows: int
    p_value: float
    degrees: int
    psi: float
    js: float
    hellinger: float
    tvd: float
    linf: float
    ks: float | None
    wasserstein: float | None
    quality: dict[str, int]
    chi_square: float | None = None
    chi_square_p: float | None = None


class Tested(msgspec.Struct, frozen=True):
    """A key of a family: see `gateway.monitor.families.Key`."""

    name: str
    p_value: float
    effect: float
    floor: float


class FamilyResult(msgspec.Struct, frozen=True):
    """A family in one window: see `gateway.monitor.families.FamilyVerdict`.

    Attributes:
        keys: all that were tested.
    """

    family: str
    state: State
    fired: bool
    p_value: float
    alpha: float
    selected: tuple[str, ...]
    named: tuple[str, ...]
    keys: tuple[Tested, ...]


class WindowResult(msgspec.Struct, frozen=True):
    """One closed window of one series.

    Attributes:
        index: counts the series' windows from 0, those that were not judged included.
        reason: why it was not judged: few_rows, no_reference or other_edges; "" = it was.
        skipped: rows that were not counted.
        reference_rows, reference_origin: what it was compared with.
        families: input, prediction (where there is a score) and quality.
        score: None = there is none.
        estimated: performance without labels; None = the score is no probability.
        performance: the verdict on it.
    """

    variant: str
    index: int
    opened_ms: int
    closed_ms: int
    rows: int
    skipped: int
    reason: str
    reference_rows: int
    reference_origin: str
    families: tuple[FamilyResult, ...] = ()
    features: tuple[Compared, ...] = ()
    score: Compared | None = None
    estimated: Performance | None = None
    performance: Verdict | None = None

    def family(self, name: str) -> FamilyResult | None:
        """A family by its name; None = it was not tested."""
        return next((one for one in self.families if one.family == name), None)

    @property
    def firing(self) -> tuple[str, ...]:
        """Families that are firing after this window, performance among them."""
        found = [one.family for one in self.families if one.state == "firing"]
        return (*found, "performance") if self.performance and self.performance.state == "firing" else tuple(found)
