"""Who asks for a loan, for the monitor's act: rows that no model was trained on, drawn again and again.

The held-out loans are 300, too few for a stream of applicants. So one is drawn at random, and duration and amount are
moved a little. Each keeps what became of its loan, and the age group of who asked.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.credit import train
from examples.credit.features import FEATURE_NAMES, Credit, Floats, load

GROUPS: Final = ("older", "young")
JITTER: Final = 0.05
"""Duration and amount differ from those of the drawn loan by up to this share."""
_DURATION, _AMOUNT, _NO_ACCOUNT = map(FEATURE_NAMES.index, ("duration_months", "credit_amount_dm", "checking_none"))

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Applicants:
    """Rows and what goes with them.

    Attributes:
        inputs: [rows, 24] float32.
        defaulted: [rows] float32; 1 = the loan was not repaid.
        groups: [rows] index into GROUPS.
    """

    inputs: Floats
    defaulted: Floats
    groups: NDArray[np.int64]

    def chosen(self, rows: NDArray[np.int64]) -> "Applicants":
        """These rows, in this order."""
        return Applicants(self.inputs[rows], self.defaulted[rows], self.groups[rows])


def held_out(credit: Credit | None = None) -> Applicants:
    """The loans that are tested with and not trained on."""
    credit = credit or load()
    groups = np.array([GROUPS.index(name) for name in credit.protected.age_group], np.int64)
    return Applicants(credit.inputs, credit.defaulted, groups).chosen(train.split(len(groups)).test)


def moved(applicants: Applicants, rng: np.random.Generator) -> Applicants:
    """The same with other durations and amounts, each by up to JITTER of it."""
    inputs = applicants.inputs.copy()
    shifts = rng.uniform(1 - JITTER, 1 + JITTER, (len(inputs), 2)).astype(np.float32)
    inputs[:, [_DURATION, _AMOUNT]] = np.round(inputs[:, [_DURATION, _AMOUNT]] * shifts, 1)
    return Applicants(inputs, applicants.defaulted, applicants.groups)


def drawn(applicants: Applicants, rows: int, seed: int) -> Applicants:
    """So many of them at random, each moved a little."""
    rng = np.random.default_rng(seed)
    return moved(applicants.chosen(rng.integers(0, len(applicants.inputs), rows)), rng)


def campaign(applicants: Applicants) -> Doubles:
    """How much more often each asks after a campaign for large loans over a long time; the mean is 1.

    Who keeps no account asks less often than before: the campaign runs at the counters of the bank.
    """
    columns = applicants.inputs.astype(np.float64)
    standard = [
        (one - one.mean()) / one.std() for one in (np.log(columns[:, _AMOUNT]), columns[:, _DURATION])
    ]  # fmt: skip
    weights = np.exp(0.6 * standard[0] + 0.6 * standard[1] - columns[:, _NO_ACCOUNT])
    found: Doubles = weights / weights.mean()
    return found
