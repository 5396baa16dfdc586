"""The bare execution time: ONNX Runtime alone, one thread, no server. Prints one JSON object.

`python -m loadtests.bare MODEL.onnx --rows 32 --seconds 0.3` -> {"run_us": ..., "row_us": ..., "runs": ...}
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BLOCKS = 15  # the median over blocks forgives a short disturbance
WARM_RUNS = 50


@dataclass(frozen=True)
class BareResult:
    """Microseconds of one session run and of each of its rows."""

    rows: int
    runs: int
    run_us: float
    row_us: float


def measure(model: Path, rows: int, seconds: float) -> BareResult:
    """In a child process of its own, so that nothing of ours is in its caches or threads."""
    command = [sys.executable, "-m", "loadtests.bare", str(model), "--rows", str(rows), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 4 * seconds, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the bare run ended with {done.returncode}: {done.stderr}")
    return BareResult(**json.loads(done.stdout))


def timed(model: Path, rows: int, seconds: float) -> BareResult:
    """Median over blocks of the mean time of one run."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    width = session.get_inputs()[0].shape[1]
    feeds = {"x": np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)}

    def block(runs: int) -> float:
        started = time.perf_counter()
        for _ in range(runs):
            session.run(["y"], feeds)
        return (time.perf_counter() - started) / runs

    runs = max(1, int(seconds / BLOCKS / block(WARM_RUNS)))
    run_us = statistics.median(block(runs) for _ in range(BLOCKS)) * 1e6
    return BareResult(rows, runs * BLOCKS, run_us, run_us / rows)


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3)
    given = parser.parse_args()
    print(json.dumps(vars(timed(given.model, given.rows, given.seconds))))


if __name__ == "__main__":
    main()
