"""CPU time of runs: measured for long ones and every 16th short one, estimated by their share for the others."""

from runtimes.execution.cputime import PERIOD, CpuTime


class Thread:
    """A thread's CPU clock; counts how often it is read."""

    def __init__(self) -> None:
        self.cpu_ns = 0
        self.reads = 0

    def read(self) -> int:
        self.reads += 1
        return self.cpu_ns


def run(cpu: CpuTime, thread: Thread, took_ns: int, used_ns: int, predicted_ns: int = 10_000) -> tuple[int, bool]:
    cpu.begin(predicted_ns)
    thread.cpu_ns += used_ns
    return cpu.end(took_ns)


def test_the_first_and_every_sixteenth_short_run_is_measured() -> None:
    thread = Thread()
    cpu = CpuTime(250_000, thread.read)
    measured = [run(cpu, thread, 10_000, 10_000)[1] for _ in range(3 * PERIOD)]
    assert [at for at, one in enumerate(measured) if one] == [0, PERIOD, 2 * PERIOD]
    assert thread.reads == 6


def test_what_is_predicted_to_be_long_is_always_measured() -> None:
    thread = Thread()
    cpu = CpuTime(250_000, thread.read)
    for used in (300_000, 100, 5_000_000):
        assert run(cpu, thread, 5_000_000, used, predicted_ns=250_001) == (used, True)


def test_after_one_that_was_long_unforeseen_the_next_is_measured() -> None:
    thread = Thread()
    cpu = CpuTime(250_000, thread.read)
    took = (10_000, 10_000, 5_000_000, 10_000, 10_000)
    assert [run(cpu, thread, one, one)[1] for one in took] == [True, False, False, True, False]


def test_the_others_count_at_the_share_of_the_last_that_was_measured() -> None:
    thread = Thread()
    cpu = CpuTime(250_000, thread.read)
    assert run(cpu, thread, 20_000, 15_000) == (15_000, True)
    assert run(cpu, thread, 40_000, 40_000) == (30_000, False)


def test_coarse_clocks_do_not_make_more_than_all_of_it() -> None:
    thread = Thread()
    cpu = CpuTime(250_000, thread.read)
    assert run(cpu, thread, 10_000, 12_000) == (12_000, True)
    assert run(cpu, thread, 10_000, 0) == (10_000, False)


def test_a_run_that_failed_leaves_the_next_one_right() -> None:
    thread = Thread()
    cpu = CpuTime(250_000, thread.read)
    cpu.begin(10_000)
    thread.cpu_ns += 77_000
    assert run(cpu, thread, 20_000, 10_000) == (10_000, True)
