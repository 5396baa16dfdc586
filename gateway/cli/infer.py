"""`tidegate infer`: one request to a running server, from the command line."""

import json
import random
import sys
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli.client import Url, call, data_url
from gateway.cli.output import Failure, Json, print, print_json, print_table


def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="NAME, NAME:VERSION or NAME@ALIAS.")],
    data: Annotated[
        str | None, typer.Option(help='JSON: nested values, or {"input": values}; "-" reads standard input.')
    ] = None,
    file: Annotated[Path | None, typer.Option(help="The same from a file.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="Random rows when no data is given.")] = 1,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send one inference request and print the answer."""
    path = model_path(data_url(url), model)
    metadata = describe(path)
    if data is not None and file is not None:
        raise Failure("give --data or --file, not both", 2)
    text = _read(file) if file is not None else sys.stdin.read() if data == "-" else data
    inputs = from_values(metadata, _values(text)) if text is not None else random_inputs(metadata, rows)
    started = time.perf_counter()
    answer = call("POST", f"{path}/infer", {"inputs": inputs})
    took_ms = (time.perf_counter() - started) * 1e3
    document = answer.json()
    if as_json:
        print_json(document)
        return
    headers = answer.headers
    print(f"{headers.get('x-tidegate-model')} answered in {took_ms:.1f} ms, request {headers.get('x-request-id')}")
    rows_shown = [(o["name"], o["datatype"], o["shape"], _short(o["data"])) for o in document["outputs"]]
    print_table("outputs", ["output", "datatype", "shape", "data"], rows_shown)


def model_path(base: str, model: str) -> str:
    """URL of a model, version or alias. Raises Failure."""
    from runtimes.registry.names import NameRefused, parse_reference

    try:
        reference = parse_reference(model)
    except NameRefused as error:
        raise Failure(str(error), 2) from error
    if reference.digest:
        raise Failure("a server is asked by version or alias, not by digest", 2)
    selector = reference.version or reference.alias
    path = f"{base}/v2/models/{quote(reference.name)}"
    return f"{path}/versions/{selector}" if selector else path


def describe(path: str) -> dict[str, Any]:
    """A model's metadata, where each input also says whether it is optional. Raises Failure."""
    metadata: dict[str, Any] = call("GET", path).json()
    optional = {item["name"]: item["optional"] for item in call("GET", f"{path}/config").json()["input"]}
    metadata["inputs"] = [spec | {"optional": optional.get(spec["name"], False)} for spec in metadata["inputs"]]
    return metadata


def from_values(metadata: dict[str, Any], values: Any) -> list[dict[str, Any]]:
    """Inputs of a request from plain nested values; optional ones are left out unless named. Raises Failure."""
    named = values if isinstance(values, dict) else None
    if named is None:
        required = [spec["name"] for spec in metadata["inputs"] if not spec["optional"]]
        if len(required) != 1:
            raise Failure(f"the model has several inputs ({', '.join(required)}): give an object with their names", 2)
        named = {required[0]: values}
    specs = {spec["name"]: spec for spec in metadata["inputs"]}
    unknown = [name for name in named if name not in specs]
    if unknown:
        raise Failure(f"the model has no input {unknown[0]!r}; it has {', '.join(specs)}", 2)
    return [
        {"name": name, "datatype": specs[name]["datatype"], "shape": _shape(value, specs[name]), "data": value}
        for name, value in ((name, _with_rows(value, specs[name])) for name, value in named.items())
    ]


def random_inputs(metadata: dict[str, Any], rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random inputs of a model, the required ones: `rows` in the first dynamic dimension, 8 in the others."""
    generator = random.Random(seed)
    found = []
    for spec in metadata["inputs"]:
        if spec["optional"]:
            continue
        shape = [(rows if axis == 0 else 8) if size < 0 else size for axis, size in enumerate(spec["shape"])]
        count = 1
        for size in shape:
            count *= size
        data = [_random(generator, spec["datatype"]) for _ in range(count)]
        found.append({"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "data": data})
    return found


def _random(generator: random.Random, datatype: str) -> Any:
    if datatype == "BOOL":
        return generator.random() < 0.5
    if datatype == "BYTES":
        return generator.choice(["a", "b", "c"])
    return round(generator.gauss(0, 1), 4) if datatype.startswith(("FP", "BF")) else generator.randrange(0, 10)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}", 2) from error


def _values(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure(f"the data is not JSON: {error}", 2) from error


def _with_rows(value: Any, spec: dict[str, Any]) -> Any:
    """A single row given flat is taken as one row, a number alone as the one value of a scalar."""
    if not spec["shape"] and not isinstance(value, list):
        return [value]
    if isinstance(value, list) and len(spec["shape"]) == 2 and value and not isinstance(value[0], list):
        return [value]
    return value


def _shape(value: Any, spec: dict[str, Any]) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape if spec["shape"] else []


def _short(data: list[Any]) -> str:
    text = json.dumps(data[:12])
    return text if len(data) <= 12 else f"{text[:-1]}, ... {len(data)} values]"
