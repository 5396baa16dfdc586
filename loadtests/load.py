"""Closed-loop rows: tiny at 32, 8 and 1 connections, mlp as JSON and binary, each against echo in the same rounds."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loadtests import bare, models, verdicts, wrk
from loadtests.processes import CpuWatch, Serve, Server, echo_server
from loadtests.rounds import LoadRound, Record, Settings, load_round, quiet
from loadtests.verdicts import Samples, Verdict, series

WARM_S = 1
BARE_S = 0.5
BATCH_ROWS = 32


@dataclass(frozen=True)
class LoadRow:
    """One row: what is posted over how many connections, and what is asked of it."""

    name: str
    work: str
    reach: str
    payload: models.Payload
    connections: int
    bare_model: str
    bare_rows: int
    judge: Callable[[Samples], tuple[str, str]]


@dataclass(frozen=True)
class BareRound:
    """A bare run with the CPU that strangers took meanwhile."""

    model: str
    rows: int
    runs: int
    run_us: float
    row_us: float
    foreign_share: float


@dataclass
class Sides:
    """The kept rounds of one row."""

    echo: list[LoadRound] = field(default_factory=list)
    server: list[LoadRound] = field(default_factory=list)
    bare: list[BareRound] = field(default_factory=list)

    def samples(self) -> Samples:
        """The numbers that verdicts need."""
        return Samples(
            echo_rps=[one.requests_per_second for one in self.echo],
            server_rps=[one.requests_per_second for one in self.server],
            echo_p50_us=[one.p50_us for one in self.echo],
            server_p50_us=[one.p50_us for one in self.server],
            echo_cpu_us=[one.cpu_us_per_request for one in self.echo],
            server_cpu_us=[one.cpu_us_per_request for one in self.server],
            bare_us=[one.row_us for one in self.bare],
            errors=sum(one.errors for one in (*self.server, *self.echo)),
        )


def throughput_of(reach: float) -> Callable[[Samples], tuple[str, str]]:
    """Judge requests per second against echo's."""

    def judge(samples: Samples) -> tuple[str, str]:
        ratio = verdicts.throughput(samples)
        return verdicts.shown(ratio, 2, "x echo"), verdicts.at_least(ratio, reach)

    return judge


def latency_of(reach: float) -> Callable[[Samples], tuple[str, str]]:
    """Judge p50 against echo's and the bare run."""

    def judge(samples: Samples) -> tuple[str, str]:
        ratio = verdicts.latency(samples)
        return verdicts.shown(ratio, 2, "x (echo p50 + bare run)"), verdicts.at_most(ratio, reach)

    return judge


def ideal_of(reach: float) -> Callable[[Samples], tuple[str, str]]:
    """Judge requests per second against what echo and the bare row would allow one after the other."""

    def judge(samples: Samples) -> tuple[str, str]:
        share = verdicts.share_of_ideal(samples)
        return verdicts.shown(share, 2, "of 1 / (echo us + run us per row)"), verdicts.at_least(share, reach)

    return judge


def rows() -> list[LoadRow]:
    """The closed-loop rows of section 12 of the design that exist now."""
    tiny = models.json_payload("tiny", models.TINY_SIZES[0])
    wide_json = models.json_payload("mlp", models.MLP_SIZES[0])
    wide_binary = models.binary_payload("mlp", models.MLP_SIZES[0])
    ideal = "of 1 / (echo us + run us per row at 32 rows)"
    return [
        LoadRow("tiny-32", "1x24 JSON, 32 connections", ">= 1.2 x echo", tiny, 32, "tiny", 1, throughput_of(1.2)),
        LoadRow("tiny-8", "1x24 JSON, 8 connections", ">= 0.8 x echo", tiny, 8, "tiny", 1, throughput_of(0.8)),
        LoadRow(
            "tiny-1",
            "1x24 JSON, 1 connection",
            "p50 <= 1.7 x (echo p50 + bare run)",
            tiny,
            1,
            "tiny",
            1,
            latency_of(1.7),
        ),
        LoadRow(
            "mlp-json", "1x512 JSON, MLP, 32 connections", f">= 0.85 {ideal}", wide_json, 32, "mlp", 32, ideal_of(0.85)
        ),
        LoadRow(
            "mlp-binary",
            "1x512 binary, MLP, 32 connections",
            f">= 0.9 {ideal}",
            wide_binary,
            32,
            "mlp",
            32,
            ideal_of(0.9),
        ),
    ]


NAMES = ("tiny-32", "tiny-8", "tiny-1", "mlp-json", "mlp-binary")
CPU_WORK, CPU_REACH, CPU_MOST = "server CPU per request, 1x24 JSON, 32 connections", "<= 0.9 x echo's", 0.9


@contextmanager
def both_servers(serve: Serve, repository: Path) -> Iterator[tuple[Server, Server]]:
    """Echo and Tidegate, both ready."""
    with ExitStack() as stack:
        echo = stack.enter_context(echo_server(serve.folder))
        echo.wait_ready()
        server = stack.enter_context(serve.server(repository, serve.folder / "data-load"))
        server.wait_ready()
        yield echo, server


def measure(wanted: list[LoadRow], serve: Serve, settings: Settings, record: Record) -> list[Verdict]:
    """All wanted rows over one pair of servers; without Tidegate each row says why."""
    repository = serve.folder / "load-models"
    models.put_version(repository, "tiny", 1, models.tiny())
    models.put_version(repository, "mlp", 1, models.mlp())
    found = []
    try:
        with both_servers(serve, repository) as (echo, server):
            for row in wanted:
                found += judged(row, rounds_of(row, echo, server, repository, settings, record), settings, record)
    except (RuntimeError, OSError) as error:
        done = {one.work for one in found}
        missing = {row.work: row.reach for row in wanted if row.work not in done}
        found += verdicts.unmeasured(missing, str(error))
    return found


def rounds_of(
    row: LoadRow, echo: Server, server: Server, repository: Path, settings: Settings, record: Record
) -> Sides:
    """Interleaved rounds of one row: echo, Tidegate, bare, echo, ..."""
    print(f"{row.name}: {row.work}", flush=True)
    sides = Sides()
    model = repository / row.bare_model / "1" / "model.onnx"
    for one in (echo, server):
        wrk.run(row.payload, one.port, row.connections, WARM_S, settings.folder)
    for _ in range(settings.rounds):
        for target, kept in ((echo, sides.echo), (server, sides.server)):
            run = quiet(row.name, settings, record, partial(load_round, target, row.payload, row.connections, settings))
            kept += [run] if run is not None else []
        alone = quiet(row.name, settings, record, partial(bare_round, row.bare_model, model, row.bare_rows))
        sides.bare += [alone] if alone is not None else []
    return sides


def bare_round(name: str, model: Path, rows: int) -> BareRound:
    """One bare measurement in its own process, the servers idle."""
    watch = CpuWatch(None)
    result = bare.measure(model, rows, BARE_S)
    return BareRound(name, rows, result.runs, result.run_us, result.row_us, watch.spent().foreign_share)


def judged(row: LoadRow, sides: Sides, settings: Settings, record: Record) -> list[Verdict]:
    """The row's verdict, and on the first row that of the CPU."""
    samples = sides.samples()
    thrown = record.thrown_note(row.name, settings.max_foreign)
    measured, outcome = row.judge(samples)
    found = [
        Verdict(row.work, row.reach, measured, verdicts.faultless(outcome, samples.errors), lines(samples, thrown))
    ]
    if row.name == "tiny-32":
        found.append(cpu_verdict(samples, thrown))
    return found


def cpu_verdict(samples: Samples, thrown: str) -> Verdict:
    """CPU of the whole tree against echo's."""
    ratio = verdicts.cpu(samples)
    rounds = (
        f"echo us {series(samples.echo_cpu_us, 1)}",
        f"tidegate us {series(samples.server_cpu_us, 1)}",
        thrown,
    )
    outcome = verdicts.faultless(verdicts.at_most(ratio, CPU_MOST), samples.errors)
    return Verdict(CPU_WORK, CPU_REACH, verdicts.shown(ratio, 2, "x echo's"), outcome, rounds)


def lines(samples: Samples, thrown: str) -> tuple[str, ...]:
    """Every kept round, and what was not kept."""
    return (
        f"echo req/s {series(samples.echo_rps)}",
        f"tidegate req/s {series(samples.server_rps)}",
        f"echo p50 us {series(samples.echo_p50_us)}",
        f"tidegate p50 us {series(samples.server_p50_us)}",
        f"bare us per row {series(samples.bare_us, 2)}",
        f"failed requests {samples.errors}",
        thrown,
    )
