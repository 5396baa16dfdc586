"""The versions of the monitor's act, each with the reference that belongs to it.

Version 1 is the logistic regression, version 2 the network. Version 3 is a network that was trained on as many
defaulted as repaid loans; its notebook corrects the scores for that, and the exported file does not. Its validation ran
in the notebook, so its reference holds the scores that the file should give. `python -m examples.credit.validated DIR`
writes them.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from examples.credit import build, train
from examples.credit.applicants import GROUPS, Applicants, drawn, held_out
from examples.credit.features import FEATURE_NAMES, load
from gateway.monitor.fit import Choices, Rows, fit
from gateway.monitor.reference import FILE_NAME, dumped
from runtimes.execution.session import OnnxSession, RunControl
from runtimes.tensors import Array

REFERENCE_ROWS: Final = 40_000
SEED: Final = 7
REPAID_TO_DEFAULTED: Final = 7 / 3
"""In the data; 1 in the training of version 3."""


def models(root: Path) -> None:
    """Write versions 1 to 3 of the credit model and their references below `root`."""
    credit = load()
    networks = {version: train.train(credit, recipe)[0] for version, (_, recipe) in build.RECIPES.items()}
    content = {version: build.credit_model(network) for version, network in networks.items()}
    content[3] = build.credit_model(uncorrected(networks[2]))
    folder = root / build.CREDIT
    build.write(folder / "model.yaml", build.model_yaml().encode())
    for version, model in content.items():
        build.write(folder / str(version) / "model.onnx", model)
    rows = drawn(held_out(credit), REFERENCE_ROWS, SEED)
    scores = {version: answers(folder / str(version) / "model.onnx", rows) for version in networks}
    scores[3] = scores[2]  # what the notebook said
    for version, given in scores.items():
        build.write(folder / str(version) / FILE_NAME, reference(folder / str(version) / "model.onnx", rows, given))


def uncorrected(network: train.Network) -> train.Network:
    """The network as it was before its scores were corrected for the share of defaults."""
    *first, last = network
    return (*first, train.Layer(last.weights, last.bias + np.log(REPAID_TO_DEFAULTED)))


def answers(model: Path, rows: Applicants) -> Array:
    """[rows, 1] the scores that a model file gives."""
    return OnnxSession(model).run([rows.inputs], RunControl())[0]


def reference(model: Path, rows: Applicants, scores: Array) -> bytes:
    """What `tidegate monitor fit` writes of these rows."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    given = Rows([rows.inputs], [scores], rows.groups, rows.defaulted.astype(np.float64))
    choices = Choices(names={build.INPUT: FEATURE_NAMES}, groups=GROUPS)
    return dumped(fit(OnnxSession(model).signature, digest, given, choices).reference)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write versions 1 to 3 of the credit model with their references.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    models(parser.parse_args().directory)


if __name__ == "__main__":
    main()
