"""Counts of one worker in a shared page, so that no crash loses them.

The page is a memfd made by the supervisor for each start of a worker. The worker alone writes it, with plain
64-bit adds; control maps the same memory and reads it whenever it likes, also after either side was killed
(ADR 2). A page describes itself: a sequence of blocks, each a key (kind and labels) and a run of int64.

    page   = magic u64 | used u64 | block*
    block  = bytes u32 | key_bytes u32 | values u32 | 0 u32 | key utf-8, padded to 8 | values x i64

`used` is written last, so a reader never sees half a block. Blocks are never removed: a model that comes back
finds its old block.
"""

import struct
from collections.abc import Iterator
from typing import Final

MAGIC: Final = 0x54494445_43544E31
PAGE_BYTES: Final = 64 * 1024 * 1024
"""Address space of a page; memory is used only where blocks are. About 1,000 model versions with a monitor fit, half of
that in the finals."""
TRACE_BYTES: Final = 65536
"""The end of a worker's page: where its interpreter writes the stacks of all threads when it crashes."""

_HEADER: Final = struct.Struct("<QQ")
_BLOCK: Final = struct.Struct("<IIII")

# ---- layout of a "model" block; labels are (model, version, variant) ----

DURATION_BOUNDS_NS: Final[tuple[int, ...]] = (
    50_000,
    *(step * 10**power for power in range(5, 10) for step in (1, 2, 5)),
    10_000_000_000,
)
"""Upper bounds of the latency buckets: 50 us to 10 s in 1-2-5 steps."""

ROWS_BOUNDS: Final[tuple[int, ...]] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CODES: Final[tuple[int, ...]] = (200, 400, 404, 408, 409, 413, 415, 429, 499, 500, 501, 503, 504, 507)
REASONS: Final[tuple[str, ...]] = (
    "queue_full", "estimated_wait", "bytes_in_flight", "expired", "draining", "not_ready", "cancelled",
)  # fmt: skip

_CURSOR = 0


def _take(count: int) -> int:
    global _CURSOR
    start, _CURSOR = _CURSOR, _CURSOR + count
    return start


_BUCKETS: Final = len(DURATION_BOUNDS_NS) + 1
REQUESTS: Final = _take(len(CODES))
REJECTED: Final = _take(len(REASONS))
REQUEST_DURATION: Final = _take(_BUCKETS + 1)
"""Buckets, then the sum in ns; so too the next two."""
QUEUE_DURATION: Final = _take(_BUCKETS + 1)
EXECUTION_DURATION: Final = _take(_BUCKETS + 1)
BATCH_ROWS: Final = _take(len(ROWS_BOUNDS) + 2)
INFLIGHT: Final = _take(1)
QUEUE_ROWS: Final = _take(1)
INFERENCES: Final = _take(1)
"""Rows answered with success (Triton's inference_count)."""
EXECUTIONS: Final = _take(1)
SUCCESS_NS: Final = _take(1)
FAIL: Final = _take(1)
FAIL_NS: Final = _take(1)
QUEUE_NS: Final = _take(1)
"""Time in queue summed over successful requests; the histogram above has every admitted one."""
COMPUTE_INPUT_NS: Final = _take(1)
COMPUTE_INFER_NS: Final = _take(1)
COMPUTE_OUTPUT_NS: Final = _take(1)
LAST_INFERENCE_MS: Final = _take(1)
"""Unix time in ms."""
CPU_NS: Final = _take(1)
TERMINATED: Final = _take(1)
FAILED_RUN: Final = _take(1)
"""Requests whose execution failed or came too late, whatever was answered: what `error_rate` calls bad."""
CRASHES: Final = _take(1)
"""Workers that died while they executed it; added by control."""
BATCH_STATS: Final = _take(129 * 4)
"""For batch sizes 1..128 (0 = larger): executions, compute input ns, infer ns, output ns."""
MODEL_VALUES: Final = _CURSOR

CODE_INDEX: Final = {code: REQUESTS + i for i, code in enumerate(CODES)}
REASON_INDEX: Final = {reason: REJECTED + i for i, reason in enumerate(REASONS)}

# ---- layout of the "worker" block, labels () ----

WORKER_FIELDS: Final[tuple[str, ...]] = (
    "connections_total", "connections_closed_total", "loop_stalls_total", "loop_stall_ns_total", "fast_lane_total",
    "slow_lane_total", "unknown_model_total", "bad_http_total", "bytes_in_flight", "decisions_written_total",
    "decisions_dropped_total", "decisions_waiting", "monitor_ns_total",
)  # fmt: skip
WORKER_INDEX: Final = {name: i for i, name in enumerate(WORKER_FIELDS)}


# ---- layout of a "running" block; labels are (digest, model, version) ----

RUNNING: Final = "running"
_RUNNING_VALUES: Final = 2
"""The thread that executes it and the one that loads it; 0 = none."""


def running(page: "CounterPage", digest: str, model: str, version: int) -> memoryview:
    """Where a worker notes which threads are inside a version; private memory when the page is full."""
    found = page.block(RUNNING, (digest, model, str(version)), _RUNNING_VALUES)
    return found if len(found) == _RUNNING_VALUES else memoryview(bytearray(8 * _RUNNING_VALUES)).cast("q")


def parts(buffer: memoryview) -> tuple["CounterPage", memoryview]:
    """A worker's shared memory: the page, and behind it the room for the interpreter's last words."""
    return CounterPage(buffer[:-TRACE_BYTES]), buffer[-TRACE_BYTES:]


# ---- executions, where a policy judges how long they take ----

EXECUTIONS_JUDGED: Final = "executions"
"""Labels (model, policy revision, variant): per stratum and bucket of batch sizes those in time, and those that were
slow."""
RUN_TIMES: Final = "run-times"
"""Labels (model, version): per bucket of batch sizes a histogram of run times."""
BATCH_BOUNDS: Final[tuple[int, ...]] = (
    *range(1, 9),
    *(octave * quarters // 4 for octave in (8, 16, 32, 64, 128, 256, 512) for quarters in (5, 6, 7, 8)),
)
"""Largest batch of each bucket. Within one, sizes differ by less than a quarter, or a variant with larger batches would
be taken for a slower one."""
BATCH_BUCKETS: Final = len(BATCH_BOUNDS) + 1
RUN_BOUNDS_NS: Final[tuple[int, ...]] = tuple(int(1_000 * 2.0 ** (step / 8)) for step in range(193))
"""1 us to 17 s, each 9 % above the one before: run times of one batch size differ by little."""
RUN_BUCKETS: Final = len(RUN_BOUNDS_NS) + 1

# ---- what the monitor counts; labels are (model, version, variant, id of the plan) ----

DRIFT: Final = "drift"
"""Laid out as `gateway.monitor.plan` says."""
DRIFT_TAKEN: Final = "drift-taken"
DRIFT_TAKEN_VALUES: Final = 2
"""Rows that were noted, counted or not; and a number that is odd while the counts beside it are being changed."""


class CounterPage:
    """Blocks of int64 in one buffer; single writer, any number of readers.

    Args:
        buffer: writable memory of at least a few KiB, for instance an mmap of the memfd. A zeroed one is
            initialised; one that carries the magic is used as it is.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._bytes = buffer.cast("B")
        self._blocks: dict[tuple[str, ...], memoryview] = {}
        magic, used = _HEADER.unpack_from(self._bytes)
        if magic != MAGIC:
            used = _HEADER.size
            _HEADER.pack_into(self._bytes, 0, MAGIC, used)

    def block(self, kind: str, labels: tuple[str, ...], values: int) -> memoryview:
        """Find or add a block; the view has format "q" and `values` elements.

        Labels hold no newline (names are checked long before). When the page is full every further key
        shares the block ("overflow",), so counting goes on and the loss of detail is visible.
        """
        key = (kind, *labels)
        found = self._blocks.get(key)
        if found is None:
            self._blocks.update({k: v for k, v in self.blocks() if k not in self._blocks})
            found = self._blocks.get(key) or self._add(key, values)
            self._blocks[key] = found
        return found

    def _add(self, key: tuple[str, ...], values: int) -> memoryview:
        text = "\n".join(key).encode()
        padded = -(-len(text) // 8) * 8
        size = _BLOCK.size + padded + 8 * values
        _, used = _HEADER.unpack_from(self._bytes)
        room = len(self._bytes) - used - (_BLOCK.size + 16 + 8 * MODEL_VALUES)
        if size > room and key != ("overflow",):
            return self.block("overflow", (), MODEL_VALUES)
        _BLOCK.pack_into(self._bytes, used, size, len(text), values, 0)
        start = used + _BLOCK.size
        self._bytes[start : start + len(text)] = text
        _HEADER.pack_into(self._bytes, 0, MAGIC, used + size)
        return self._bytes[start + padded : used + size].cast("q")

    @property
    def used(self) -> int:
        """Bytes, from the start, that hold something."""
        return int(_HEADER.unpack_from(self._bytes)[1])

    def blocks(self) -> Iterator[tuple[tuple[str, ...], memoryview]]:
        """Walk every block that is complete now: (kind, *labels) and its values."""
        _, used = _HEADER.unpack_from(self._bytes)
        at = _HEADER.size
        while at < used:
            size, key_bytes, values, _ = _BLOCK.unpack_from(self._bytes, at)
            start = at + _BLOCK.size
            key = tuple(bytes(self._bytes[start : start + key_bytes]).decode().split("\n"))
            end = at + size
            yield key, self._bytes[end - 8 * values : end].cast("q")
            at = end
