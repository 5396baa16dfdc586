"""Requests that a shadow answered otherwise, on their way to control. Only where a policy asks for samples.

The one place beside the monitor's first rows where inputs leave a request: bounded in count, bytes and rate, kept in
memory until control has taken them, never written. What finds no room is skipped and counted: nobody waits for it.
"""

import logging
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from gateway.exchange import Exchange
from runtimes.batching.gather import gather
from runtimes.errors import ServingError
from runtimes.tensors import Array, Signature, TensorSpec

MOST_ROWS: Final = 16
"""Of one request; the first that differ."""
MOST_BYTES: Final = 64 * 1024
"""Of one sample: inputs and both answers. Fewer rows are kept where all do not fit."""
MOST_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""A larger request is not looked at: to find its rows would hold up those of callers."""
MOST_WAITING: Final = 32
"""Of a worker, 2 MiB: they are sent four times a second."""
TENSOR_BYTES: Final = 300
TEXT_BYTES: Final = 40
"""What each takes beside its data, roughly."""
PER_S: Final = 5.0
BURST: Final = 20.0
"""Of one policy on one worker."""
_log: Final = logging.getLogger(__name__)


class SampledTensor(msgspec.Struct, frozen=True, array_like=True):
    """Some rows of a tensor.

    Attributes:
        data: numbers as they are in memory, or texts.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | list[bytes]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """A request that was answered, and what the shadow says of it.

    Attributes:
        unit: keyed hash of its unit.
        why: `argmax`, `tolerance`, `topk`, as far as they differ, or `failed`.
        error: why it failed in the shadow; "" = it did not.
        rows: of the request.
        kept: those of them that stand here.
        shadow: () where it failed.
    """

    time_ms: int
    policy: str
    revision: int
    variant: str
    request: str
    unit: int
    why: tuple[str, ...]
    error: str
    rows: int
    kept: tuple[int, ...]
    inputs: tuple[SampledTensor, ...]
    answered: tuple[SampledTensor, ...]
    shadow: tuple[SampledTensor, ...]

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, roughly."""
        return len(self.error) + sum(map(_bytes_of, (*self.inputs, *self.answered, *self.shadow)))


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What a worker sends.

    Attributes:
        skipped: policy -> others that found no room, since the last part.
    """

    samples: tuple[Sample, ...]
    skipped: dict[str, int]


class Outbox:
    """What one worker has not sent yet.

    Attributes:
        sending: somebody takes parts.
    """

    def __init__(self) -> None:
        self.sending = False
        self._waiting: list[Sample] = []
        self._skipped: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self._skipped)

    @property
    def full(self) -> bool:
        """There is no room for another."""
        return len(self._waiting) >= MOST_WAITING

    def add(self, sample: Sample) -> None:
        """Have it sent."""
        self._waiting.append(sample)

    def skip(self, policy: str) -> None:
        """One more that is not sent."""
        self._skipped[policy] = self._skipped.get(policy, 0) + 1

    def part(self) -> bytes:
        """All that waits, as `Part`; what is not delivered then is lost."""
        part = Part(tuple(self._waiting), self._skipped)
        self._waiting, self._skipped = [], {}
        return msgspec.msgpack.encode(part)


class Sampler:
    """Takes samples for one policy's shadow.

    Args:
        signature: of the shadow's model.
    """

    def __init__(self, outbox: Outbox, policy: str, revision: int, variant: str, signature: Signature) -> None:
        self._outbox = outbox
        self._about = (policy, revision, variant)
        self._signature = signature
        self._credit = BURST
        self._credited_ms = 0

    def take(
        self,
        job: Exchange,
        answers: Sequence[Sequence[Array]],
        why: Sequence[str],
        places: Sequence[int],
        *,
        now_ms: int,
        error: str = "",
    ) -> None:
        """Keep a request, if there is room.

        Args:
            job: with its inputs, and where it was placed.
            answers: outputs as they were given, and those of the shadow if it has any.
            places: rows that differ.
            now_ms: Unix time.
        """
        sample = self._sample(job, answers, why, places, now_ms, error) if self._may(now_ms) else None
        if sample is None:
            self._outbox.skip(self._about[0])
        else:
            self._outbox.add(sample)

    def _sample(
        self,
        job: Exchange,
        answers: Sequence[Sequence[Array]],
        why: Sequence[str],
        places: Sequence[int],
        now_ms: int,
        error: str,
    ) -> Sample | None:
        """As many rows as fit; None = not even one does, or it cannot be made."""
        self._credit -= 1
        if job.size_bytes > MOST_REQUEST_BYTES:
            return None
        try:
            inputs = gather([job], self._signature)
            kept = self._places(job, answers, places)
            while kept:
                tensors = (*zip(self._signature.inputs, inputs, strict=True), *self._named(answers))
                if sum(_estimated(spec, array, len(kept), job.rows) for spec, array in tensors) <= MOST_BYTES:
                    sample = self._made(job, inputs, answers, why, kept, now_ms, error)
                    if sample.size_bytes <= MOST_BYTES:
                        return sample
                kept = kept[: len(kept) // 2]
            return None
        except ServingError:
            return None  # its numbers do not fit, which is why it failed here
        except Exception as mistake:
            # Of ours, in a turn of the batcher: it costs a sample, and no caller anything. No value gets into the log.
            _log.error("shadow_sample_failed", extra={"facts": {"reason": type(mistake).__name__}})
            return None

    def _places(self, job: Exchange, answers: Sequence[Sequence[Array]], places: Sequence[int]) -> list[int]:
        """Rows to keep: those that differ, or the first where answers have other rows than requests."""
        if not self._signature.batched:
            return [0]
        first = answers[0][0] if answers[0] else None
        by_row = first is not None and first.ndim and len(first) == job.rows
        return list(places if by_row else range(job.rows))[:MOST_ROWS]

    def _named(self, answers: Sequence[Sequence[Array]]) -> list[tuple[TensorSpec, Array]]:
        return [pair for arrays in answers for pair in zip(self._signature.outputs, arrays, strict=False)]

    def _may(self, now_ms: int) -> bool:
        self._credit = min(BURST, self._credit + PER_S * max(0, now_ms - self._credited_ms) / 1000)
        self._credited_ms = now_ms
        return self._credit >= 1 and not self._outbox.full

    def _made(
        self,
        job: Exchange,
        inputs: Sequence[Array | None],
        answers: Sequence[Sequence[Array]],
        why: Sequence[str],
        places: Sequence[int],
        now_ms: int,
        error: str,
    ) -> Sample:
        signature, rows = self._signature, job.rows
        # An optional input belongs to no row.
        given = [
            _kept(spec, array, [] if spec.optional else places, rows)
            for spec, array in zip(signature.inputs, inputs, strict=True)
            if array is not None
        ]
        said = [
            tuple([_kept(spec, array, places, rows) for spec, array in zip(signature.outputs, arrays, strict=False)])
            for arrays in answers
        ]
        return Sample(
            now_ms,
            *self._about,
            request=job.request_id.decode("ascii", "replace"),
            unit=job.placed.unit if job.placed is not None else 0,
            why=tuple(why),
            error=error,
            rows=rows,
            kept=tuple(places),
            inputs=tuple(given),
            answered=said[0],
            shadow=said[1] if len(said) > 1 else (),
        )


def _kept(spec: TensorSpec, array: Array, places: Sequence[int], rows: int) -> SampledTensor:
    """Those rows of a tensor; all of it where its rows are not the request's."""
    if len(places) and array.ndim and len(array) == rows:
        array = array[np.asarray(places)]
    if array.dtype != object:
        data: bytes | list[bytes] = array.astype(spec.datatype.dtype, copy=False).tobytes()
    else:
        data = [text if isinstance(text, bytes) else str(text).encode() for text in array.ravel().tolist()]
    return SampledTensor(spec.name, spec.datatype.name, array.shape, data)


def _estimated(spec: TensorSpec, array: Array | None, places: int, rows: int) -> int:
    """At least so many bytes of an array are kept, before any of it is copied."""
    if array is None:
        return 0
    size = array.size * (TEXT_BYTES if array.dtype == object else array.itemsize)
    by_row = array.ndim and len(array) == rows and not spec.optional
    return TENSOR_BYTES + (size * places // rows if by_row else size)


def _bytes_of(tensor: SampledTensor) -> int:
    data = tensor.data
    own = len(data) if isinstance(data, bytes) else sum(map(len, data)) + TEXT_BYTES * len(data)
    return TENSOR_BYTES + own
