"""Tables of rows, as data scientists keep them, into a model's tensors. Pure: bytes in, arrays out.

A table is columns by name: texts as a CSV file has them, or arrays of a numpy archive. Which column belongs to which
input is found by name, then by the names in the model's config; what is left over fills a single wide input in the
order of the file. Empty texts are missing: NaN for floats, empty for BYTES.
"""

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gateway.monitor.labelwords import label_of, meaning
from runtimes.tensors import Array, Signature, TensorSpec, bf16_from_f32

_WORDS: Final = {"true": "1", "false": "0"}
Column = list[str] | Array


class TableRefused(ValueError):
    """A table that cannot be read or does not fit the model. Expected versus got, with the column."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length.

    Attributes:
        columns: name -> texts, or an array [rows] or [rows, ...].
    """

    columns: Mapping[str, Column]

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise TableRefused(f"expected columns of one length, got {lengths}")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), ()))


def from_csv(text: str) -> Table:
    """A table of comma-separated values whose first line names the columns (RFC 4180).

    Raises:
        TableRefused: no header, no row, a name twice, or a line with another number of values.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        names = next(reader, [])
        if not any(names) or len(set(names)) != len(names):
            raise TableRefused("expected a first line that names the columns, each once")
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise TableRefused(f"line {reader.line_num}: {error}") from error
    if not lines:
        raise TableRefused("expected rows after the line that names the columns, got none")
    for at, line in enumerate(lines):
        if len(line) != len(names):
            raise TableRefused(f"row {at + 1}: expected {len(names)} values, got {len(line)}")
    return Table({name: list(column) for name, column in zip(names, zip(*lines, strict=True), strict=True)})


def from_npz(content: bytes) -> Table:
    """A table of a numpy archive without pickled objects: arrays of columns, or of whole inputs.

    Raises:
        TableRefused: not such an archive.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TableRefused("not a numpy archive (.npz) without pickled objects") from error
    flat = [name for name, array in found.items() if not array.ndim]
    if flat:
        raise TableRefused(f"expected arrays of rows, got {flat[0]!r} with a single value")
    return Table(found)


def tensors(
    table: Table, signature: Signature, names: Mapping[str, Sequence[str]], others: Sequence[str] = ()
) -> tuple[list[Array | None], list[str]]:
    """A table's rows as the model's inputs.

    Args:
        names: input name -> names of its columns, as in the model's config.
        others: columns that are no features: score, label, group.

    Returns:
        [rows, ...] of each input, None for an optional one without a column; and what there is to say about it.

    Raises:
        TableRefused
    """
    found: list[Array | None] = []
    said: list[str] = []
    used = set(others)
    single = sum(not spec.optional for spec in signature.inputs) == 1
    for spec in signature.inputs:
        wanted = [spec.name] if spec.name in table.columns else list(names.get(spec.name, ()))
        if not wanted and single and not spec.optional:
            wanted = [name for name in table.columns if name not in used]
            _refuse_too_many(spec, table, wanted)
            said.append(f"input {spec.name!r} is filled from the columns in their order: {', '.join(wanted)}")
        missing = [name for name in wanted if name not in table.columns]
        if missing or not wanted:
            if spec.optional and not wanted:
                found.append(None)
                continue
            raise TableRefused(_missing(spec, missing, table))
        found.append(_input(spec, [table.columns[name] for name in wanted], wanted))
        used |= set(wanted)
    unused = [name for name in table.columns if name not in used]
    if unused:
        said.append(f"columns that are no input: {', '.join(unused)}")
    return found, said


def _refuse_too_many(spec: TensorSpec, table: Table, wanted: Sequence[str]) -> None:
    """Which of the columns are no input, nobody has said."""
    width = int(np.prod(spec.shape[1:]))
    got = sum(int(np.prod(np.shape(table.columns[name])[1:])) for name in wanted)
    if min(spec.shape[1:], default=1) > 0 and got > width:
        raise TableRefused(
            f"input {spec.name!r}: expected {width} columns, got {got}: {', '.join(wanted[:30])}; name those that are "
            "no input by --ignore COLUMN, or those that are by feature_names in the model's config"
        )


def _missing(spec: TensorSpec, missing: Sequence[str], table: Table) -> str:
    there = ", ".join(list(table.columns)[:30])
    what = f"column {missing[0]!r}" if missing else "a column of its name, or feature_names in the model's config"
    return f"input {spec.name!r}: expected {what}; the data has {there}"


def _input(spec: TensorSpec, columns: Sequence[Column], wanted: Sequence[str]) -> Array:
    """Columns side by side in the input's datatype and rank."""
    arrays = [_typed(spec, column, name) for column, name in zip(columns, wanted, strict=True)]
    if len(arrays) == 1 and arrays[0].ndim == len(spec.shape):
        joined = arrays[0]
    else:
        joined = np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)
    if len(spec.shape) == 1 and joined.shape[1:] == (1,):
        joined = joined[:, 0]
    expected = spec.shape[1:]
    fits = len(joined.shape) == len(spec.shape) and all(
        size in (-1, got) for size, got in zip(expected, joined.shape[1:], strict=True)
    )
    if not fits:
        raise TableRefused(
            f"input {spec.name!r}: expected rows of shape {list(expected)}, got {list(joined.shape[1:])} "
            f"from {', '.join(list(wanted)[:30])}"
        )
    return joined


def _typed(spec: TensorSpec, column: Column, name: str) -> Array:
    """A column in an input's datatype."""
    kind = spec.datatype.kind
    if kind == "bytes":
        return _as_bytes(column)
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
        return _narrowed(spec, np.asarray(column), name)
    texts = column.ravel().tolist() if isinstance(column, np.ndarray) else column
    flat = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in texts]
    return _narrowed(spec, _numbers(flat, name), name)


def _as_bytes(column: Column) -> Array:
    texts = column.ravel().tolist() if isinstance(column, np.ndarray) else column
    found = np.empty(len(texts), object)
    found[:] = [item if isinstance(item, bytes) else str(item).encode() for item in texts]
    return found.reshape(column.shape) if isinstance(column, np.ndarray) else found


def _numbers(texts: Sequence[str], name: str) -> npt.NDArray[Any]:
    """Numbers of texts: whole ones exactly, where all are; true and false are 1 and 0; empty is NaN."""
    try:
        return np.array([int(text) for text in texts], np.int64)
    except (ValueError, OverflowError):
        pass
    found = np.empty(len(texts), np.float64)
    for at, text in enumerate(texts):
        try:
            found[at] = float(_WORDS.get(text.strip().lower(), text)) if text.strip() else np.nan
        except ValueError:
            raise TableRefused(
                f"column {name!r}, row {at + 1}: expected a number, got {text[:40]!r}; "
                "texts need an input of datatype BYTES, or numbers in their place"
            ) from None
    return found


def _narrowed(spec: TensorSpec, values: npt.NDArray[Any], name: str) -> Array:
    datatype = spec.datatype
    if datatype.name == "BF16":
        return bf16_from_f32(values.astype(np.float32))
    with np.errstate(all="ignore"):
        narrow: Array = values.astype(datatype.dtype)
    if datatype.kind != "float" and not np.array_equal(narrow, values):
        at = int(np.flatnonzero((narrow != values).ravel())[0])
        raise TableRefused(f"column {name!r}, row {at + 1}: expected {datatype.name}, got {values.ravel()[at]}")
    return narrow


def floats(table: Table, name: str) -> npt.NDArray[np.float64]:
    """A column of numbers [rows]; empty is NaN. Raises TableRefused: it is not there, or no number."""
    column = _there(table, name)
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
        return column.reshape(len(column), -1)[:, -1].astype(np.float64)
    return _numbers([str(item) for item in column], name).astype(np.float64)


def labels(table: Table, name: str, positive: str) -> npt.NDArray[np.float64]:
    """A column of labels [rows]: 1 where it is `positive`, NaN where it says nothing, 0 elsewhere."""
    texts = words(table, name)
    read = {word: label_of(word, positive) for word in set(texts)}
    return np.array([read[text] for text in texts], np.float64)


def negatives(table: Table, name: str, positive: str) -> dict[str, int]:
    """Words of a column of labels that are the negative class, with their rows, the most frequent first.

    Those that mean the same stand together, under the most frequent of them.
    """
    shown: dict[object, str] = {}
    counts: Counter[str] = Counter()
    for word, count in Counter(words(table, name)).most_common():
        if label_of(word, positive) == 0:
            counts[shown.setdefault(meaning(word), word.strip())] += count
    return dict(counts.most_common())


def words(table: Table, name: str) -> list[str]:
    """A column as texts [rows]. Raises TableRefused: it is not there."""
    column = _there(table, name)
    items = column.reshape(len(column), -1)[:, 0].tolist() if isinstance(column, np.ndarray) else column
    return [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in items]


def _there(table: Table, name: str) -> Column:
    if name not in table.columns:
        raise TableRefused(f"expected a column {name!r}; the data has {', '.join(list(table.columns)[:30])}")
    return table.columns[name]
