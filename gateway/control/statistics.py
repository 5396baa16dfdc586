"""Statistics as Triton's extension words them, from the node's counts. Pure.

Source: Triton's statistics extension (protocol/extension_statistics.md). perf_analyzer needs every key.
"""

from collections.abc import Iterable
from typing import Any

from gateway.control.counts import ModelKey, Totals, Values
from gateway.counters import (
    BATCH_STATS,
    CODE_INDEX,
    COMPUTE_INFER_NS,
    COMPUTE_INPUT_NS,
    COMPUTE_OUTPUT_NS,
    EXECUTIONS,
    FAIL,
    FAIL_NS,
    INFERENCES,
    LAST_INFERENCE_MS,
    MODEL_VALUES,
    QUEUE_NS,
    SUCCESS_NS,
)


def statistics(totals: Totals, versions: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """`{"model_stats": [...]}` for these versions, all variants of each added together."""
    return {"model_stats": [_one(name, version, _values(totals, name, str(version))) for name, version in versions]}


def _values(totals: Totals, name: str, version: str) -> list[int]:
    found: list[Values] = [values for key, values in totals.models.items() if _is(key, name, version)]
    return [int(value) for value in sum(found[1:], found[0])] if found else [0] * MODEL_VALUES


def _is(key: ModelKey, name: str, version: str) -> bool:
    return key[0] == name and key[1] == version


def _one(name: str, version: int, values: list[int]) -> dict[str, Any]:
    success = values[CODE_INDEX[200]]
    return {
        "name": name,
        "version": str(version),
        "last_inference": values[LAST_INFERENCE_MS],
        "inference_count": values[INFERENCES],
        "execution_count": values[EXECUTIONS],
        "inference_stats": {
            "success": _pair(success, values[SUCCESS_NS]),
            "fail": _pair(values[FAIL], values[FAIL_NS]),
            "queue": _pair(success, values[QUEUE_NS]),
            "compute_input": _pair(success, values[COMPUTE_INPUT_NS]),
            "compute_infer": _pair(success, values[COMPUTE_INFER_NS]),
            "compute_output": _pair(success, values[COMPUTE_OUTPUT_NS]),
            "cache_hit": _pair(0, 0),
            "cache_miss": _pair(0, 0),
        },
        "response_stats": {},
        "batch_stats": _batches(values),
        "memory_usage": [],
    }


def _batches(values: list[int]) -> list[dict[str, Any]]:
    """Batches of 1 to 128 rows; larger ones stand in none (Triton lists each size that occurred)."""
    found = []
    for rows in range(1, 129):
        count, gather_ns, run_ns, output_ns = values[BATCH_STATS + 4 * rows : BATCH_STATS + 4 * rows + 4]
        if count:
            found.append(
                {
                    "batch_size": rows,
                    "compute_input": _pair(count, gather_ns),
                    "compute_infer": _pair(count, run_ns),
                    "compute_output": _pair(count, output_ns),
                }
            )
    return found


def _pair(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
