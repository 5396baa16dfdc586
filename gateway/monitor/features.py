"""How each feature of a reference is to be counted: kinds, edges and categories, from the reference's own rows. Pure.

Values are taken as the model takes them, in its datatype: 0.7 of a file is less than 0.7 as FP32, and an edge must not
lie between the two.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from gateway.monitor.plan import MULTIVARIATE, FeatureKind, FeaturePlan
from gateway.monitor.reference import MAX_FEATURES, ReferenceRefused
from runtimes.tensors import Array, Signature, TensorSpec, f32_from_bf16

Kind = Literal["numeric", "categorical", "boolean", "text", "ignore"]
"""What a schema may say of a feature."""
BINS: Final = 10
TOP: Final = 50
"""Categories with a bin of their own. A feature of whole numbers with at most so many is categorical."""
MAX_OTHERS: Final = 10_000
"""Further categories that are known by name, at most; rarer ones count as unseen, in the reference as later."""
MAX_TEXTS: Final = 1000
"""Distinct texts above which a feature is counted by their length, unless the schema says otherwise."""

Values = npt.NDArray[np.float64] | list[bytes]
"""A column: numbers, NaN = missing, or texts, empty = missing."""


@dataclass(frozen=True, slots=True)
class Made:
    """A feature as it will be counted.

    Attributes:
        why: how its kind was found, for people.
        least: rows of the reference that a category needs to be known.
        least_others: rows of those of the plan's `others` that have just so many.
    """

    plan: FeaturePlan
    why: str
    least: int = 1
    least_others: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """A feature that is not counted, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Place:
    """A column of an input."""

    name: str
    input: int
    column: int


def places(signature: Signature, inputs: Sequence[Array | None], names: Mapping[str, Sequence[str]]) -> list[Place]:
    """Every column of every input, with its name.

    Args:
        inputs: [rows, ...] of each input; None = left out, without columns then.
        names: input name -> names of its columns, as in the model's config.

    Raises:
        ReferenceRefused: names that do not fit, or that stand twice.
    """
    found: list[Place] = []
    for at, (spec, array) in enumerate(zip(signature.inputs, inputs, strict=True)):
        if array is not None:
            found += _columns(at, spec, array, names.get(spec.name, ()))
    if any(place.name == MULTIVARIATE for place in found):
        raise ReferenceRefused(f"no feature may be called {MULTIVARIATE!r}: so all of them together are called")
    twice = [name for name, count in Tally(place.name for place in found).items() if count > 1]
    if twice:
        raise ReferenceRefused(f"expected features with different names, got {twice[0]!r} twice")
    return found


def _columns(at: int, spec: TensorSpec, array: Array, names: Sequence[str]) -> Iterator[Place]:
    width = int(np.prod(array.shape[1:]))
    if names and len(names) != width:
        raise ReferenceRefused(
            f"feature_names has {len(names)} names for input {spec.name!r}, which has {width} columns"
        )
    if width == 1:
        yield Place(names[0] if names else spec.name, at, -1 if array.ndim == 1 else 0)
        return
    for column in range(width):
        yield Place(names[column] if names else f"{spec.name}[{column}]", at, column)


def column_of(array: Array, place: Place, bf16: bool) -> Values:
    """The values of a column. Shape of the tensor: [rows, ...]."""
    flat = array.reshape(len(array), -1)[:, max(place.column, 0)]
    if flat.dtype == object:
        return [item if isinstance(item, bytes) else str(item).encode() for item in flat.tolist()]
    if bf16:
        flat = f32_from_bf16(flat.astype(np.uint16))
    return flat.astype(np.float64)


def made(
    signature: Signature,
    inputs: Sequence[Array | None],
    names: Mapping[str, Sequence[str]],
    schema: Mapping[str, Kind],
    bins: int = BINS,
    top: int = TOP,
) -> tuple[list[Made], list[Left]]:
    """Features of a reference's rows, and what is left out of them.

    Args:
        schema: feature name -> kind; what is not in it is judged by its values.

    Raises:
        ReferenceRefused: a schema of features that are not there, or too many features.
    """
    found = places(signature, inputs, names)
    unknown = sorted(schema.keys() - {place.name for place in found})
    if unknown:
        known = ", ".join(place.name for place in found[:20])
        raise ReferenceRefused(f"the schema names {unknown[0]!r}, which is no feature; there are {known}")
    wanted = [place for place in found if schema.get(place.name) != "ignore"]
    if len(wanted) > MAX_FEATURES:
        raise ReferenceRefused(
            f"expected at most {MAX_FEATURES:,} features, got {len(wanted):,}: ignore some by a schema"
        )
    counted: list[Made] = []
    left = [Left(place.name, "the schema says ignore") for place in found if schema.get(place.name) == "ignore"]
    for place in wanted:
        spec, array = signature.inputs[place.input], inputs[place.input]
        assert array is not None, "a place is of an input that is there"
        bf16 = spec.datatype.name == "BF16"
        values = column_of(array, place, bf16)
        one = _feature(place, values, spec, schema.get(place.name), bins, top)
        if isinstance(one, Left):
            left.append(one)
        else:
            counted.append(one)
    return counted, left


def _feature(place: Place, values: Values, spec: TensorSpec, said: Kind | None, bins: int, top: int) -> Made | Left:
    kind, why = (_judged(values, spec, top), "by its values") if said is None else (said, "by the schema")
    assert kind != "ignore", "left out before"
    bf16 = spec.datatype.name == "BF16"
    if kind == "boolean":
        plan = FeaturePlan(place.name, "boolean", place.input, place.column, values=(0.0, 1.0), bf16=bf16)
        return Made(plan, "by its datatype" if said is None else why)
    if kind == "categorical":
        return _categorical(place, values, why, top, bf16)
    numbers = _numbers(values, kind)
    if not len(numbers):
        return Left(place.name, "no value in the reference")
    edges = quantile_edges(numbers, bins)
    return Made(FeaturePlan(place.name, kind, place.input, place.column, edges, bf16=bf16), why)


def _judged(values: Values, spec: TensorSpec, top: int) -> FeatureKind:
    if spec.datatype.kind == "bool":
        return "boolean"
    if isinstance(values, list):
        return "categorical" if len(set(values)) <= MAX_TEXTS else "text"
    finite = values[np.isfinite(values)]
    # A look at the first rows spares the sort of most columns that are no categories.
    few = len(np.unique(finite[:1000])) <= top and len(np.unique(finite)) <= top
    return "categorical" if len(finite) and few and bool((finite == np.rint(finite)).all()) else "numeric"


def _numbers(values: Values, kind: FeatureKind) -> npt.NDArray[np.float64]:
    """Finite numbers of a column; of texts their lengths, or what they say."""
    if isinstance(values, list):
        if kind == "text":
            return np.array([len(text.decode(errors="replace")) for text in values if text], np.float64)
        values = np.array([_said(text) for text in values], np.float64)
    return values[np.isfinite(values)]


def _said(text: bytes) -> float:
    try:
        return float(text) if text else np.nan
    except ValueError:
        return np.nan


def quantile_edges(values: npt.NDArray[np.float64], bins: int = BINS) -> tuple[float, ...]:
    """Edges of about so many bins with counts as equal as ties allow.

    A value that is a bin's worth of rows by itself (a zero of a mostly empty column) has a bin of its own, so that a
    change of its share is seen. Every other edge is one of the values.

    Shape: [n], finite, not empty.
    """
    values = values + 0.0  # -0.0 is 0.0
    distinct, counts = np.unique(values, return_counts=True)
    heavy = distinct[counts * bins >= len(values)]
    rest = np.repeat(distinct, np.where(np.isin(distinct, heavy), 0, counts))
    edges = [distinct[:1], distinct[-1:], heavy, np.nextafter(heavy, np.inf)]
    if len(rest):
        shares = np.linspace(0.0, 1.0, max(1, bins - len(heavy)) + 1)
        edges.append(np.quantile(rest, shares, method="inverted_cdf"))
    return tuple(np.unique(np.concatenate(edges)).tolist())


def _categorical(place: Place, values: Values, why: str, top: int, bf16: bool) -> Made | Left:
    counts: Mapping[str | float, int]
    if isinstance(values, list):
        counts = {text.decode(errors="replace"): count for text, count in Tally(values).items() if text}
    else:
        distinct, sizes = np.unique(values[np.isfinite(values)] + 0.0, return_counts=True)
        counts = dict(zip(distinct.tolist(), sizes.tolist(), strict=True))
    if not counts:
        return Left(place.name, "no value in the reference")
    # The most frequent first; of equals the lower, so that a fit gives the same plan each time.
    ranked = sorted(counts, key=lambda category: (-counts[category], category))
    least = 1
    if len(ranked) > top + MAX_OTHERS:
        # Known is what so many rows have, not what is first among equals: see `fit` on leaving one out.
        least = counts[ranked[top + MAX_OTHERS]] + 1
    known = [category for category in ranked if counts[category] >= least]
    own, others = known[:top], known[top:]
    if not own:
        return Left(place.name, f"none of its {len(ranked):,} values is more frequent than the others: an identifier")
    plan = FeaturePlan(
        place.name,
        "categorical",
        place.input,
        place.column,
        values=tuple(own),
        other=bool(others),
        others=tuple(others),
        bf16=bf16,
    )
    if least > 1:
        why += f"; {len(ranked) - len(known):,} of its {len(ranked):,} categories are too rare and count as unseen"
    return Made(plan, why, least, sum(least for category in others if counts[category] == least))
