"""What the parts of the monitor cost: `python -m loadtests.monitorparts`. Prints medians; nothing is sent anywhere.

Twenty numeric features and a probability; batches of 16 requests of one row, as the fast lane makes them.
"""

import statistics
import time
from collections.abc import Callable

import msgspec
import numpy as np

from gateway.control.monitorinputs import Series, Totals, joined, split
from gateway.counters import DRIFT, DRIFT_TAKEN, CounterPage
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import Counter, Counts, empty
from gateway.monitor.fit import Rows, fit
from gateway.monitor.plan import CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Spec
from gateway.monitor.tap import Tap
from gateway.monitor.together import with_multivariate
from runtimes.batching.job import Job
from runtimes.tensors import DATATYPES, Signature, TensorSpec

FEATURES, BATCH, ROUNDS = 20, 16, 30
SIGNATURE = Signature(
    (TensorSpec("x", DATATYPES["FP32"], (-1, FEATURES)),), (TensorSpec("y", DATATYPES["FP32"], (-1, 1)),), True
)
RNG = np.random.default_rng(20240229)


def plan() -> CountPlan:
    """Ten bins each, edges of a normal distribution."""
    edges = tuple(np.quantile(RNG.standard_normal(50_000), np.linspace(0, 1, 11)).tolist())
    features = tuple(FeaturePlan(f"f{at}", "numeric", 0, at, edges) for at in range(FEATURES))
    return CountPlan("", features, ScorePlan(0, -1, "probability", 0.5, ((0.0, 0.0), (1.0, 1.0))))


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs."""
    return RNG.standard_normal((count, FEATURES)).astype(np.float32), RNG.random((count, 1)).astype(np.float32)


def together(sample: float) -> Counter:
    """As `plan`, with the features together; the model's signature names them itself."""
    inputs, outputs = rows(20_000)
    found = fit(SIGNATURE, "", Rows([inputs], [outputs])).reference
    return Counter(with_multivariate(found, sample).plan)


def counted(counter: Counter, count: int) -> Counts:
    """A vector of so many rows."""
    vector, (inputs, outputs) = empty(counter.plan), rows(count)
    counter.count([inputs], [outputs], np.zeros(count, np.int64), vector)
    return vector


def median_us(call: Callable[[], int]) -> float:
    """Median over the rounds of the CPU time per unit; `call` says how many units it did."""
    found = []
    for _ in range(ROUNDS):
        started_ns = time.process_time_ns()
        units = call()
        found.append((time.process_time_ns() - started_ns) / units / 1000)
    return statistics.median(found)


def tap_costs(counter: Counter) -> tuple[float, float, float]:
    """us per batch on the hot path, us per batch for marks of prediction ids, us per row in the background."""
    page = CounterPage(memoryview(bytearray(1 << 22)))
    place = ("m", "1", "-", "")
    counts = np.frombuffer(page.block(DRIFT, place, counter.plan.size), np.int64)
    tap = Tap(counter, counts, page.block(DRIFT_TAKEN, place, 2), SIGNATURE)
    batches = [([Job() for _ in range(BATCH)], *rows(BATCH)) for _ in range(100)]

    def take() -> int:
        for jobs, inputs, outputs in batches:
            tap.take(jobs, [inputs], [outputs])
        return len(batches)

    def marks() -> int:
        for jobs, _, outputs in batches:
            tap.marks(jobs, [outputs])
        return len(batches)

    def work() -> int:
        while tap.work():
            pass
        return BATCH * len(batches)

    taken, worked = [], []
    for _ in range(ROUNDS):
        started_ns = time.process_time_ns()
        batches_done = take()
        middle_ns = time.process_time_ns()
        rows_done = work()
        taken.append((middle_ns - started_ns) / batches_done / 1000)
        worked.append((time.process_time_ns() - middle_ns) / rows_done / 1000)
    return statistics.median(taken), median_us(marks), statistics.median(worked)


def merging_us(counter: Counter) -> float:
    """CPU time that control needs for one delta of another node: decoded, joined, taken into its windows."""
    reference = identified(Reference(counter.plan, counted(counter, 50_000), Binding("x", (), ())))
    monitor = ModelMonitor("m", Spec())
    monitor.watch({"1": reference})
    deltas = [counted(counter, 25) for _ in range(100)]
    total, bodies = empty(counter.plan), []
    for delta in deltas:
        total = total + delta
        parts = split("node", "run", Series("m", "1", "-", reference.id), total)
        bodies.append([msgspec.msgpack.encode(part) for part in parts])
    now_ms = 0

    def turn() -> int:
        nonlocal now_ms
        for body in bodies:
            joined([msgspec.msgpack.decode(part, type=Totals) for part in body])
        now_ms += 1_000
        monitor.turn([("1", "-", delta) for delta in deltas], Roles(champion=("1", "-")), now_ms)
        return len(bodies)

    return median_us(turn)


def main() -> None:
    """Print the table."""
    counter = Counter(plan())
    take, marks, row = tap_costs(counter)
    tied = [(sample, tap_costs(together(sample))[2]) for sample in (1.0, 0.1)]
    merge = merging_us(counter)
    print(f"noting a batch on the hot path         {take:8.2f} us per batch")
    print(f"marks of prediction ids                {marks:8.2f} us per batch of {BATCH}")
    print(f"counting between requests              {row:8.2f} us per row")
    for sample, cost in tied:
        print(f"  and features together, of {sample:4.0%}       {cost:8.2f} us per row")
    print(f"merging a delta in control             {merge:8.0f} us, {1e6 / merge / 2:,.0f} per second on half a core")


if __name__ == "__main__":
    main()
