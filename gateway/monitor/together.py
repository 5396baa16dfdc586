"""Features together: the multivariate part of a reference is fitted, and made part of its plan where it is asked for.

The rows that components are made from fit them better than later rows do, by about (columns kept) / (rows): with few
rows and many features that is more than chance. So they are made from every `APART`th row, and the others are counted.
docs/adr/010-rows-together.md has what was measured.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.monitor import reconstruction
from gateway.monitor.features import BINS, quantile_edges
from gateway.monitor.multivariate import KINDS, MAX_COLUMNS, Multivariate
from gateway.monitor.plan import MULTIVARIATE, QUALITY, CountPlan, FeaturePlan, MultivariatePlan
from gateway.monitor.reference import Reference, identified
from gateway.monitor.rowerrors import DIGITS, RowErrors, RowMatrix
from gateway.monitor.settings import Spec
from gateway.monitor.significance import overdispersion_of
from runtimes.tensors import Array

APART: Final = 5
LEAST_ROWS: Final = 100
"""Rows that components are made from, at least."""
WORK_PER_ROW: Final = 4_096
"""Multiplications of an average row, at most: of more columns fewer rows are sampled, so that a slice stays short."""

Inputs = Sequence[Array | None]


def fitted(plan: CountPlan, inputs: Inputs, rows: int, bounds: Sequence[int]) -> tuple[Multivariate | None, str]:
    """The multivariate part of a reference, or why there is none.

    Args:
        plan: of the reference.
        inputs: [rows, ...] each.
        bounds: where consecutive parts begin, and where the last one ends: for the overdispersion.
    """
    columns = sum(feature.kind in KINDS for feature in plan.features)
    if not 2 <= columns <= MAX_COLUMNS:
        return None, f"{columns:,} features can be a column, and 2 to {MAX_COLUMNS} are needed"
    if rows < APART * LEAST_ROWS:
        return None, f"{rows:,} rows, and {APART * LEAST_ROWS:,} are needed"
    numbers = np.arange(rows)
    apart = numbers % APART == 0
    made = components(plan.features, inputs, numbers[apart])
    if not made.weights:
        return None, f"every component is needed to explain {reconstruction.EXPLAINED:.0%}, and so rebuilds any row"
    counted = [array if array is None else array[~apart] for array in inputs]
    errors = RowErrors(made, plan.features).errors(counted, int(np.sum(~apart)), 0)
    edges = _edges(errors)
    of_part = np.searchsorted(bounds[1:], numbers[~apart], "right")
    parts = [np.histogram(errors[of_part == at], edges)[0] for at in range(len(bounds) - 1)]
    phi = overdispersion_of(parts, ordered=True) if len(parts) > 1 else 1.0
    return Multivariate(made, edges, tuple(np.sum(parts, axis=0).tolist()), phi), ""


def components(features: Sequence[FeaturePlan], inputs: Inputs, chosen: npt.NDArray[np.int64]) -> MultivariatePlan:
    """How the error of a row is made, from some rows of a reference.

    Args:
        features: all of the plan's; two at least can be a column.
        chosen: which rows.
    """
    places = [at for at, feature in enumerate(features) if feature.kind in KINDS]
    mine = [features[at] for at in places]
    # First as places, 0 = unknown, then as shares.
    sizes = [len(one.values) + len(one.others) if one.kind == "categorical" else 0 for one in mine]
    data = RowMatrix(mine, [range(1, size + 1) for size in sizes]).of(inputs, chosen)
    fill, shares = np.full(len(mine), np.nan), [np.zeros(0)] * len(mine)
    for at, size in enumerate(sizes):
        if size:
            known = np.isfinite(data[:, at])
            found = data[known, at].astype(np.int64)
            counts = np.bincount(found, minlength=size + 1)[1:]
            shares[at] = reconstruction.shares(counts, int(np.sum(~known)), len(data))
            fill[at] = shares[at].max()
            data[known, at] = np.concatenate([[0.0], shares[at]])[found]
    model = reconstruction.fit(data, fill)
    return MultivariatePlan(
        tuple(places),
        tuple(tuple(one.tolist()) for one in shares),
        tuple(model.fill.tolist()),
        tuple(model.centre.tolist()),
        tuple(tuple(one) for one in model.weights.tolist()),
    )


def _edges(errors: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Bins of equal count, with one more on either side for what no row of the reference has."""
    found = quantile_edges(errors, BINS)
    first = () if found[0] == 0.0 else (0.0,)
    after = float(found[-1]) + 10.0**-DIGITS / 2.0
    return (*first, *found[:-1], after, 2.0 * after + 1.0)


def asked_for(reference: Reference, spec: Spec) -> Reference:
    """The reference as the settings want it: with or without its features together."""
    return reference if spec.multivariate is None else with_multivariate(reference, spec.multivariate.sample)


def with_multivariate(reference: Reference, sample: float) -> Reference:
    """The same with its features together as one more feature, the last; it gets another id.

    Without components it stays as it is.

    Args:
        sample: share of rows to look at, above 0; of many columns fewer.
    """
    found = reference.multivariate
    if found is None or reference.plan.multivariate is not None:
        return reference
    work = len(found.plan.weights) * len(found.plan.features)
    made = msgspec.structs.replace(found.plan, sample=min(sample, WORK_PER_ROW / max(1, work)))
    feature = FeaturePlan(MULTIVARIATE, "multivariate", -1, -1, found.edges)
    plan = msgspec.structs.replace(
        reference.plan, features=(*reference.plan.features, feature), multivariate=made
    )  # fmt: skip
    at = reference.plan.score_at
    mine = np.array([*found.counts, *[0] * len(QUALITY)], np.int64)
    phis = reference.overdispersion and (*reference.overdispersion, found.overdispersion)
    counts = np.concatenate([reference.counts[:at], mine, reference.counts[at:]])
    return identified(replace(reference, plan=plan, counts=counts, overdispersion=phis))
