"""`python -m tests.simulation.evidence.report [SCALE]`: all experiments as tables for docs/evidence.md.

SCALE 1 (default) is what the page shows; 0.02 is a quick look. Exit 1 when a promise was not kept.
"""

import sys

from router.evidence import planning
from tests.simulation.evidence.experiments import EXPERIMENTS
from tests.simulation.evidence.results import Delay, Rate

RATES = ["test", "setting", "rule", "replicas", "happened (99 % limits)", "promised"]
DELAYS = [
    "test",
    "setting",
    "replicas",
    "found",
    "median requests",
    "p90",
    "mean",
    "planned (mean)",
    "canary's bad answers",
]
RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
PLANS = ["weight", *(f"x{ratio:g}" for ratio in RATIOS)]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plans() -> list[list[str]]:
    """Requests in all to detect each ratio at each weight, with the default guardrail and a base rate of 1 %."""
    found = []
    for weight in (0.01, 0.05, 0.1, 0.25, 0.5):
        each = [planning.to_detect(ratio, weight, 0.01) for ratio in RATIOS]
        found.append([f"{weight:.0%}", *("never" if one is None else f"{one.total:,.0f}" for one in each)])
    return found


def main(scale: float) -> int:
    """Run everything and print it; the exit code."""
    rows = [row for run in EXPERIMENTS.values() for row in run(scale)]
    print(table(RATES, [row.cells() for row in rows if isinstance(row, Rate)]), end="\n\n")
    print(table(DELAYS, [row.cells() for row in rows if isinstance(row, Delay)]), end="\n\n")
    print(table(PLANS, plans()))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0))
