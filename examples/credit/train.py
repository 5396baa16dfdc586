"""Train both versions with numpy alone: version 1 is a logistic regression, version 2 a small network (24-32-1).

`python -m examples.credit.train` prints how good they are. The seed is fixed: the same machine gives the same weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.credit.features import Credit, Floats, load

SEED: Final = 20240229
TEST_SHARE: Final = 0.3
CALIBRATION_BINS: Final = 5
_DECAY_1, _DECAY_2 = 0.9, 0.999  # of Adam (Kingma and Ba, 2015)

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """x -> x @ weights + bias; weights are [in, out]."""

    weights: Doubles
    bias: Doubles


Network = tuple[Layer, ...]
"""Layers with ReLU between them and a sigmoid behind the last one. One layer = logistic regression."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: sizes of its hidden layers, full-batch Adam steps, step size, L2 penalty."""

    hidden: tuple[int, ...]
    steps: int
    rate: float
    penalty: float


LOGISTIC: Final = Recipe(hidden=(), steps=800, rate=0.03, penalty=0.01)
MLP: Final = Recipe(hidden=(32,), steps=200, rate=0.005, penalty=0.02)


@dataclass(frozen=True)
class Split:
    """Row numbers for training and for the test; they share none."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Quality:
    """Measured on the test rows.

    Attributes:
        calibration: per bin of predicted probability: (rows, mean prediction, share that defaulted).
        calibration_error: mean absolute gap of the two, weighted by rows.
    """

    auc: float
    accuracy: float
    calibration: tuple[tuple[int, float, float], ...]
    calibration_error: float


def split(rows: int, seed: int = SEED) -> Split:
    """A fixed shuffle of the row numbers, cut in two."""
    order = np.random.default_rng(seed).permutation(rows)
    tests = round(rows * TEST_SHARE)
    return Split(order[tests:], order[:tests])


def sigmoid(x: Doubles) -> Doubles:
    """1 / (1 + exp(-x)) without overflow."""
    result: Doubles = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def predict(network: Network, inputs: Floats | Doubles) -> Doubles:
    """[rows] probability that the loan is not repaid."""
    return _forward(network, inputs.astype(np.float64))[-1][:, 0]


def _forward(network: Network, inputs: Doubles) -> list[Doubles]:
    """Inputs of every layer, then the output."""
    values = [inputs]
    for layer in network[:-1]:
        values.append(np.maximum(values[-1] @ layer.weights + layer.bias, 0.0))
    values.append(sigmoid(values[-1] @ network[-1].weights + network[-1].bias))
    return values


def _gradients(network: Network, inputs: Doubles, wanted: Doubles, penalty: float) -> list[Doubles]:
    """Of the mean cross-entropy plus the L2 penalty, in the order weights, bias, weights, bias ..."""
    values = _forward(network, inputs)
    error = (values[-1] - wanted[:, None]) / len(wanted)
    gradients: list[Doubles] = []
    for layer, entering in zip(reversed(network), reversed(values[:-1]), strict=True):
        gradients[:0] = [entering.T @ error + penalty * layer.weights, error.sum(axis=0)]
        error = (error @ layer.weights.T) * (entering > 0)
    return gradients


def _start(sizes: Sequence[int], rng: np.random.Generator) -> list[Doubles]:
    """He initialisation; zeros for a single layer, where it cannot matter."""
    scale = 0.0 if len(sizes) == 2 else 1.0
    parameters: list[Doubles] = []
    for fan_in, fan_out in pairwise(sizes):
        parameters += [rng.standard_normal((fan_in, fan_out)) * scale * (2 / fan_in) ** 0.5, np.zeros(fan_out)]
    return parameters


def _network(parameters: Sequence[Doubles]) -> Network:
    return tuple(Layer(weights, bias) for weights, bias in zip(parameters[::2], parameters[1::2], strict=True))


def _scaled(network: Network, mean: Doubles, spread: Doubles) -> Network:
    """The same function of unscaled inputs: (x - mean) / spread moves into the first layer."""
    first = network[0]
    weights = first.weights / spread[:, None]
    return (Layer(weights, first.bias - mean @ weights), *network[1:])


def fit(inputs: Floats, defaulted: Floats, recipe: Recipe, seed: int = SEED) -> Network:
    """Full-batch Adam on standardised inputs; the result takes inputs as they are."""
    raw, wanted = inputs.astype(np.float64), defaulted.astype(np.float64)
    mean, spread = raw.mean(axis=0), raw.std(axis=0)
    spread[spread == 0.0] = 1.0
    scaled = (raw - mean) / spread
    parameters = _start((inputs.shape[1], *recipe.hidden, 1), np.random.default_rng(seed))
    first = [np.zeros_like(value) for value in parameters]
    second = [np.zeros_like(value) for value in parameters]
    for step in range(1, recipe.steps + 1):
        gradients = _gradients(_network(parameters), scaled, wanted, recipe.penalty)
        for i, gradient in enumerate(gradients):
            first[i] = _DECAY_1 * first[i] + (1 - _DECAY_1) * gradient
            second[i] = _DECAY_2 * second[i] + (1 - _DECAY_2) * gradient**2
            momentum, size = first[i] / (1 - _DECAY_1**step), second[i] / (1 - _DECAY_2**step)
            parameters[i] = parameters[i] - recipe.rate * momentum / (np.sqrt(size) + 1e-8)
    return _scaled(_network(parameters), mean, spread)


def auc(scores: Doubles, defaulted: Floats) -> float:
    """Chance that a defaulted loan has a higher score than a repaid one; ties count half."""
    bad, good = scores[defaulted == 1], scores[defaulted == 0]
    differences = bad[:, None] - good[None, :]
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


def _calibration(scores: Doubles, defaulted: Floats) -> tuple[tuple[int, float, float], ...]:
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    masks = [bins == k for k in range(CALIBRATION_BINS)]
    return tuple((int(m.sum()), float(scores[m].mean()), float(defaulted[m].mean())) for m in masks if m.any())


def quality(network: Network, inputs: Floats, defaulted: Floats) -> Quality:
    """How well the network predicts these rows."""
    scores = predict(network, inputs)
    calibration = _calibration(scores, defaulted)
    error = sum(rows * abs(predicted - seen) for rows, predicted, seen in calibration) / len(scores)
    accuracy = float(((scores > 0.5) == (defaulted == 1)).mean())
    return Quality(auc(scores, defaulted), accuracy, calibration, error)


def train(credit: Credit, recipe: Recipe) -> tuple[Network, Quality]:
    """Fit on the training rows, measure on the others."""
    parts = split(len(credit.inputs))
    network = fit(credit.inputs[parts.train], credit.defaulted[parts.train], recipe)
    return network, quality(network, credit.inputs[parts.test], credit.defaulted[parts.test])


def summary(title: str, found: Quality) -> str:
    """One line."""
    return (
        f"{title}: AUC {found.auc:.3f}, accuracy {found.accuracy:.3f}, "
        f"calibration error {found.calibration_error:.3f} (test rows)"
    )


def main() -> None:
    """Train both and print their quality."""
    credit = load()
    for title, recipe in (("version 1, logistic regression", LOGISTIC), ("version 2, network 24-32-1", MLP)):
        _, found = train(credit, recipe)
        print(summary(title, found))
        for rows, predicted, seen in found.calibration:
            print(f"  {rows:4d} rows: predicted {predicted:.2f}, defaulted {seen:.2f}")


if __name__ == "__main__":
    main()
