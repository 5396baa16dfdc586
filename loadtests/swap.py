"""A version swap under paced traffic at half capacity: no failure, and p99 at most twice that of a run without."""

from dataclasses import dataclass
from pathlib import Path

from loadtests import models, verdicts, wrk
from loadtests.models import SEED, Payload
from loadtests.paced import Event, PacedClient, PacedResult
from loadtests.processes import CpuWatch, Serve, Server
from loadtests.rounds import Record, Settings, quiet
from loadtests.verdicts import MISS, UNKNOWN, Verdict, percentile, series

WORK, REACH, MOST = "version swap at half capacity", "0 failures; p99 <= 2 x the same run without", 2.0
POLL = {"TIDEGATE_MODELS__POLL_INTERVAL_MS": "500", "TIDEGATE_MODELS__QUIET_PERIOD_MS": "500"}
LEAST_S = 5.0  # poll + quiet period + load + some of the new version
PUT_AT_S = 0.5
MOST_RATE = 25_000.0  # what one thread paces well; a capacity above twice this is not asked for in full
NEAR_S = 0.5  # on both sides of the change


@dataclass(frozen=True)
class SwapRound:
    """One paced run, with or without a new version put there meanwhile."""

    kind: str
    rate: float
    offered: int
    answers: int
    failures: dict[str, int]
    models: dict[str, int]
    changed_at_s: float | None
    p50_us: float
    p99_us: float
    p999_us: float
    most_us: float
    near_p99_us: float
    client_lag_p99_us: float
    foreign_share: float

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return sum(self.failures.values())


class Swapper:
    """Runs paced rounds against one server and puts the next version there when asked."""

    def __init__(self, server: Server, repository: Path, payload: Payload, rate: float, seconds: float) -> None:
        self._server = server
        self._repository = repository
        self._payload = payload
        self._rate = rate
        self._seconds = seconds
        self._version = 1

    def plain(self) -> SwapRound:
        """The same run without."""
        return self._run("without", [])

    def swap(self) -> SwapRound:
        """A run during which the next version is renamed into the repository."""
        self._version += 1
        version = self._version
        staged = models.stage_version(self._repository, "tiny", version, models.tiny(SEED + version))
        put = Event(PUT_AT_S, lambda: models.publish(staged, self._repository, "tiny", version))
        return self._run("swap", [put])

    def _run(self, kind: str, events: list[Event]) -> SwapRound:
        client = PacedClient(self._payload, self._server.port, self._rate, self._seconds)
        watch = CpuWatch(self._server.pid)
        result = client.run(events)
        return summary(kind, result, watch.spent().foreign_share)


def summary(kind: str, result: PacedResult, foreign_share: float) -> SwapRound:
    """The numbers of one paced run."""
    changed = result.changed_at_s()
    near = [a.latency_us for a in result.answers if changed is not None and abs(a.intended_s - changed) <= NEAR_S]
    return SwapRound(
        kind=kind,
        rate=result.rate,
        offered=result.offered,
        answers=len(result.answers),
        failures=dict(result.failures),
        models=result.models(),
        changed_at_s=changed,
        p50_us=result.latency_us(0.5),
        p99_us=result.latency_us(0.99),
        p999_us=result.latency_us(0.999),
        most_us=result.latency_us(1.0),
        near_p99_us=percentile(near, 0.99),
        client_lag_p99_us=result.lag_p99_us,
        foreign_share=foreign_share,
    )


def measure(serve: Serve, settings: Settings, record: Record) -> list[Verdict]:
    """Rounds in turn, without and with a swap, over one server in mode poll."""
    print(f"swap: {WORK}", flush=True)
    repository = serve.folder / "swap-models"
    models.put_version(repository, "tiny", 1, models.tiny())
    payload = models.json_payload("tiny", models.TINY_SIZES[0])
    plain: list[SwapRound] = []
    swaps: list[SwapRound] = []
    try:
        with serve.server(repository, serve.folder / "data-swap", "--model-control-mode", "poll", env=POLL) as server:
            server.wait_ready()
            capacity = wrk.run(
                payload, server.port, 32, max(1, settings.seconds // 2), settings.folder
            ).requests_per_second
            rate = min(capacity / 2, MOST_RATE)
            swapper = Swapper(server, repository, payload, rate, max(LEAST_S, 2.0 * settings.seconds))
            for _ in range(settings.rounds):
                for run, kept in ((swapper.plain, plain), (swapper.swap, swaps)):
                    one = quiet("swap", settings, record, run)
                    kept += [one] if one is not None else []
    except (RuntimeError, OSError) as error:
        return verdicts.unmeasured({WORK: REACH}, str(error))
    offered = f"capacity {capacity:.0f} req/s, offered {rate:.0f} req/s"
    return [verdict(plain, swaps, (offered, record.thrown_note("swap", settings.max_foreign)))]


def verdict(plain: list[SwapRound], swaps: list[SwapRound], notes: tuple[str, ...]) -> Verdict:
    """Failures of all kept rounds, and the ratio of the median p99s; a swap that was not seen proves nothing."""
    failed = sum(one.failed for one in (*plain, *swaps))
    with_us, without_us = ([one.p99_us for one in runs] for runs in (swaps, plain))
    ratio = verdicts.median(with_us) / verdicts.median(without_us)
    outcome = verdicts.at_most(ratio, MOST)
    unseen = sum(one.changed_at_s is None for one in swaps)
    if failed:
        outcome = MISS
    elif unseen:
        outcome = UNKNOWN
    rounds = (
        f"p99 us without {series(without_us)}",
        f"p99 us with {series(with_us)}",
        f"p99 us within {NEAR_S:g} s of the change {series([one.near_p99_us for one in swaps])}",
        f"slowest ms with {series([one.most_us / 1e3 for one in swaps], 1)}",
        f"client's own lag p99 us {series([one.client_lag_p99_us for one in (*plain, *swaps)])}",
        f"swaps seen in the answers {len(swaps) - unseen} of {len(swaps)}",
        f"failures {[one.failures for one in (*plain, *swaps) if one.failures]}",
    )
    return Verdict(WORK, REACH, f"{failed} failures; p99 {verdicts.shown(ratio, 2, 'x')}", outcome, (*rounds, *notes))
