"""`tidegate feedback send`: rewards and labels from a file to a running server."""

import csv
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Annotated, Any, Final, TextIO

import typer

from gateway.cli.client import Refused, Url, call, data_url
from gateway.cli.output import Failure, Json, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
BATCH: Final = 500
_TRIES: Final = 10
_WAIT_S: Final = 2.0
_REFUSED: Final = ("forged", "expired", "unknown_model", "forbidden")


@app.command("send")
def send(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines or CSV; - = standard input.")],
    as_csv: Annotated[bool | None, typer.Option("--csv/--jsonl", help="Its form; default: by the name's end.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send feedback, one item per line; sending a file again changes nothing.

    JSON lines: {"prediction_id": "...", "reward": {"NAME": 1}, "label": "good", "timestamp": 1767225600}.
    CSV: columns prediction_id, label, timestamp, model and reward.NAME; what looks like a number, true or false is one.
    """
    form = file.endswith(".csv") if as_csv is None else as_csv
    counts: dict[str, int] = {}
    try:
        with opened(file) as stream:
            for batch in _batches(_csv_items(stream) if form else _json_items(stream)):
                for kind, count in _sent(f"{data_url(url)}/v1/feedback", batch).items():
                    counts[kind] = counts.get(kind, 0) + count
    except UnicodeDecodeError as error:
        raise Failure(f"{file}: not UTF-8; the batches before that are kept", 2) from error
    if as_json:
        print_json(counts)
    else:
        print_table("feedback", ["outcome", "items"], sorted(counts.items()))
    refused = sum(counts.get(kind, 0) for kind in _REFUSED)
    if refused:
        alone = "; `model` tells models with the same bytes apart" if counts.keys() == {"unknown_model"} else ""
        raise Failure(f"{refused:,} of {sum(counts.values()):,} items were not kept{alone}")


def opened(file: str) -> Any:
    """A text file to read, or standard input for `-`; a context. Raises Failure."""
    if file == "-":
        return nullcontext(sys.stdin)
    try:
        return open(file, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", 2) from error


def _json_items(stream: TextIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise Failure(f"line {number}: not JSON; the batches before it are kept") from error
        yield _checked(item, number)


def _csv_items(stream: TextIO) -> Iterator[dict[str, Any]]:
    rows = csv.DictReader(stream)
    for row in _rows(rows):
        item: dict[str, Any] = {}
        for column, text in row.items():
            if column is None or text is None:
                raise Failure(f"line {rows.line_num}: expected {len(rows.fieldnames or ())} columns")
            if text == "":
                continue
            if column.startswith("reward."):
                item.setdefault("reward", {})[column.removeprefix("reward.")] = _scalar(text)
            else:
                item[column] = text if column in ("prediction_id", "model") else _scalar(text)
        yield _checked(item, rows.line_num)


def _rows(rows: "csv.DictReader[str]") -> Iterator[dict[str, Any]]:
    try:
        named = rows.fieldnames
        if named and "prediction_id" not in named:
            found = ", ".join(named)[:80]
            raise Failure(f"line 1: expected a header with prediction_id and label or reward.NAME, got {found!r}", 2)
        yield from rows
    except csv.Error as error:
        raise Failure(f"line {rows.line_num + 1}: {error}; the batches before it are kept") from error


def _scalar(text: str) -> Any:
    """A number, true or false as JSON writes them, else the text itself: NO is a country."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text


def _checked(item: Any, number: int) -> dict[str, Any]:
    from gateway.feedback import item_of
    from runtimes.errors import InvalidInput

    try:
        item_of(item)
    except InvalidInput as error:
        raise Failure(f"line {number}: {error.message.removeprefix(': ')}; the batches before it are kept") from error
    assert isinstance(item, dict), "checked"
    return item


def _batches(items: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _sent(url: str, batch: list[dict[str, Any]]) -> dict[str, int]:
    """Send a batch; while control or the store is away it is sent again."""
    for attempt in range(1, _TRIES + 1):
        try:
            counts: dict[str, int] = call("POST", url, batch).json()["counts"]
            return counts
        except Refused as error:
            if error.status not in (429, 503) or attempt == _TRIES:
                raise
        threading.Event().wait(_WAIT_S)
    raise AssertionError("the last attempt returns or raises")
