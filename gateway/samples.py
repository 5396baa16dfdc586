"""Requests that a shadow answered otherwise, on their way to control. Only where a policy asks for samples.

The one place beside the monitor's first rows where inputs leave a request: bounded in count, bytes and rate, kept in
memory until control has taken them, never written. What finds no room is skipped and counted: nobody waits for it.
"""

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
MOST_WAITING: Final = 32
"""Of a worker, 2 MiB: they are sent four times a second."""
PER_S: Final = 5.0
BURST: Final = 20.0
"""Of one policy on one worker."""
_UNIT_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


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
        unit: 64-bit hash of its unit, unsigned.
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
        """Of its tensors."""
        return sum(map(_bytes_of, (*self.inputs, *self.answered, *self.shadow)))


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
        if not self._may(now_ms):
            self._outbox.skip(self._about[0])
            return
        places = list(places)[:MOST_ROWS] if self._signature.batched else [0]
        try:
            inputs = gather([job], self._signature)
        except (ServingError, ValueError):
            # Its numbers do not fit, which is why it failed here.
            self._outbox.skip(self._about[0])
            return
        sample = self._made(job, inputs, answers, why, places, now_ms, error)
        while sample.size_bytes > MOST_BYTES and len(places) > 1:
            places = places[: len(places) // 2]
            sample = self._made(job, inputs, answers, why, places, now_ms, error)
        if sample.size_bytes > MOST_BYTES:
            self._outbox.skip(self._about[0])
            return
        self._credit -= 1
        self._outbox.add(sample)

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
            unit=(job.placed.unit if job.placed is not None else 0) & _UNIT_MASK,
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


def _bytes_of(tensor: SampledTensor) -> int:
    return len(tensor.data) if isinstance(tensor.data, bytes) else sum(map(len, tensor.data)) + 40 * len(tensor.data)
