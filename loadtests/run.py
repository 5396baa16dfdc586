"""Measure Tidegate against the echo floor and write bench-results/. A quiet machine, please.

`python -m loadtests.run --rounds 5 --seconds 5`: about 10 minutes. Everything stays on loopback and ends by itself.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests import load, monitor, report, routing, startup, swap
from loadtests.processes import Serve, end_on_sigterm
from loadtests.rounds import Record, Settings
from loadtests.verdicts import PASS, Verdict

NAMES = (*load.NAMES, "routing", "monitor", "start", "swap")
NO_SERVER, GATE_FAILED = 1, 3
MOST_ROUNDS, MOST_STARTS, MOST_SECONDS, MOST_WORKERS = 50, 25, 120, 64


def bounded(least: int, most: int) -> "type[int]":
    """A whole number within bounds, for argparse."""

    class Bounded(int):
        def __new__(cls, text: str) -> "Bounded":
            number = int(text)
            if not least <= number <= most:
                raise argparse.ArgumentTypeError(f"{number} is not within {least} and {most}")
            return super().__new__(cls, number)

    return Bounded


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=bounded(1, MOST_ROUNDS), default=5, help="interleaved rounds of each row")
    add("--seconds", type=bounded(1, MOST_SECONDS), default=5, help="of one wrk run")
    add("--starts", type=bounded(1, MOST_STARTS), default=1, help="of the server, in the rounds of the monitor")
    add("--only", action="append", choices=NAMES, help="this row only; may be given again")
    add("--workers", type=bounded(1, MOST_WORKERS), default=1, help="workers of tidegate serve")
    add("--max-foreign", type=float, default=0.08, help="most CPU of strangers in a round, as a share of one core")
    add("--stand-in", action="store_true", help="put echo in Tidegate's place: proves the harness, measures nothing")
    add("--gate", action="store_true", help=f"exit {GATE_FAILED} unless every row passes")
    add("--out", type=Path, default=Path("bench-results"), help="folder of the report")
    return parser.parse_args(given)


def measured(wanted: Sequence[str], serve: Serve, settings: Settings, record: Record) -> list[Verdict]:
    """The wanted rows, one after the other."""
    found: list[Verdict] = []
    rows = [row for row in load.rows() if row.name in wanted]
    if rows:
        found += load.measure(rows, serve, settings, record)
    if "routing" in wanted:
        found += routing.measure(serve, settings, record)
    if "monitor" in wanted:
        found += monitor.measure(serve, settings, record)
    if "start" in wanted:
        found += startup.measure(serve, settings, record)
    if "swap" in wanted:
        found += swap.measure(serve, settings, record)
    return found


def main() -> int:
    """Measure, report, and say in the exit code whether a gate failed."""
    given = arguments()
    end_on_sigterm()
    record = Record()
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        settings = Settings(Path(name), given.rounds, given.seconds, given.max_foreign, given.starts)
        serve = Serve(Path(name), given.workers, given.stand_in)
        found = measured(given.only or NAMES, serve, settings, record)
    notes = [f"{given.workers} worker(s)."]
    notes += (
        ["STAND-IN: echo ran in Tidegate's place. These numbers say nothing about Tidegate."] if given.stand_in else []
    )
    print(report.write(given.out, found, record, settings, notes))
    if not record.kept and not record.thrown:
        return NO_SERVER
    return GATE_FAILED if given.gate and any(one.outcome != PASS for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
