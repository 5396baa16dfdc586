"""Evidently, NannyML and ours with their defaults on the same windows: false alarms, delay, and which features.

    /tmp/parity/bin/python -m tests.parity.delays     # the environment of parity.py; about four minutes

Prints the tables of docs/drift-comparison.md. Windows do not overlap; all see the same rows of the same reference.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd

from gateway.monitor.distances import distances
from gateway.monitor.families import FamilyState, Key, window_alpha
from gateway.monitor.significance import homogeneity

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
CAR_LOAN = ["car_value", "salary_range", "debt_to_income_ratio", "loan_length", "repaid_loan_on_prev_car",
            "size_of_downpayment", "driver_tenure"]  # fmt: skip
DRIFTED = frozenset({"car_value", "salary_range", "loan_length", "repaid_loan_on_prev_car"})
BINS, PSI_FLOOR = 10, 0.1
HOUR_DAYS, DISTANCE_DAYS, INPUT_SHARE = 1.0 / 24.0, 30.0, 0.4


@dataclass(frozen=True)
class Stream:
    """One run of windows.

    Attributes:
        drift_at: the first row that is different; None = none is.
        drifted: features that are different from there on.
    """

    reference: pd.DataFrame
    production: pd.DataFrame
    window_rows: int
    drift_at: int | None = None
    drifted: frozenset[str] = frozenset()

    def windows(self) -> Iterator[pd.DataFrame]:
        """The windows, whole ones."""
        for start in range(0, len(self.production) - self.window_rows + 1, self.window_rows):
            yield self.production.iloc[start : start + self.window_rows]


Flags = list[set[str]]
"""Per window: the features that the tool calls drifted; empty = no alarm."""


def numeric(frame: pd.DataFrame, name: str) -> bool:
    """Numbers, and not truth values."""
    return bool(pd.api.types.is_float_dtype(frame[name]))


# ---- the tools ----


def evidently_flags(stream: Stream) -> Flags:
    """Each column by the test and threshold Evidently takes for it."""
    from evidently.legacy.calculations.stattests import registry
    from evidently.legacy.core import ColumnType

    def drifted(window: pd.DataFrame, name: str) -> bool:
        kind = ColumnType.Numerical if numeric(window, name) else ColumnType.Categorical
        before, now = stream.reference[name].copy(), window[name].copy()
        return bool(registry.get_stattest(before, now, kind, None)(before, now, kind, None).drifted)

    return [{name for name in window if drifted(window, name)} for window in stream.windows()]


def majority(flags: Flags, features: int) -> Flags:
    """Evidently's drift of the data set: at least half of the columns."""
    return [names if len(names) >= features / 2 else set() for names in flags]


def nannyml_flags(stream: Stream) -> Flags:
    """Jensen-Shannon against thresholds from the reference's chunks."""
    import nannyml

    names = list(stream.production)
    calculator = nannyml.UnivariateDriftCalculator(column_names=names, chunk_size=stream.window_rows)
    calculator.fit(stream.reference)
    found = calculator.calculate(stream.production).filter(period="analysis").to_df()
    count = len(list(stream.windows()))
    return [{name for name in names if found[(name, "jensen_shannon", "alert")].iloc[at]} for at in range(count)]


def nannyml_pca_flags(stream: Stream) -> Flags:
    """Data reconstruction: an alarm of all features or of none."""
    import nannyml

    names = list(stream.production)
    calculator = nannyml.DataReconstructionDriftCalculator(column_names=names, chunk_size=stream.window_rows)
    calculator.fit(stream.reference)
    found = calculator.calculate(stream.production).filter(period="analysis").to_df()
    alerts = found[("reconstruction_error", "alert")]
    return [{"all"} if alerts.iloc[at] else set() for at in range(len(list(stream.windows())))]


def our_flags(stream: Stream, floor: float = PSI_FLOOR) -> Flags:
    """The input family as the gateway judges it: one false alarm in 30 days, hourly windows, PSI of at least 0.1."""
    state, alpha = FamilyState(), window_alpha(INPUT_SHARE, HOUR_DAYS, DISTANCE_DAYS)
    binners = {name: Binner(stream.reference[name]) for name in stream.production}
    found = []
    for window in stream.windows():
        keys = []
        for name, binner in binners.items():
            counts = binner.reference, binner.counts(window[name])
            p_value = homogeneity(*counts, binner.ordered).p_value
            keys.append(Key(name, p_value, distances(*counts, binner.ordered).psi, floor))
        verdict = state.close(keys, alpha)
        found.append(set(verdict.named) if verdict.state == "firing" else set())
    return found


class Binner:
    """Bins of one feature: deciles of the reference, or its categories."""

    def __init__(self, column: pd.Series) -> None:
        self.ordered = bool(pd.api.types.is_float_dtype(column))
        if self.ordered:
            self._inner = np.unique(np.quantile(column, np.arange(1, BINS) / BINS))
        self._values = sorted(column.unique())
        self.reference = self.counts(column)

    def counts(self, column: pd.Series) -> np.ndarray:
        """int64 (bins,). Below and above the reference's range counts as the outer bins here: no feature leaves it."""
        if self.ordered:
            at = np.searchsorted(self._inner, column.to_numpy(), side="right")
            return np.bincount(at, minlength=len(self._inner) + 1).astype(np.int64)
        return column.value_counts().reindex(self._values, fill_value=0).to_numpy(np.int64)


TOOLS = {
    "Evidently, any column": evidently_flags,
    "Evidently, half of the columns": lambda stream: majority(evidently_flags(stream), stream.production.shape[1]),
    "NannyML, any column (JS)": nannyml_flags,
    "NannyML, reconstruction (PCA)": nannyml_pca_flags,
    "Tidegate": our_flags,
    "Tidegate, floor 0": lambda stream: our_flags(stream, 0.0),
}


# ---- streams ----


def car_loan(window_rows: int) -> list[Stream]:
    """NannyML's car loans as they are."""
    import nannyml

    reference, analysis, _ = nannyml.load_synthetic_car_loan_dataset()
    return [Stream(reference[CAR_LOAN], analysis[CAR_LOAN], window_rows, 25_000, DRIFTED)]


def car_loan_clean(window_rows: int) -> list[Stream]:
    """Its reference in two halves: nothing is different."""
    import nannyml

    reference = nannyml.load_synthetic_car_loan_dataset()[0][CAR_LOAN]
    return [Stream(reference.iloc[:25_000], reference.iloc[25_000:].reset_index(drop=True), window_rows)]


def generated(rows: int, window_rows: int, runs: int, shift: float, before: int = 10, after: int = 10) -> list[Stream]:
    """Four normal and three categorical features; x0 moves by `shift` standard deviations after `before` windows."""
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)

        def frame(count: int, rng: np.random.Generator = rng) -> pd.DataFrame:
            numbers = {f"x{at}": rng.standard_normal(count) for at in range(4)}
            words = {f"c{at}": rng.choice(list("abcdef")[: 2 + 2 * at], count) for at in range(3)}
            return pd.DataFrame(numbers | words)

        reference, production = frame(rows), frame(window_rows * (before + after))
        start = window_rows * before
        production.loc[start:, "x0"] += shift
        found.append(Stream(reference, production, window_rows, start if shift else None, frozenset({"x0"})))
    return found


# ---- figures ----


def row_of(tool: str, streams: Sequence[Stream]) -> str:
    """One line of a table."""
    false = clean = flagged = cells = missed = 0
    delays, found, innocent = [], set(), set()
    for stream in streams:
        flags = TOOLS[tool](stream)
        first = len(flags) if stream.drift_at is None else stream.drift_at // stream.window_rows
        false, clean = false + sum(map(bool, flags[:first])), clean + first
        flagged, cells = flagged + sum(map(len, flags[:first])), cells + first * stream.production.shape[1]
        if stream.drift_at is None:
            continue
        after = [at + 1 for at, names in enumerate(flags[first:]) if names]
        delays += after[:1]
        missed += not after
        found |= set().union(*flags[first:]) & stream.drifted
        innocent |= set().union(*flags[first:]) - stream.drifted
    line = f"| {tool} | {false} of {clean} ({false / clean:.1%}) |"
    line += " - |" if "PCA" in tool else f" {flagged / cells:.2%} |"
    if all(stream.drift_at is None for stream in streams):
        return line
    delay = f"{np.mean(delays):.1f}" if delays else "never"
    line += f" {delay} | {missed} of {len(streams)} | "
    names = "-" if "PCA" in tool else f"{len(found)} of {len(streams[0].drifted)}, {len(innocent)} others"
    return f"{line}{names} |"


def table(title: str, streams: Sequence[Stream]) -> None:
    """Print one table."""
    print(f"\n### {title}\n")
    head = ["tool", "windows with a false alarm", "false flags per feature and window"]
    if any(stream.drift_at is not None for stream in streams):
        head += ["windows until the alarm (mean)", "never found", "features named after the drift"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for tool in TOOLS:
        print(row_of(tool, streams), flush=True)


def main() -> int:
    """All tables."""
    warnings.simplefilter("ignore")
    print(", ".join(f"{name} {version(name)}" for name in ("evidently", "nannyml", "numpy", "scipy", "pandas")))
    table("Car loans, windows of 5,000 rows", car_loan(5_000))
    table("Car loans, windows of 1,000 rows", car_loan(1_000))
    table("Car loans without drift, windows of 1,000 rows", car_loan_clean(1_000))
    table("Car loans without drift, windows of 200 rows", car_loan_clean(200))
    table("Generated without drift, reference 10,000, windows of 200", generated(10_000, 200, 10, 0.0))
    table("Generated without drift, reference 10,000, windows of 1,000", generated(10_000, 1_000, 10, 0.0))
    table("One of seven features moves by 0.5 deviations, windows of 1,000", generated(10_000, 1_000, 10, 0.5))
    table("One of seven features moves by 0.2 deviations, windows of 1,000", generated(10_000, 1_000, 10, 0.2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
