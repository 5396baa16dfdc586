"""The reference of a model version: its plan, the counts of its rows, and which model it belongs to.

`reference.npz` is a numpy archive without pickled objects (it is always read with `allow_pickle=False`):

    format             [] int64: FORMAT
    about              [n] uint8: JSON of id, plan, binding, origin, overdispersion (`_About`)
    counts             [plan.size] int64: the rows of the reference, as the plan counts them
    labels             [groups, decisions, score bins, 2] int64: rows with a label 0 or 1; absent without labels
    multivariate       [n] uint8: JSON of `Multivariate`; absent where there is none, as in files of before

The id is the first 16 digits of the sha256 of all that; a file whose content does not give its id is refused.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal

import msgspec
import numpy as np

from gateway.monitor import multivariate
from gateway.monitor.counting import Counts
from gateway.monitor.multivariate import Multivariate
from gateway.monitor.plan import ROWS, SCORE_BINS, CountPlan, FeaturePlan
from runtimes.tensors import DATATYPES, Signature, TensorSpec

FORMAT: Final = 1
FILE_NAME: Final = "reference.npz"
MAX_FEATURES: Final = 1000
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of a file once unpacked: 1000 features with 10,000 categories of ten letters each are more than that."""
MAX_PLAN_SIZE: Final = 1_000_000
Origin = Literal["fit", "first", "previous", "champion"]


class ReferenceRefused(ValueError):
    """A reference that cannot be used: not one, damaged, or of another model. Expected versus got."""


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """Name, datatype and shape of an input or output; -1 = free. An optional input may be left out."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}{list(self.shape)}"


class Binding(msgspec.Struct, frozen=True):
    """Which model a reference was made for.

    Attributes:
        digest: sha256 of the model file's bytes, hexadecimal.
        names: input name -> names of its columns, as the model's config had them.
    """

    digest: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    names: dict[str, tuple[str, ...]] = {}

    @property
    def signature(self) -> Signature:
        """What the model takes and gives. Raises ReferenceRefused: a datatype that there is not."""
        return Signature(specs_of(self.inputs), specs_of(self.outputs), batched=True)


def binding_of(digest: str, signature: Signature, names: Mapping[str, Sequence[str]]) -> Binding:
    """The binding to a model. Args: digest of its file; what it takes and gives; names of columns."""
    kept = {name: tuple(columns) for name, columns in names.items()}
    return Binding(digest, tensors_of(signature.inputs), tensors_of(signature.outputs), kept)


def tensors_of(specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    """Specifications as plain values."""
    return tuple(Tensor(spec.name, spec.datatype.name, spec.shape, spec.optional) for spec in specs)


def specs_of(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    """What `tensors_of` was given. Raises ReferenceRefused: a datatype that there is not."""
    unknown = [one.datatype for one in tensors if one.datatype not in DATATYPES]
    if unknown:
        raise ReferenceRefused(f"damaged: there is no datatype {unknown[0][:20]!r}")
    return tuple(TensorSpec(one.name, DATATYPES[one.datatype], one.shape, one.optional) for one in tensors)


@dataclass(frozen=True, eq=False)
class Reference:
    """What windows are compared with.

    Attributes:
        counts: [plan.size] of the reference's rows, scores and calibrated sums included.
        overdispersion: per feature of the plan, at least 1: how much more spans of the reference vary than chance.
        score_overdispersion: the same of the score's bins.
        origin: "fit" offline; "first" = of the first rows served, provisional; "previous" window; "champion".
        labels: counts [group, decision, score bin, label]; None without labels.
        multivariate: of the features together; None = nothing is known of that.
    """

    plan: CountPlan
    counts: Counts
    binding: Binding
    origin: Origin = "fit"
    overdispersion: tuple[float, ...] = ()
    score_overdispersion: float = 1.0
    labels: Counts | None = None
    multivariate: Multivariate | None = None

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return self.plan.id

    @property
    def rows(self) -> int:
        """Rows that were counted."""
        return int(self.counts[ROWS])

    @property
    def provisional(self) -> bool:
        """Not made from data that somebody chose: what it calls normal may not be."""
        return self.origin != "fit"

    def phi(self, index: int) -> float:
        """Overdispersion of one feature."""
        return self.overdispersion[index] if self.overdispersion else 1.0

    def with_counts(self, counts: Counts, origin: Origin) -> "Reference":
        """The same plan with other rows: of a window before, or of another variant in the same window.

        Nothing is known of labels and of how such rows vary.
        """
        assert counts.shape == (self.plan.size,), "counts of the same plan"
        return replace(
            self, counts=counts, origin=origin, labels=None, overdispersion=(), score_overdispersion=1.0
        )  # fmt: skip


def without_score(reference: Reference) -> Reference:
    """The same without its score, for rows whose answers are not known. It gets another id."""
    plan = msgspec.structs.replace(reference.plan, score=None)
    return identified(replace(reference, plan=plan, counts=reference.counts[: plan.size], labels=None))


class _About(msgspec.Struct, frozen=True):
    id: str
    plan: CountPlan
    binding: Binding
    origin: Origin
    overdispersion: tuple[float, ...]
    score_overdispersion: float


def identified(reference: Reference) -> Reference:
    """The same with the id of its content in its plan."""
    return replace(reference, plan=msgspec.structs.replace(reference.plan, id=_id(reference)))


def _id(reference: Reference) -> str:
    labels = b"" if reference.labels is None else reference.labels.astype("<i8").tobytes()
    together = b"" if reference.multivariate is None else msgspec.json.encode(reference.multivariate)
    content = _about(reference, "") + reference.counts.astype("<i8").tobytes() + labels + together
    return hashlib.sha256(content).hexdigest()[:16]


def _about(reference: Reference, id_: str) -> bytes:
    plan = msgspec.structs.replace(reference.plan, id=id_)
    about = _About(
        id_, plan, reference.binding, reference.origin, reference.overdispersion, reference.score_overdispersion
    )
    plain = msgspec.to_builtins(about)
    if plan.multivariate is None:
        # As files of before have it: their ids are of these bytes.
        plain["plan"].pop()
    return msgspec.json.encode(plain)


def dumped(reference: Reference) -> bytes:
    """The content of a `reference.npz`. Equal references give equal bytes."""
    arrays = {
        "format": np.int64(FORMAT),
        "about": np.frombuffer(_about(reference, reference.id), np.uint8),
        "counts": reference.counts,
    }
    if reference.labels is not None:
        arrays["labels"] = reference.labels
    if reference.multivariate is not None:
        arrays["multivariate"] = np.frombuffer(msgspec.json.encode(reference.multivariate), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]  # its stub lacks the flag
    return buffer.getvalue()


def loaded(content: bytes) -> Reference:
    """Read a `reference.npz`.

    Raises:
        ReferenceRefused: not one, of another format, damaged, or beyond a bound.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_BYTES:
            raise ReferenceRefused(f"expected at most {MAX_BYTES:,} bytes once unpacked, got {unpacked:,}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except ReferenceRefused:
        raise
    except Exception as error:
        # A damaged header is read as Python, and may end in any error that tokens, numbers and memory can cause.
        raise ReferenceRefused("not a numpy archive without pickled objects") from error
    version = found.get("format")
    if version is None or version.ndim or version.dtype.kind != "i":
        raise ReferenceRefused("not a reference: it has no format number")
    if int(version) != FORMAT:
        raise ReferenceRefused(f"expected format {FORMAT}, got {int(version)}: made by another version of tidegate")
    return _assembled(found)


def _assembled(arrays: dict[str, np.ndarray]) -> Reference:
    try:
        about = msgspec.json.decode(arrays["about"].tobytes(), type=_About)
        together = arrays.get("multivariate")
        found = None if together is None else msgspec.json.decode(together.tobytes(), type=Multivariate)
    except KeyError as error:
        raise ReferenceRefused("damaged: what it is about is missing") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, AssertionError) as error:
        raise ReferenceRefused(f"damaged: {str(error)[:200]}") from error
    wrong = next(_plan_problems(about.plan, about.binding), "")
    if not wrong and found is not None:
        wrong = next(multivariate.problems(found, about.plan), "")
    if wrong:
        raise ReferenceRefused(f"damaged: {wrong}")
    plan = about.plan
    counts = _counts(arrays, "counts", (plan.size,))
    labels = _counts(arrays, "labels", (plan.group_count, 2, SCORE_BINS, 2)) if "labels" in arrays else None
    if len(about.overdispersion) not in (0, len(plan.features)):
        raise ReferenceRefused("damaged: expected an overdispersion for each feature")
    reference = Reference(
        plan, counts, about.binding, about.origin, about.overdispersion, about.score_overdispersion, labels, found
    )
    if not about.id == plan.id == _id(reference):
        raise ReferenceRefused("damaged: the content does not give its id")
    return reference


def _counts(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> Counts:
    array = arrays.get(name)
    if array is None or array.dtype != np.int64 or array.shape != shape:
        got = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
        raise ReferenceRefused(f"damaged: expected {name} as int64{list(shape)}, got {got}")
    if array.size and array.min() < 0:
        raise ReferenceRefused(f"damaged: {name} below 0")
    return array


def _plan_problems(plan: CountPlan, binding: Binding) -> Iterator[str]:
    """What in a plan cannot be, first things first."""
    if len(plan.features) > MAX_FEATURES:
        yield f"expected at most {MAX_FEATURES:,} features, got {len(plan.features):,}"
    if plan.size > MAX_PLAN_SIZE:
        yield f"expected at most {MAX_PLAN_SIZE:,} counts, got {plan.size:,}"
    if plan.multivariate is not None:
        yield "what is made of features is kept beside the plan"
    for feature in plan.features:
        if not 0 <= feature.input < len(binding.inputs) or feature.column < -1:
            yield f"feature {feature.name[:64]!r} is of an input that the model does not have"
        yield from _feature_problems(feature)
    if plan.score is not None:
        if not 0 <= plan.score.output < len(binding.outputs) or plan.score.column < -1:
            yield "the score is of an output that the model does not have"
        if plan.score.kind == "value":
            yield from _edge_problems("the score", plan.score.edges)
        points = plan.score.calibration
        if any(not (a[0] < b[0] and a[1] <= b[1]) for a, b in pairwise(points)) or any(
            not 0 <= p <= 1 for _, p in points
        ):
            yield "a calibration rises"


def _feature_problems(feature: FeaturePlan) -> Iterator[str]:
    name = f"feature {feature.name[:64]!r}"
    if feature.kind == "multivariate":
        yield f"{name} is made of others, and not kept"
    elif feature.kind in ("numeric", "text"):
        yield from _edge_problems(name, feature.edges)
    elif feature.edges or len(set(feature.values)) != len(feature.values):
        yield f"{name} has categories, each once"
    elif len({type(value) for value in (*feature.values, *feature.others)}) > 1:
        yield f"{name} mixes text and numbers"
    elif not all(np.isfinite(value) for value in (*feature.values, *feature.others) if isinstance(value, float)):
        yield f"{name} has a category that is not finite"
    elif bool(feature.others) != feature.other:
        yield f"{name} has a bin for other categories, or none of them"


def _edge_problems(name: str, edges: Sequence[float]) -> Iterator[str]:
    if len(edges) < 2 or not np.isfinite(edges).all():
        yield f"{name} has at least two finite edges"
    elif not all(low < high for low, high in pairwise(edges)):
        yield f"{name} has ascending edges"


def refuse_other_signature(reference: Reference, signature: Signature, digest: str = "") -> None:
    """Check that a reference belongs to a model.

    Args:
        digest: sha256 of the model file; "" = only the signature is looked at.

    Raises:
        ReferenceRefused: naming the first thing that differs, expected versus got.
    """
    binding = reference.binding
    for role, expected, got in (
        ("input", binding.inputs, tensors_of(signature.inputs)),
        ("output", binding.outputs, tensors_of(signature.outputs)),
    ):
        if len(expected) != len(got):
            wanted, found = ", ".join(map(str, expected)), ", ".join(map(str, got))
            raise ReferenceRefused(f"the reference expects the {role}s {wanted}; the model has {found}")
        for at, (one, other) in enumerate(zip(expected, got, strict=True)):
            if one != other:
                raise ReferenceRefused(f"the reference expects {role} {at} to be {one}; the model has {other}")
    if digest and digest != binding.digest:
        raise ReferenceRefused(
            f"the reference was made for the model with sha256 {binding.digest[:12]}..., this one has {digest[:12]}...;"
            " make one for it: tidegate monitor fit"
        )
