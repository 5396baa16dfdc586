"""A runtime that is told to run what never ends: the offender is ended, and callers cannot shut out each other."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from runtimes.batching.batcher import Executed
from runtimes.batching.job import DONE, Job
from runtimes.batching.turns import TurnScheduler
from runtimes.errors import DeadlineExceeded, LoadFailed, ServingError
from runtimes.execution.watchdog import Watchdog
from runtimes.registry.modelconfig import Execution, ModelConfig
from runtimes.runtime import Environment, Runtime, WantedVersion, prepare
from runtimes.tensors import Array
from tests import models

pytestmark = pytest.mark.interpreted
FOREVER = 2**62
PLAIN = ModelConfig()


class Ask(Job):
    """One caller."""

    def __init__(self, trips: int, deadline_ns: int) -> None:
        self.inputs = [np.array(trips, dtype=np.int64)]
        self.deadline_ns = deadline_ns
        self.answer: asyncio.Future[Array | ServingError] = asyncio.get_running_loop().create_future()


class Answers:
    """Gives every job its answer."""

    def executed(self, jobs: Sequence[Job], outcome: Executed) -> None:
        """Nothing to count."""

    def completed(self, jobs: Sequence[Job], outputs: list[Array], started_ns: int) -> None:
        for job in jobs:
            assert isinstance(job, Ask)
            job.state = DONE
            job.answer.set_result(outputs[0])

    def failed(self, job: Job, error: ServingError) -> None:
        assert isinstance(job, Ask)
        job.state = DONE
        job.answer.set_result(error)


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    found = Watchdog(time.perf_counter_ns)
    yield found
    found.stop()


async def opened(folder: Path, watchdog: Watchdog, config: ModelConfig = PLAIN) -> Runtime:
    (folder / "model.onnx").write_bytes(models.endless())
    loop = asyncio.get_running_loop()
    scheduler = TurnScheduler(loop, time.perf_counter_ns, budget_ns=1_000_000)
    environment = Environment(loop, scheduler, watchdog, time.perf_counter_ns, 1, 1_000_000, 1 << 33)
    wanted = WantedVersion("endless", 1, "sha256:0", str(folder), "model.onnx", config)
    runtime = Runtime(wanted, environment)
    runtime.open(prepare(wanted, environment, lambda: None), lambda _: Answers())
    return runtime


async def ask(runtime: Runtime, trips: int, deadline_ms: int) -> Array | ServingError:
    now = time.perf_counter_ns()
    job = Ask(trips, now + deadline_ms * 1_000_000)
    runtime.batcher.submit(job, now)
    return await asyncio.wait_for(job.answer, 20)


def test_short_deadlines_of_callers_are_no_sign_of_a_hang(tmp_path: Path, watchdog: Watchdog) -> None:
    async def scenario() -> None:
        runtime = await opened(tmp_path, watchdog)
        for _ in range(4):
            assert isinstance(await ask(runtime, FOREVER, 40), DeadlineExceeded)
        assert runtime.refusal() is None
        assert runtime.terminations == 0
        assert runtime.readiness.clear
        answer = await ask(runtime, 5, 10_000)
        assert isinstance(answer, np.ndarray)
        assert answer.tolist() == [5.0]
        await runtime.close()
        assert (runtime.state, runtime.readiness.clear) == ("CLOSED", False)

    asyncio.run(scenario())


def test_two_hangs_within_a_minute_are_a_quarantine(tmp_path: Path, watchdog: Watchdog) -> None:
    async def scenario() -> None:
        runtime = await opened(tmp_path, watchdog, ModelConfig(execution=Execution(watchdog_ms=50)))
        for hang in range(2):
            assert runtime.refusal() is None
            assert runtime.readiness.clear == (hang == 0)
            assert isinstance(await ask(runtime, FOREVER, 10_000), DeadlineExceeded)
            await asyncio.sleep(0)
            assert (runtime.terminations, runtime.readiness.clear) == (hang + 1, False)
        refused = runtime.refusal()
        assert refused is not None
        assert "quarantined" in refused.message
        assert refused.retry_after_s is not None
        await runtime.close()

    asyncio.run(scenario())


def test_shared_execution_is_refused_at_load(tmp_path: Path, watchdog: Watchdog) -> None:
    async def scenario() -> None:
        with pytest.raises(LoadFailed, match="not offered"):
            await opened(tmp_path, watchdog, ModelConfig(execution=Execution(mode="shared")))

    asyncio.run(scenario())
