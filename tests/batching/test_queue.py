"""The queue: order, buckets, priorities, sums."""

from hypothesis import given
from hypothesis import strategies as st

from runtimes.batching.job import QUEUED, Job
from runtimes.batching.queue import JobQueue


def job(rows: int = 1, bucket: object = None, priority: int = 1) -> Job:
    made = Job()
    made.rows, made.bucket, made.priority = rows, bucket, priority
    return made


def take(queue: JobQueue, limit_rows: int) -> list[Job]:
    head = queue.head()
    return [] if head is None else queue.take(head, limit_rows)


def test_first_come_first_served_within_a_bucket() -> None:
    queue = JobQueue()
    jobs = [job() for _ in range(5)]
    for each in jobs:
        queue.push(each, 0)
    assert take(queue, 3) == jobs[:3]
    assert take(queue, 3) == jobs[3:]
    assert take(queue, 3) == []


def test_another_shape_does_not_close_the_batch() -> None:
    queue = JobQueue()
    a, odd, b = job(bucket="a"), job(bucket="odd"), job(bucket="a")
    for each in (a, odd, b):
        queue.push(each, 0)
    assert take(queue, 8) == [a, b]
    assert take(queue, 8) == [odd]


def test_the_better_priority_goes_first_and_the_worse_fills_up() -> None:
    queue = JobQueue()
    low, high = job(priority=2), job(priority=1)
    queue.push(low, 0)
    queue.push(high, 0)
    assert take(queue, 8) == [high, low]


def test_the_head_alone_is_taken_even_when_it_is_larger_than_the_limit() -> None:
    queue = JobQueue()
    large = job(rows=9)
    queue.push(large, 0)
    queue.push(job(), 0)
    assert take(queue, 4) == [large]


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from("ab"), st.integers(1, 2), st.booleans()), max_size=40))
def test_nothing_is_lost_and_sums_hold(made: list[tuple[int, str, int, bool]]) -> None:
    queue = JobQueue()
    kept = []
    for rows, bucket, priority, dropped in made:
        each = job(rows, bucket, priority)
        queue.push(each, 0)
        if dropped:
            queue.drop(each)
        else:
            kept.append(each)
    assert queue.rows == sum(each.rows for each in kept)
    taken = []
    while batch := take(queue, 7):
        assert len(batch) == 1 or sum(each.rows for each in batch) <= 7
        assert len({each.bucket for each in batch}) == 1
        assert all(each.state != QUEUED for each in batch)
        taken += batch
    assert sorted(map(id, taken)) == sorted(map(id, kept))
    assert (queue.rows, queue.jobs, queue.size_bytes) == (0, 0, 0)
