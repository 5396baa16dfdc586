"""The data: 100,000 loans in the order of time. Trained on the first quarter; the world changes at the last."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

FEATURE_NAMES: Final = (
    "car_value",
    "salary_range",
    "debt_to_income_ratio",
    "loan_length",
    "repaid_loan_on_prev_car",
    "size_of_downpayment",
    "driver_tenure",
)
DRIFTED: Final = frozenset({"car_value", "salary_range", "repaid_loan_on_prev_car", "loan_length"})
"""Whose distributions change."""
TRAINED: Final = slice(0, 25_000)
REFERENCE: Final = slice(25_000, 50_000)
"""For the reference: rows that the model was not trained on."""
ANALYSIS: Final = slice(50_000, 100_000)
CHANGE: Final = 25_000
"""Row of the analysis from which the world is another."""
SPACING_MS: Final = 523_152
"""Between two loans."""
_FILE: Final = Path(__file__).parent / "data" / "car_loan.npz"


@dataclass(frozen=True, eq=False)
class Loans:
    """Rows in the order of time.

    Attributes:
        inputs: FP32 [rows, 7], columns as FEATURE_NAMES.
        repaid: float64 [rows], 0 or 1.
    """

    inputs: NDArray[np.float32]
    repaid: NDArray[np.float64]

    def __getitem__(self, rows: slice) -> "Loans":
        return Loans(self.inputs[rows], self.repaid[rows])


def load() -> Loans:
    """All loans."""
    with np.load(_FILE, allow_pickle=False) as columns:
        inputs = np.column_stack([columns[name].astype(np.float32) for name in FEATURE_NAMES])
        return Loans(inputs, columns["repaid"].astype(np.float64))
