"""`python -m tests.simulation.evidence.report [SCALE]`: all experiments as tables for docs/evidence.md.

SCALE 1 (default) is what the page shows; 0.02 is a quick look. Exit 1 when a promise was not kept.
"""

import sys

from tests.simulation.evidence.experiments import EXPERIMENTS, Row
from tests.simulation.evidence.results import Delay, Rate

RATES = ["test", "setting", "rule", "replicas", "happened (99 % limits)", "promised"]
DELAYS = ["test", "setting", "replicas", "found", "median requests", "p90", "planned", "canary's bad answers"]


def table(head: list[str], rows: list[Row]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(scale: float) -> int:
    """Run everything and print it; the exit code."""
    rows = [row for run in EXPERIMENTS.values() for row in run(scale)]
    print(table(RATES, [row for row in rows if isinstance(row, Rate)]), end="\n\n")
    print(table(DELAYS, [row for row in rows if isinstance(row, Delay)]))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0))
