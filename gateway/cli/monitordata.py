"""Files behind `tidegate monitor`: tables of rows, models, references, documents. Every failure is one line."""

import gzip
import hashlib
import importlib
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from gateway.cli.output import Failure
from gateway.monitor import tables
from gateway.monitor.fit import Rows, ScoreAt, columns_text, score_place
from gateway.monitor.reference import Reference, ReferenceRefused, loaded
from gateway.monitor.settings import Monitor, defaults
from gateway.monitor.tables import Table, TableRefused
from router.moments import read_moment
from runtimes.tensors import Array, Signature

if TYPE_CHECKING:
    from gateway.monitor.features import Kind
    from runtimes.execution.session import OnnxSession

_BATCH_ROWS = 4096
_WORDS_TOLD = 6
_END_OF_TIME_MS = 253_402_300_800_000  # the year 10000; Unix milliseconds of today are beyond it
_ENDINGS = ".csv, .csv.gz, .npz or .parquet"


def content_of(path: Path) -> bytes:
    """What a file holds. Raises Failure."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(f"{path}: cannot be read: {error.strerror}", 2) from error


def table_of(path: Path) -> Table:
    """A table from a file, by the end of its name. Raises Failure."""
    name = path.name.lower()
    try:
        if name.endswith(".npz"):
            return tables.from_npz(content_of(path))
        if name.endswith(".parquet"):
            return _parquet(content_of(path))
        if name.endswith(".csv.gz"):
            return tables.from_csv(gzip.decompress(content_of(path)).decode("utf-8-sig"))
        if name.endswith(".csv"):
            return tables.from_csv(content_of(path).decode("utf-8-sig"))
    except (TableRefused, UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise Failure(f"{path}: {error}", 2) from error
    raise Failure(f"{path}: expected a file that ends with {_ENDINGS}", 2)


def _parquet(content: bytes) -> Table:
    try:
        # An optional extra: nothing else of tidegate needs it.
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise Failure("a parquet file needs pyarrow: pip install pyarrow; or convert it to CSV", 2) from None
    try:
        found = parquet.read_table(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise Failure(f"not a parquet file: {str(error)[:200]}", 2) from error
    return Table({name: _arrow_column(found.column(name)) for name in found.column_names})


def _arrow_column(column: Any) -> tables.Column:
    array = column.to_numpy()
    if array.dtype.kind in "fiub":
        return np.asarray(array)
    return ["" if item is None else item.decode() if isinstance(item, bytes) else str(item) for item in array.tolist()]


@dataclass(frozen=True, slots=True)
class Model:
    """A model file, loaded.

    Attributes:
        digest: sha256 of its bytes.
        names: input name -> names of its columns, from model.yaml beside it or above.
    """

    path: Path
    digest: str
    session: "OnnxSession"
    names: Mapping[str, tuple[str, ...]]


def model_of(path: Path) -> Model:
    """A model from its file, its version's folder, or its own folder (then the highest version). Raises Failure."""
    from runtimes.errors import LoadFailed
    from runtimes.execution.session import OnnxSession

    file = _model_file(path)
    digest = hashlib.sha256(content_of(file)).hexdigest()
    try:
        session = OnnxSession(file)
    except LoadFailed as error:
        raise Failure(f"{file}: {error.message}") from error
    return Model(file, digest, session, _feature_names(file))


def _model_file(path: Path) -> Path:
    if path.is_file():
        return path
    versions = sorted((int(one.name), one) for one in path.glob("[0-9]*") if one.name.isdigit())
    for folder in (path, *(one for _, one in reversed(versions))):
        if (folder / "model.onnx").is_file():
            return folder / "model.onnx"
    raise Failure(f"{path}: expected a model file, or a folder with model.onnx or VERSION/model.onnx", 2)


def _feature_names(file: Path) -> Mapping[str, tuple[str, ...]]:
    from runtimes.registry.configfile import read_config
    from runtimes.registry.strictyaml import DocumentError

    for folder in (file.parent, file.parent.parent):
        config = folder / "model.yaml"
        if config.is_file():
            try:
                return read_config(folder.name, config.read_text(), None).config.feature_names
            except (DocumentError, OSError, UnicodeDecodeError) as error:
                raise Failure(f"{config}: {error}", 2) from error
    return {}


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a table that are no features; None = there is none. Those `ignored` are for nothing."""

    score: str | None = None
    label: str | None = None
    group: str | None = None
    time: str | None = None
    ignored: tuple[str, ...] = ()

    @property
    def given(self) -> list[str]:
        """Names that were given."""
        named = [name for name in (self.score, self.label, self.group, self.time) if name is not None]
        return [*named, *self.ignored]


def ignored_of(table: Table, given: Sequence[str] | None) -> tuple[str, ...]:
    """Columns of `--ignore`. Raises Failure: one is not there."""
    for name in given or ():
        if name not in table.columns:
            raise Failure(
                f"--ignore: expected a column, got {name!r}; the data has {', '.join(list(table.columns)[:30])}", 2
            )
    return tuple(given or ())


def no_inputs(table: Table, kinds: "Mapping[str, Kind]", model: Model) -> tuple[str, ...]:
    """Columns that a schema ignores and that are no feature of the model's: they fill no input."""
    features = {name for names in model.names.values() for name in names}
    inputs = tuple(spec.name for spec in model.session.signature.inputs)
    return tuple(
        name
        for name, kind in kinds.items()
        if kind == "ignore"
        and name in table.columns
        and name not in (*features, *inputs)
        and not name.startswith(tuple(f"{one}[" for one in inputs))
    )


def rows_of(
    table: Table,
    signature: Signature,
    names: Mapping[str, Sequence[str]],
    columns: Columns,
    *,
    positive: str,
    groups: Sequence[str],
    model: Model | None,
    place: ScoreAt | None = None,
) -> tuple[Rows, list[str]]:
    """A table as rows of a model, and what there is to say about it.

    Scores come from their column, else from the model; without both the outputs are not known. Raises Failure.
    """
    try:
        inputs, said = tables.tensors(table, signature, names, columns.given)
        labels = None if columns.label is None else tables.labels(table, columns.label, positive)
        said += [] if columns.label is None else _negatives(table, columns.label, positive)
        indices = None if columns.group is None else _indices(tables.words(table, columns.group), groups)
        outputs: list[Array | None] = [None] * len(signature.outputs)
        if columns.score is not None:
            place = place or score_place(signature)
            if place is None:
                raise TableRefused("no output of the model is a score; name one with --output NAME:COLUMN")
            outputs[place.output] = _as_output(signature, place, tables.floats(table, columns.score))
        elif model is not None:
            outputs = list(_answers(model, inputs, table.rows))
    except TableRefused as error:
        raise Failure(str(error), 2) from error
    return Rows(inputs, outputs, indices, labels), said


def _negatives(table: Table, column: str, positive: str) -> list[str]:
    """A note, where several words were taken for the negative class: one may be meant otherwise."""
    found = tables.negatives(table, column, positive)
    if len(found) < 2:
        return []
    shown = ", ".join(f"{word[:20]!r} ({rows:,})" for word, rows in list(found.items())[:_WORDS_TOLD])
    more = f" and {len(found) - _WORDS_TOLD:,} more" if len(found) > _WORDS_TOLD else ""
    return [f"labels that are not {positive!r} count as negative: {shown}{more}"]


def _indices(words: Sequence[str], groups: Sequence[str]) -> npt.NDArray[np.int64]:
    places = {name: at for at, name in enumerate(groups)}
    return np.array([places.get(word, len(groups)) for word in words], np.int64)


def _as_output(signature: Signature, place: ScoreAt, scores: npt.NDArray[np.float64]) -> Array:
    """An output that holds the scores where the model would have them."""
    spec = signature.outputs[place.output]
    typed: Array = scores.astype(spec.datatype.dtype)
    if len(spec.shape) < 2:
        return typed
    array = np.zeros((len(scores), max(place.column, 0) + 1), spec.datatype.dtype)
    array[:, max(place.column, 0)] = typed
    return array


def _answers(model: Model, inputs: Sequence[Array | None], rows: int) -> list[Array]:
    from runtimes.errors import ServingError
    from runtimes.execution.session import RunControl

    if not model.session.signature.batched:
        raise Failure("the model takes no rows that can be told apart; give the answers with --score COLUMN", 2)
    control = RunControl()
    found: list[list[Array]] = []
    for start in range(0, rows, _BATCH_ROWS):
        part = slice(start, start + _BATCH_ROWS)
        try:
            found.append(model.session.run([None if array is None else array[part] for array in inputs], control))
        except ServingError as error:
            raise Failure(f"{model.path}: rows {start:,} to {start + _BATCH_ROWS:,}: {error.message}") from error
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def place_of(signature: Signature, text: str | None) -> ScoreAt | None:
    """Where `--output NAME[:COLUMN]` says that the score is. Raises Failure."""
    if text is None:
        return None
    name, _, column = text.partition(":")
    for at, spec in enumerate(signature.outputs):
        if spec.name == name and (not column or column.isdigit()):
            width = int(np.prod(spec.shape[1:]))
            if column and width > 0 and -1 not in spec.shape[1:] and int(column) >= width:
                raise Failure(f"--output: {name!r} has no column {column}: {columns_text(width)}", 2)
            return ScoreAt(at, int(column) if column else -1 if len(spec.shape) == 1 else 0)
    known = ", ".join(spec.name for spec in signature.outputs)
    raise Failure(f"--output: expected NAME or NAME:COLUMN of {known}, got {text[:80]!r}", 2)


def times_of(table: Table, column: str | None, spacing_ms: float) -> npt.NDArray[np.int64]:
    """When each row was asked, in ms: from a column, else evenly spaced. Raises Failure.

    Args:
        column: ISO 8601, in UTC where no zone is given, or Unix seconds.
    """
    if column is None:
        return (np.arange(table.rows) * spacing_ms).astype(np.int64)
    try:
        texts = tables.words(table, column)
    except TableRefused as error:
        raise Failure(str(error), 2) from error
    times = np.array([_time_ms(text, at, column) for at, text in enumerate(texts)], np.int64)
    if (np.diff(times) < 0).any():
        at = int(np.flatnonzero(np.diff(times) < 0)[0]) + 2
        raise Failure(f"column {column!r}, row {at}: expected rows in the order of time", 2)
    return times


def _time_ms(text: str, at: int, column: str) -> int:
    for read in (float, _iso_s):
        try:
            found = round(read(text) * 1000)
        except (ValueError, OverflowError):  # no such number, or an infinite one
            continue
        if abs(found) < _END_OF_TIME_MS:
            return found
    raise Failure(f"column {column!r}, row {at + 1}: expected ISO 8601 or Unix seconds, got {text[:40]!r}", 2)


def _iso_s(text: str) -> float:
    # The same file means the same on every machine.
    found = read_moment(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def reference_of(path: Path) -> Reference:
    """A reference from its file. Raises Failure."""
    try:
        return loaded(content_of(path))
    except ReferenceRefused as error:
        raise Failure(f"{path}: {error}", 2) from error


def monitor_of(path: Path | None) -> Monitor:
    """A Monitor document from its file; None = the defaults. Raises Failure, with every problem."""
    from gateway.monitordocument import read_monitor

    if path is None:
        return defaults("model")
    try:
        read = read_monitor(content_of(path).decode())
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: not UTF-8", 2) from error
    if read.value is None:
        raise Failure(f"{path}: " + "; ".join(map(str, read.problems)), 3)
    return read.value


def schema_of(path: Path | None) -> "dict[str, Kind]":
    """Feature -> kind of a `--schema` file. Raises Failure."""
    from gateway.monitor.features import Kind
    from runtimes.registry.strictyaml import DocumentError, Mapping, Scalar, parse, suggestion

    if path is None:
        return {}
    try:
        node = parse(content_of(path).decode(), path.name)
    except (DocumentError, UnicodeDecodeError) as error:
        raise Failure(str(error), 2) from error
    if not isinstance(node, Mapping):
        raise Failure(f"{path.name}: expected feature: kind, one per line", 2)
    kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    found: dict[str, Kind] = {}
    for name, value in node.entries.items():
        word = value.text if isinstance(value, Scalar) else "a list or a mapping"
        if word not in kinds:
            raise Failure(f"{path.name}, line {node.lines[name]}: {name}: {suggestion(word, kinds)}", 2)
        found[name] = kinds[word]
    return found
