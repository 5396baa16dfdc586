"""Ordered features counted by comparing: as sorting and looking up would count them."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.monitor.ordered import Ordered, edge_cuts
from gateway.monitor.plan import ABOVE, BELOW, INFINITE, MISSING, QUALITY, FeaturePlan

Numbers = npt.NDArray[Any]
EDGES = ((0.0, 1.0), (-2.0, -0.1, 0.0, 0.1, 0.3, 7.0), (1e-40, 1e-3, 1e300), (16_777_216.0, 16_777_217.0, 1e19))
KINDS = (np.float32, np.float64, np.float16, np.int8, np.uint16, np.int32, np.uint64, np.bool_)


def features() -> list[tuple[FeaturePlan, int]]:
    """Of different numbers of edges, behind one another."""
    found, start = [], 3
    for at, edges in enumerate(EDGES):
        found.append((FeaturePlan(f"f{at}", "numeric", 0, at, edges), start))
        start += found[-1][0].width
    return found


def counted(columns: Numbers) -> npt.NDArray[np.int64]:
    every = features()
    into = np.zeros(every[-1][1] + every[-1][0].width, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in Ordered(every).steps([columns[:1], columns[1:]], into):
            pass
    return into


def expected(columns: Numbers) -> npt.NDArray[np.int64]:
    """The same, number by number, in float64."""
    every = features()
    into = np.zeros(every[-1][1] + every[-1][0].width, np.int64)
    for (feature, start), column in zip(every, columns, strict=True):
        edges, quality = feature.edges, start + feature.bins
        for value in column.astype(np.float64).tolist():
            if value != value:
                into[quality + MISSING] += 1
            elif value in (np.inf, -np.inf):
                into[quality + INFINITE] += 1
            elif value < edges[0]:
                into[quality + BELOW] += 1
            elif value > edges[-1]:
                into[quality + ABOVE] += 1
            else:
                inner = sum(value >= edge for edge in edges[:-1]) - 1
                into[start + inner] += 1
    return into


def special(kind: Any) -> Numbers:
    """Edges, their neighbours in float32 and float64, and what is at the ends of a datatype."""
    edges = np.array([edge for one in EDGES for edge in one])
    ends = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1e-45, 3.4028235e38, 3.5e38, -1.7e308, 1.7e308])
    up, down = np.float32(np.inf), np.float32(-np.inf)
    with np.errstate(all="ignore"):
        near = edges.astype(np.float32)
        beside = [near, np.nextafter(near, up), np.nextafter(near, down), np.nextafter(edges, np.inf)]
        values = np.concatenate([edges, ends, *beside])
        if np.issubdtype(kind, np.integer) or kind is np.bool_:
            values = np.clip(np.nan_to_num(values), -128 if np.issubdtype(kind, np.signedinteger) else 0, 2**62)
        return values.astype(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_at_an_edge_is_counted_where_it_belongs(kind: Any) -> None:
    columns = np.stack([special(kind)] * len(EDGES))
    assert np.array_equal(counted(columns), expected(columns))


@given(
    rows=st.sampled_from([1, 7, 8, 9, 1_023, 1_024, 1_025, 2_048]),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from([np.float32, np.float64]),
    holes=st.booleans(),
    rows_first=st.booleans(),
)
def test_any_numbers_are_counted_as_one_by_one(rows: int, seed: int, kind: Any, holes: bool, rows_first: bool) -> None:
    rng = np.random.default_rng(seed)
    pool = special(kind)
    columns = rng.choice(pool if holes else pool[np.isfinite(pool)], (len(EDGES), rows))
    columns = np.ascontiguousarray(columns.T).T if rows_first else columns
    assert np.array_equal(counted(columns), expected(columns))


def test_more_rows_than_a_block_holds_are_counted_block_by_block() -> None:
    columns = np.random.default_rng(1).normal(size=(len(EDGES), 40_000))
    columns[1, 39_999] = np.nan
    whole = counted(columns)
    parts = [counted(columns[:, start : start + 1_000]) for start in range(0, 40_000, 1_000)]
    assert np.array_equal(whole, np.sum(parts, axis=0))
    assert [whole[start : start + one.width].sum() for one, start in features()] == [40_000] * len(EDGES)


def test_numbers_of_a_caller_that_signal_are_missing_and_nothing_is_said() -> None:
    signalling = np.array([0x7FA00000, 0xFFA00001], np.uint32).view(np.float32)
    columns = np.stack([signalling] * len(EDGES))
    assert [counted(columns)[start + one.bins + MISSING] for one, start in features()] == [2] * len(EDGES)
    wide = np.array([0x7FF4000000000000], np.uint64).view(np.float64)
    columns = np.stack([wide] * len(EDGES))
    assert [counted(columns)[start + one.bins + MISSING] for one, start in features()] == [1] * len(EDGES)


def test_edges_at_the_ends_of_numbers_are_edges() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for most in (float(np.finfo(np.float32).max), float(np.finfo(np.float64).max)):
            one = FeaturePlan("f", "numeric", 0, 0, (-most, 0.0, most))
            into = np.zeros(one.width, np.int64)
            numbers = np.array([[-most, -1.0, 0.0, most, np.inf]])
            for kind in (np.float64, np.float32) if most < 1e39 else (np.float64,):
                for _ in Ordered([(one, 0)]).steps([numbers.astype(kind)], into):
                    pass
            looks = 2 if most < 1e39 else 1
            assert into[:2].tolist() == [2 * looks, 2 * looks]
            assert into[2 + INFINITE] == looks


def test_cuts_stand_in_the_order_of_counts() -> None:
    cuts = edge_cuts((0.0, 0.5, 1.0))
    assert cuts[:-1].tolist() == [-np.finfo(np.float64).max, 0.0, 0.5, np.nextafter(1.0, 2.0), np.inf]
    assert np.isnan(cuts[-1])
    assert len(QUALITY) > max(ABOVE, BELOW, INFINITE, MISSING)
