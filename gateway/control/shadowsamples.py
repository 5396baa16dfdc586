"""Requests that a shadow answered otherwise, with their inputs, for people to look at: in this node's memory alone.

Only of policies that ask for samples, and only as long as they do: at most as many as they say, for as long as they
say. Nothing of them is written, in the store neither; control that ends has forgotten them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from gateway.control.policies import Policies
from gateway.samples import Part, Sample, SampledTensor
from gateway.unitkeys import unit_text
from router.policy import Samples
from runtimes.tensors import DATATYPES, f32_from_bf16

POLICY_BYTES: Final = 8 * 1024 * 1024
NODE_BYTES: Final = 64 * 1024 * 1024
"""Of tensors; above it the oldest go."""
FORGOTTEN_MS: Final = 60_000
"""So long after an erasure workers may still send something of the unit: of a request that waits, is answered, has a
copy that waits, and is sent at last."""


class _Held:
    """Samples of one policy, oldest first."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque()
        self.size_bytes = 0
        self.skipped = 0

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        self.size_bytes += sample.size_bytes

    def keep(self, samples: list[Sample]) -> None:
        if len(samples) < len(self.samples):
            self.samples, self.size_bytes = deque(samples), sum(sample.size_bytes for sample in samples)

    def drop_oldest(self) -> None:
        self.size_bytes -= self.samples.popleft().size_bytes


class ShadowSamples:
    """Those of one node. Every method runs on the loop.

    Args:
        now_ms: Unix time.
        node_bytes: of all policies together.
    """

    def __init__(self, policies: Policies, *, now_ms: Callable[[], int], node_bytes: int = NODE_BYTES) -> None:
        self._policies = policies
        self._now_ms = now_ms
        self._node_bytes = node_bytes
        self._held: dict[str, _Held] = {}
        self._forgotten: dict[tuple[str, int], int] = {}

    async def take(self, part: bytes) -> None:
        """Keep what a worker sends, of policies that ask for it."""
        found = msgspec.msgpack.decode(part, type=Part)
        self.tidy()
        for name, count in found.skipped.items():
            if self._asked(name) is not None:
                self._held.setdefault(name, _Held()).skipped += count
        for sample in found.samples:
            self._keep(sample)

    def _asked(self, name: str) -> Samples | None:
        kept = self._policies.kept.get(name)
        shadow = kept.policy.spec.shadow if kept is not None else None
        return shadow.samples if shadow is not None else None

    def _keep(self, sample: Sample) -> None:
        asked = self._asked(sample.policy)
        if asked is None or (sample.policy, sample.unit) in self._forgotten:
            return
        held = self._held.setdefault(sample.policy, _Held())
        # A worker's clock that was ahead keeps nothing for longer.
        held.add(msgspec.structs.replace(sample, time_ms=min(sample.time_ms, self._now_ms())))
        while len(held.samples) > asked.max or held.size_bytes > POLICY_BYTES:
            held.drop_oldest()
        while sum(one.size_bytes for one in self._held.values()) > self._node_bytes:
            max(self._held.values(), key=lambda one: one.size_bytes).drop_oldest()

    def tidy(self) -> None:
        """Forget what has had its time, and what nobody asks for any more."""
        now_ms = self._now_ms()
        for name in list(self._held):
            asked, held = self._asked(name), self._held[name]
            if asked is None:
                del self._held[name]
                continue
            # Not from the front alone: after a clock was set back a later one may be over first.
            held.keep([sample for sample in held.samples if sample.time_ms + asked.ttl_ms > now_ms][-asked.max :])
        self._forgotten = {place: until for place, until in self._forgotten.items() if until > now_ms}

    def forget(self, name: str, unit: int) -> int:
        """Erase a unit's samples, and those that still come; how many there were.

        Args:
            unit: its keyed hash.
        """
        self._forgotten[name, unit] = self._now_ms() + FORGOTTEN_MS
        held = self._held.get(name)
        if held is None:
            return 0
        before = len(held.samples)
        held.keep([sample for sample in held.samples if sample.unit != unit])
        return before - len(held.samples)

    async def shown(self, name: str, *, variant: str = "") -> dict[str, Any]:
        """A policy's samples, newest first, for people and programs. Raises UnknownPolicy.

        Args:
            variant: of this one alone; "" = of all.
        """
        self._policies.get(name)
        self.tidy()
        asked, held = self._asked(name), self._held.get(name, _Held())
        found = [sample for sample in reversed(held.samples) if variant in ("", sample.variant)]
        found.sort(key=lambda sample: -sample.time_ms)
        # MiB of numbers become millions of values: not on the loop.
        samples = await asyncio.to_thread(lambda: [self._one(sample, asked) for sample in found]) if asked else []
        return {
            "name": name,
            "asked": {"max": asked.max, "ttl_ms": asked.ttl_ms} if asked is not None else None,
            "skipped": held.skipped,
            "samples": samples,
        }

    def _one(self, sample: Sample, asked: Samples) -> dict[str, Any]:
        return {
            "time_ms": sample.time_ms,
            "expires_ms": sample.time_ms + asked.ttl_ms,
            "request": sample.request,
            "unit": unit_text(sample.unit),
            "revision": sample.revision,
            "variant": sample.variant,
            "why": list(sample.why),
            "error": sample.error or None,
            "rows": sample.rows,
            "kept": list(sample.kept),
            "inputs": list(map(tensor, sample.inputs)),
            "answered": list(map(tensor, sample.answered)),
            "shadow": list(map(tensor, sample.shadow)) if "failed" not in sample.why else None,
        }


def tensor(sampled: SampledTensor) -> dict[str, Any]:
    """As the inference protocol writes one. What JSON has no number for is a text: NaN, Infinity, -Infinity; bytes that
    are not UTF-8 are escaped."""
    about = {"name": sampled.name, "datatype": sampled.datatype, "shape": list(sampled.shape)}
    if not isinstance(sampled.data, bytes):
        return {**about, "data": [text.decode("utf-8", "backslashreplace") for text in sampled.data]}
    array = np.frombuffer(sampled.data, DATATYPES[sampled.datatype].dtype)
    if sampled.datatype == "BF16":
        array = f32_from_bf16(array)
    values = orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))
    if array.dtype.kind == "f":
        for at in np.flatnonzero(~np.isfinite(array)).tolist():
            values[at] = "NaN" if np.isnan(array[at]) else "Infinity" if array[at] > 0 else "-Infinity"
    return {**about, "data": values}
