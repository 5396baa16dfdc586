"""People in Massachusetts, 2015 to 2018, counted by chunks of 5,000 in their order.

Source: `employment_MA_{reference,analysis,analysis_target}.pq` in the Python package nannyml 0.13.1 (Apache-2.0), whose
rows are from the American Community Survey (US Census Bureau, public domain), with predictions of NannyML's model of
employment. tests/parity/employment.py counted them. What belongs to one person is no longer known, but for score and
label; so nothing that looks at several features together can be asked.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parent / "data" / "employment_chunks.npz"
CHUNK = 5_000
SCORES = 1_000


@cache
def counts() -> dict[str, NDArray]:
    """By name; NAME is [chunk, value], "scores" [chunk, label, bin], "reference_chunks" how many are of 2015."""
    with np.load(FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def features() -> list[str]:
    """Names, in their order."""
    return [name.removesuffix("_values") for name in counts() if name.endswith("_values")]


def column(name: str, chunks: slice) -> list[NDArray]:
    """A feature's values, chunk by chunk, ascending in each."""
    return [np.repeat(counts()[f"{name}_values"], rows) for rows in counts()[name][chunks]]
