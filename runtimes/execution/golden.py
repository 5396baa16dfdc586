"""Golden requests: what a version has to answer before it is served. `golden.jsonl` beside the model file.

    {"request": {"inputs": [...]}, "response": {"outputs": [...]}, "rtol": 0.001, "atol": 0.00001}

One line for each, request and answer as the Open Inference Protocol has them in JSON; what else stands in the two is
not looked at, so both can be taken from real ones.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from runtimes.errors import LoadFailed, ServingError
from runtimes.tensors import DATATYPES, Array, Datatype, Signature, bf16_from_f32, f32_from_bf16

FILE_NAME: Final = "golden.jsonl"
STAGE: Final = "golden"
MOST_REQUESTS: Final = 1000
MOST_BYTES: Final = 64 * 1024 * 1024
_MOST_SAID: Final = 300
"""Characters of what is wrong: a name in the file is as long as its author likes, and every worker is told."""
_KINDS: Final = {
    "bytes": (str,),
    "float": (float, int, type(None)),
    "int": (int,),
    "uint": (int,),
    "bool": (bool,),
}
"""What JSON has for each kind of datatype; null is not a number."""
Run = Callable[[Sequence[Array | None]], list[Array]]


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    datatype: str
    data: list[Any]


class _Request(msgspec.Struct, frozen=True):
    inputs: tuple[_Tensor, ...]


class _Response(msgspec.Struct, frozen=True):
    outputs: tuple[_Tensor, ...]


class _Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line. A number agrees within atol + rtol |expected|; everything else has to be equal."""

    request: _Request
    response: _Response
    rtol: float = 1e-3
    atol: float = 1e-5


def check(directory: str | Path, signature: Signature, run: Run) -> int:
    """Ask every golden request; how many there were, 0 = the version has none.

    Raises:
        LoadFailed: stage "golden": an answer is another one, or the file cannot be read. Names line and output.
    """
    lines = _lines(Path(directory) / FILE_NAME)
    for number, line in lines:
        try:
            _ask(_read(line), signature, run)
        except (msgspec.MsgspecError, ServingError, ValueError, OverflowError, TypeError, RecursionError) as error:
            raise LoadFailed(f"{FILE_NAME}, line {number}: {str(error)[:_MOST_SAID]}", stage=STAGE) from error
    return len(lines)


def _lines(path: Path) -> list[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoadFailed(f"{FILE_NAME}: {error.strerror}", stage=STAGE) from error
    found = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(text) > MOST_BYTES or len(found) > MOST_REQUESTS:
        most = f"at most {MOST_REQUESTS:,} requests in {MOST_BYTES // 1024 // 1024} MiB"
        raise LoadFailed(f"{FILE_NAME}: expected {most}", stage=STAGE)
    return found


def _read(line: bytes) -> _Golden:
    """One line. Raises ValueError: it is none, or says one thing twice, of which the last would count in silence."""
    golden = msgspec.json.decode(line, type=_Golden)
    _PAIRS.decode(line.decode())
    for what, tensors in (("input", golden.request.inputs), ("output", golden.response.outputs)):
        twice = _twice([tensor.name for tensor in tensors])
        if twice is not None:
            raise ValueError(f"{what} {twice!r} stands twice")
    return golden


def _twice(names: Sequence[str]) -> str | None:
    """The first name that has stood before; None = each stands once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _once(pairs: list[tuple[str, Any]]) -> None:
    twice = _twice([key for key, _ in pairs])
    if twice is not None:
        raise ValueError(f"key {twice!r} stands twice")


_PAIRS: Final = json.JSONDecoder(object_pairs_hook=_once)


def _ask(golden: _Golden, signature: Signature, run: Run) -> None:
    given = {tensor.name: tensor for tensor in golden.request.inputs}
    unknown = given.keys() - {spec.name for spec in signature.inputs}
    if unknown or not golden.response.outputs:
        raise ValueError(f"the model has no input {min(unknown)!r}" if unknown else "expected an output to compare")
    missing = [spec.name for spec in signature.inputs if spec.name not in given and not spec.optional]
    if missing:
        raise ValueError(f"expected an input {missing[0]!r}")
    answer = run([_array(given.get(spec.name), spec.datatype) for spec in signature.inputs])
    outputs = {spec.name: (spec.datatype, array) for spec, array in zip(signature.outputs, answer, strict=True)}
    for expected in golden.response.outputs:
        if expected.name not in outputs:
            raise ValueError(f"the model has no output {expected.name!r}")
        _compare(expected, *outputs[expected.name], golden)


def _array(tensor: _Tensor | None, datatype: Datatype) -> Array | None:
    """Values of an input or of an expected output. Raises ValueError: they are of another type or shape."""
    if tensor is None:
        return None
    if tensor.datatype != datatype.name:
        raise ValueError(f"{tensor.name!r}: expected {datatype.name}, got {tensor.datatype[:20]}")
    values = list(_flat(tensor.data))
    if len(values) != math.prod(tensor.shape):
        raise ValueError(f"{tensor.name!r}: expected {math.prod(tensor.shape)} values, got {len(values)}")
    found: Array
    kinds = _KINDS[datatype.kind]
    if not all(type(value) in kinds for value in values):
        raise ValueError(f"{tensor.name!r}: expected values of {datatype.name}")
    if datatype.kind == "bytes":
        found = np.array([*(value.encode() for value in values), None], dtype=object)[:-1]
    elif datatype.kind == "float":
        found = _floats(tensor.name, values, datatype)
    else:
        found = np.array(values, datatype.dtype)
    return found.reshape(tensor.shape)


def _floats(name: str, values: list[Any], datatype: Datatype) -> Array:
    """Numbers, NaN for null. Raises ValueError: one is beyond the datatype, where it would be infinity."""
    given = [math.nan if value is None else value for value in values]
    found: Array
    with np.errstate(over="ignore"):
        if datatype is DATATYPES["BF16"]:
            bits = bf16_from_f32(np.array(given, np.float32))
            found, beyond = bits, np.isinf(f32_from_bf16(bits))
        else:
            found = np.array(given, datatype.dtype)
            beyond = np.isinf(found)
    if beyond.any():
        raise ValueError(f"{name!r}: {float(given[int(np.argmax(beyond))]):.6g} is out of range for {datatype.name}")
    return found


def _flat(data: list[Any]) -> Any:
    for value in data:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _compare(expected: _Tensor, datatype: Datatype, array: Array, golden: _Golden) -> None:
    """Raises ValueError: they are not the same."""
    wanted = _array(expected, datatype)
    assert wanted is not None, "it was given"
    if wanted.shape != array.shape:
        raise ValueError(f"output {expected.name!r} has shape {list(array.shape)}, expected {list(wanted.shape)}")
    if datatype.kind != "float":
        same = wanted == array
    else:
        if datatype is DATATYPES["BF16"]:
            wanted, array = f32_from_bf16(wanted.view(np.uint16)), f32_from_bf16(array.view(np.uint16))
        got, known = np.asarray(array, np.float64), np.asarray(wanted, np.float64)
        same = np.isclose(got, known, rtol=golden.rtol, atol=golden.atol, equal_nan=True)
    if not np.all(same):
        first = int(np.flatnonzero(~np.asarray(same).ravel())[0])
        differ = f"{int(np.sum(~np.asarray(same)))} of {array.size} values differ"
        told = f"value {first} is {array.ravel()[first]!s:.40}, expected {wanted.ravel()[first]!s:.40}"
        raise ValueError(f"output {expected.name!r}: {differ}; {told}")
