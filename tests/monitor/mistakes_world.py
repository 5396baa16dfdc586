"""Cohorts of two arms in a world whose hardness and whose split both move within the cohort."""

import numpy as np

from gateway.monitor.realised import SLICES, Cohort


def cohorts(
    rng: np.random.Generator,
    *,
    rows: int = 3_000,
    share: tuple[float, float] = (0.1, 0.1),
    wrong: tuple[float, float] = (0.1, 0.1),
    times: float = 1.0,
    coverage: tuple[float, float] = (0.7, 1.0),
    clump: int = 1,
) -> tuple[Cohort, Cohort]:
    """Champion and canary.

    Args:
        rows: of both arms, about.
        share: of the canary, at the cohort's begin and end; wrong: of each row, likewise.
        times: so many times as often the canary is wrong.
        coverage: of each decision class.
        clump: rows of a user: all in one slice, all right or all wrong.
    """
    found = Cohort.empty(1), Cohort.empty(1)
    begin = np.linspace(0.0, 1.0, SLICES)
    for at, (part, hard) in enumerate(
        zip(np.interp(begin, (0, 1), share), np.interp(begin, (0, 1), wrong), strict=True)
    ):
        for cohort, expected, risk in zip(found, (1 - part, part), (hard, hard * times), strict=True):
            for decision in (0, 1):
                users = rng.poisson(rows * expected / SLICES / 2 / clump)
                labelled = rng.binomial(users, coverage[decision])
                bad = rng.binomial(labelled, min(1.0, risk))
                cohort.predicted[0, decision] += users * clump
                cohort.errors[at, decision] += np.array([labelled - bad, bad]) * clump
                cohort.labels[0, decision, 100, [decision, 1 - decision]] += np.array([labelled - bad, bad]) * clump
    return found
