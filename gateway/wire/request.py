"""A decoded inference request, the bounds on one, and the checks that every encoding shares. Pure.

Every message says what was expected and what came; names from the caller are cut and escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from runtimes.errors import InvalidInput
from runtimes.tensors import DATATYPES, DYNAMIC, Array, Signature, TensorSpec
from runtimes.wide import Wide


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request, each per request.

    Attributes:
        json_depth: nesting of brackets and braces.
        json_containers: number of them.
        inputs: tensors in a request.
        rank: dimensions of a tensor.
        elements: values of a tensor.
        string_bytes: one element of a BYTES tensor.
        id_chars: length of `id`.
    """

    json_depth: int = 32
    json_containers: int = 65_536
    inputs: int = 64
    rank: int = 8
    elements: int = 16_777_216
    string_bytes: int = 1024 * 1024
    id_chars: int = 1024


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output that the caller asked for.

    Attributes:
        index: in the signature's outputs.
        binary: behind the JSON, not in it.
        classification: give the `classification` largest values as "value:index"; 0 = give the tensor.
    """

    index: int
    binary: bool
    classification: int = 0


class InferRequest:
    """What a body said.

    Attributes:
        id: "" when absent.
        inputs: in the signature's order; see `runtimes.batching.job.Job.inputs`.
        rows: dim 0 where the model is batched, else 1.
        outputs: None = all of them.
        binary_default: outputs that do not say otherwise go behind the JSON.
        timeout_us: 0 = none given.
        priority: 0 = none given.
        plain: the answer is all outputs as JSON, without an id.
    """

    # Class attributes, as in `Job`: most requests say nothing else.
    id: str = ""
    outputs: tuple[RequestedOutput, ...] | None = None
    binary_default: bool = False
    timeout_us: int = 0
    priority: int = 0
    plain: bool = True

    def __init__(self, inputs: Sequence[Array | Wide | None], rows: int) -> None:
        self.inputs = inputs
        self.rows = rows


def shown(text: object) -> str:
    """A caller's value in a message: escaped, at most 80 characters of it."""
    if isinstance(text, str):
        return repr(text[:80])
    if text is None or isinstance(text, bool | float) or (isinstance(text, int) and abs(text) < 1 << 64):
        return {None: "null", True: "true", False: "false"}.get(text, repr(text))  # type: ignore[arg-type]
    return {dict: "an object", list: "a list", int: "a very large number"}.get(type(text), "something else")


def find_spec(specs: Sequence[TensorSpec], name: object, kind: str) -> int:
    """Index of the tensor called `name`.

    Raises:
        InvalidInput: it is no name, or the model has none so called.
    """
    for index, spec in enumerate(specs):
        if spec.name == name:
            return index
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{kind} name: expected a text, got {shown(name)}")
    known = ", ".join(repr(spec.name) for spec in specs[:20])
    raise InvalidInput(f"unknown {kind} {shown(name)}; the model's are {known}")


def check_datatype(spec: TensorSpec, given: object) -> None:
    """Raises InvalidInput unless `given` is the model's datatype."""
    if given == spec.datatype.name:
        return
    known = "" if given in tuple(DATATYPES) else "; datatypes are " + ", ".join(DATATYPES)
    raise InvalidInput(f"input {spec.name!r}: expected datatype {spec.datatype.name}, got {shown(given)}{known}")


def check_shape(spec: TensorSpec, given: object, limits: Limits) -> tuple[int, ...]:
    """The shape of an input as the caller states it; its product is at most `limits.elements`.

    Raises:
        InvalidInput: no list of sizes, another rank, a size the model does not take, or too many elements.
    """
    if not isinstance(given, list) or not all(type(size) is int for size in given):
        wrong = next((size for size in given if type(size) is not int), given) if isinstance(given, list) else given
        raise InvalidInput(f"input {spec.name!r}: shape: expected a list of whole numbers, got {shown(wrong)}")
    if len(given) > limits.rank:
        raise InvalidInput(f"input {spec.name!r}: {len(given)} dimensions, at most {limits.rank} are read")
    fits = len(given) == len(spec.shape) and all(
        size == wanted or (wanted == DYNAMIC and size >= 0) for size, wanted in zip(given, spec.shape, strict=True)
    )
    cut = [size if abs(size) < 1 << 64 else "..." for size in given]
    if not fits:
        raise InvalidInput(f"input {spec.name!r}: expected shape {list(spec.shape)}, got {cut}")
    if prod(given) > limits.elements or max(given, default=0) > limits.elements:
        raise InvalidInput(f"input {spec.name!r}: expected at most {limits.elements} elements, got shape {cut}")
    return tuple(given)


def rows_of(signature: Signature, shapes: Sequence[tuple[int, ...] | None]) -> int:
    """Rows of a request: dim 0, on which all required inputs have to agree; 1 for a model that is not batched.

    Raises:
        InvalidInput: they disagree, or one that is not optional is missing.
    """
    rows: int | None = None
    for spec, shape in zip(signature.inputs, shapes, strict=True):
        if shape is None:
            if not spec.optional:
                raise InvalidInput(f"input {spec.name!r} is missing")
        elif signature.batched and not spec.optional:
            if rows is not None and shape[0] != rows:
                raise InvalidInput(f"input {spec.name!r}: {shape[0]} rows, but others have {rows}")
            rows = shape[0]
    return 1 if rows is None else rows


def check_strings(spec: TensorSpec, values: Sequence[bytes], limits: Limits) -> None:
    """Raises InvalidInput when an element of a BYTES tensor is too long."""
    longest = max(map(len, values), default=0)
    if longest > limits.string_bytes:
        raise InvalidInput(
            f"input {spec.name!r}: an element of {longest} bytes, at most {limits.string_bytes} are read"
        )


def read_parameters(request: InferRequest, parameters: Mapping[str, object]) -> None:
    """Act on a request's parameters; unknown ones are the caller's own business.

    Raises:
        InvalidInput: a reserved one has a wrong value, or asks for what is not offered here.
    """
    for name, value in parameters.items():
        if name == "timeout":
            request.timeout_us = _whole(name, value, 1 << 53)
        elif name == "priority":
            request.priority = _whole(name, value, 1 << 31)
        elif name == "binary_data_output":
            request.binary_default = _flag(name, value)
        elif name.startswith("sequence_"):
            raise InvalidInput(f"parameter {name!r}: sequences are not supported")
        elif name.startswith("triton_"):
            raise InvalidInput(f"parameter {shown(name)}: names beginning with triton_ are reserved")
        elif isinstance(value, dict | list):
            raise InvalidInput(f"parameter {shown(name)}: expected a text, number or bool, got {shown(value)}")


def read_outputs(signature: Signature, asked: object, binary_default: bool) -> tuple[RequestedOutput, ...] | None:
    """The outputs asked for; None = all.

    Raises:
        InvalidInput: no list, unknown or repeated names, or a wrong parameter.
    """
    if not isinstance(asked, list):
        raise InvalidInput(f"outputs: expected a list, got {shown(asked)}")
    if len(asked) > len(signature.outputs):
        raise InvalidInput(f"{len(asked)} outputs are asked for, the model has {len(signature.outputs)}")
    found = [_read_output(signature, item, binary_default) for item in asked]
    if len({output.index for output in found}) != len(found):
        raise InvalidInput("outputs: one is asked for twice")
    return tuple(found) or None


def _read_output(signature: Signature, item: object, binary_default: bool) -> RequestedOutput:
    if not isinstance(item, dict):
        raise InvalidInput(f"outputs: expected an object, got {shown(item)}")
    index = find_spec(signature.outputs, item.get("name"), "output")
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInput(f"output parameters: expected an object, got {shown(parameters)}")
    if "shared_memory_region" in parameters:
        raise InvalidInput("shared memory is not supported")
    binary = _flag("binary_data", parameters.get("binary_data", binary_default))
    classes = _whole("classification", parameters.get("classification", 0), 1 << 31)
    if classes and signature.outputs[index].datatype.kind == "bytes":
        raise InvalidInput(f"output {signature.outputs[index].name!r} holds text: no classification")
    return RequestedOutput(index, binary, classes)


def _whole(name: str, value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise InvalidInput(f"parameter {name!r}: expected a whole number from 0 to {limit - 1}, got {shown(value)}")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter {name!r}: expected true or false, got {shown(value)}")
    return value
