"""The reference of the car-loan model, and its answers. Nothing but the project's own parts."""

import hashlib
from pathlib import Path

from examples.carloan.loans import FEATURE_NAMES, Loans
from examples.credit.build import INPUT
from gateway.monitor.fit import Choices, Fitted, Rows, fit
from runtimes.execution.session import OnnxSession, RunControl
from runtimes.tensors import Array


def scores(model: Path, loans: Loans) -> Array:
    """What the model answers: FP32 [rows, 1]."""
    return OnnxSession(model).run([loans.inputs], RunControl())[0]


def profile(model: Path, loans: Loans) -> Fitted:
    """The reference of these rows, with their labels."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    rows = Rows([loans.inputs], [scores(model, loans)], labels=loans.repaid)
    return fit(OnnxSession(model).signature, digest, rows, Choices(names={INPUT: FEATURE_NAMES}))
