"""Traffic for the demo: processes that call the server with tritonclient and check every answer.

A job is one model, one way to name its version and one encoding. All processes work on the same job at the same time
and wait for each other before the next, so that a job's rate means something. What is right is computed here, by ONNX
Runtime on the same file and rows.
"""

import multiprocessing
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any, Final

import numpy as np

from examples.credit.build import CREDIT, CREDIT_OUTPUT, DENSE, DENSE_OUTPUT, DENSE_SIZES, INPUT, RECIPES
from examples.credit.features import Floats, load

PROCESSES: Final = 4
MAX_ROWS: Final = 8
TOLERANCE: Final = 1e-5
"""Allowed absolute difference of a probability: float32 sums of another batch size may round differently."""
JOB_SECONDS: Final = 6.0
"""A job ends then, however few requests were sent."""
BARRIER_SECONDS: Final = 30.0
REQUEST_SECONDS: Final = 10.0
_DENSE_ROWS: Final = 256


@dataclass(frozen=True)
class Job:
    """What each process sends.

    Attributes:
        asked: version or alias in the URL; "" = none, the server chooses.
        version: the version that must answer.
        requests: per process.
    """

    model: str
    asked: str
    version: str
    binary: bool
    requests: int

    @property
    def encoding(self) -> str:
        """binary or JSON, for requests and answers."""
        return "binary" if self.binary else "JSON"

    @property
    def output(self) -> str:
        """Name of the output."""
        return CREDIT_OUTPUT if self.model == CREDIT else DENSE_OUTPUT


@dataclass
class Tally:
    """What became of one job's requests; of one process or of all.

    Attributes:
        requests: sent. errors: no answer, or one that says so. wrong: answered with something else than expected.
        ok_rows: rows of the requests that were answered.
        latencies_ms: of the answered ones.
        started_s, ended_s: on the machine's monotonic clock, which its processes share.
        problem: the first error or wrong answer, in words.
    """

    requests: int = 0
    rows: int = 0
    errors: int = 0
    wrong: int = 0
    ok_rows: int = 0
    max_difference: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    started_s: float = float("inf")
    ended_s: float = 0.0
    problem: str = ""

    @property
    def answered(self) -> int:
        """Requests with status 200."""
        return self.requests - self.errors

    @property
    def per_second(self) -> float:
        """Answered requests per second of all processes together."""
        return self.answered / max(self.ended_s - self.started_s, 1e-9)

    def percentile_ms(self, share: float) -> float:
        """Of the latencies; NaN when there are none."""
        return float(np.percentile(self.latencies_ms, share)) if self.latencies_ms else float("nan")


@dataclass(frozen=True)
class Expected:
    """Rows to send and what the model must answer to each."""

    inputs: Floats
    outputs: Floats


def jobs(credit_requests: int = 100, dense_requests: int = 50) -> list[Job]:
    """The server's own choice (the highest version), both versions, an alias, and the larger model; both encodings."""
    newest = str(max(RECIPES))
    asked = [("", newest), *((str(version), str(version)) for version in RECIPES), ("stable", "1")]
    found = [Job(CREDIT, name, version, binary, credit_requests) for name, version in asked for binary in (False, True)]
    return found + [Job(DENSE, "", "1", binary, dense_requests) for binary in (False, True)]


def sample_rows(model: str) -> Floats:
    """Rows to send: the data set itself, or random ones."""
    if model == CREDIT:
        return load().inputs
    return np.random.default_rng(0).standard_normal((_DENSE_ROWS, DENSE_SIZES[0]), np.float32)


def expected(repository: Path, job: Job) -> Expected:
    """Run the model's file here, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(repository / job.model / job.version / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    inputs = sample_rows(job.model)
    return Expected(inputs, session.run([job.output], {INPUT: inputs})[0])


def problem_of(answer: Any, job: Job, wanted: Floats) -> tuple[float, str]:
    """Largest absolute difference, and what is wrong in words ("" = nothing)."""
    version = answer.get_response().get("model_version")
    if version != job.version:
        return 0.0, f"version {version} answered instead of {job.version}"
    values = answer.as_numpy(job.output)
    if values is None or values.shape != wanted.shape:
        return 0.0, f"no output {job.output} of shape {list(wanted.shape)}"
    difference = float(np.abs(values - wanted).max())
    if not difference <= TOLERANCE:
        return difference, f"differs by {difference:.2g} from ONNX Runtime"
    return difference, ""


def _call(client: Any, job: Job, rows: Floats) -> Any:
    from tritonclient.http import InferInput, InferRequestedOutput

    value = InferInput(INPUT, list(rows.shape), "FP32")
    value.set_data_from_numpy(rows, binary_data=job.binary)
    output = InferRequestedOutput(job.output, binary_data=job.binary)
    return client.infer(job.model, [value], model_version=job.asked, outputs=[output])


def _one(client: Any, job: Job, rows: Floats, wanted: Floats, tally: Tally) -> None:
    """Send, time and check one request; whatever goes wrong is counted, never raised."""
    tally.requests += 1
    tally.rows += len(rows)
    started = time.perf_counter()
    try:
        answer = _call(client, job, rows)
    except Exception as error:
        tally.errors += 1
        tally.problem = tally.problem or f"{type(error).__name__}: {error}"
        return
    tally.latencies_ms.append((time.perf_counter() - started) * 1e3)
    tally.ok_rows += len(rows)
    difference, problem = problem_of(answer, job, wanted)
    tally.max_difference = max(tally.max_difference, difference)
    tally.wrong += bool(problem)
    tally.problem = tally.problem or problem


def _pieces(rows: int, count: int, seed: int) -> Iterator[slice]:
    """`count` random runs of 1 to MAX_ROWS neighbouring rows."""
    rng = np.random.default_rng(seed)
    for size in rng.integers(1, MAX_ROWS + 1, count).tolist():
        start = int(rng.integers(0, rows - size + 1))
        yield slice(start, start + size)


def _work(client: Any, job: Job, data: Expected, seed: int) -> Tally:
    """One job in this process."""
    tally = Tally(started_s=time.monotonic())
    for piece in _pieces(len(data.inputs), job.requests, seed):
        _one(client, job, data.inputs[piece], data.outputs[piece], tally)
        if time.monotonic() - tally.started_s > JOB_SECONDS:
            break
    tally.ended_s = time.monotonic()
    return tally


_barrier: Barrier
"""Of the processes of one run; set in each by `_prepare`."""


def _prepare(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def process(address: str, repository: Path, todo: list[Job], seed: int) -> list[Tally]:
    """All jobs in this process, each in step with the other processes."""
    from tritonclient.http import InferenceServerClient

    data = [expected(repository, job) for job in todo]
    client = InferenceServerClient(address, connection_timeout=REQUEST_SECONDS, network_timeout=REQUEST_SECONDS)
    client.is_server_live()  # opens the connection
    tallies = []
    for number, (job, rows) in enumerate(zip(todo, data, strict=True)):
        _barrier.wait(BARRIER_SECONDS)
        tallies.append(_work(client, job, rows, seed=seed * len(todo) + number))
    client.close()
    return tallies


def merged(parts: Iterable[Tally]) -> Tally:
    """One job over all processes."""
    whole = Tally()
    for part in parts:
        for name in ("requests", "rows", "errors", "wrong", "ok_rows", "latencies_ms"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        whole.max_difference = max(whole.max_difference, part.max_difference)
        whole.started_s, whole.ended_s = min(whole.started_s, part.started_s), max(whole.ended_s, part.ended_s)
        whole.problem = whole.problem or part.problem
    return whole


def send(address: str, repository: Path, todo: list[Job], processes: int = PROCESSES) -> list[Tally]:
    """Run the jobs in `processes` new processes; one tally per job. A process that dies raises."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_prepare, initargs=(barrier,)) as pool:
        parts = list(pool.map(partial(process, address, repository, todo), range(processes)))
    return [merged(of_job) for of_job in zip(*parts, strict=True)]
