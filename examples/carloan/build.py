"""Write a model repository with car loans and a reference: `python -m examples.carloan.build DIR`.

    car-loan/model.yaml, 1/model.onnx (network 7-32-1), 1/reference.npz; held_out.npz, analysis.npz

`--train` trains the network anew and writes model.onnx beside this file; otherwise that file is taken, so that its
digest is the same everywhere. The two tables of rows are for `tidegate monitor fit` and `tidegate monitor replay`.
"""

import argparse
import hashlib
import io
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from examples.carloan.loans import ANALYSIS, FEATURE_NAMES, REFERENCE, TRAINED, Loans, load
from examples.credit import train
from examples.credit.build import INPUT, dense_model, layers_of, write

NAME: Final = "car-loan"
OUTPUT: Final = "probability_of_repayment"
MODEL: Final = Path(__file__).parent / "model.onnx"
RECIPE: Final = train.Recipe(hidden=(32,), steps=600, rate=0.02, penalty=1e-5)


def trained(loans: Loans) -> bytes:
    """The network as ONNX, trained on the rows of TRAINED."""
    rows = loans[TRAINED]
    network = train.fit(rows.inputs, rows.repaid.astype(np.float32), RECIPE)
    return dense_model("car_loan", layers_of(network), "Sigmoid", OUTPUT)


def model_yaml() -> str:
    """The columns have names."""
    return yaml.safe_dump({"feature_names": {INPUT: list(FEATURE_NAMES)}}, sort_keys=False)


def table(loans: Loans) -> bytes:
    """Rows with their labels, for `tidegate monitor`."""
    buffer = io.BytesIO()
    columns = {name: loans.inputs[:, at] for at, name in enumerate(FEATURE_NAMES)}
    np.savez_compressed(buffer, allow_pickle=False, **columns, repaid=loans.repaid.astype(np.int8))
    return buffer.getvalue()


def build(root: Path) -> None:
    """Write everything below `root`."""
    from examples.carloan.profile import profile
    from gateway.monitor.reference import dumped

    loans = load()
    folder = root / NAME
    write(folder / "model.yaml", model_yaml().encode())
    content = MODEL.read_bytes()
    write(folder / "1" / "model.onnx", content)
    print(f"{NAME}:1, network 7-32-1, sha256 {hashlib.sha256(content).hexdigest()[:12]}")
    write(folder / "1" / "reference.npz", dumped(profile(MODEL, loans[REFERENCE]).reference))
    write(root / "held_out.npz", table(loans[REFERENCE]))
    write(root / "analysis.npz", table(loans[ANALYSIS]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the car loans' model repository.")
    parser.add_argument("directory", type=Path, metavar="DIR", nargs="?")
    parser.add_argument("--train", action="store_true", help="train anew and write model.onnx beside this file")
    given = parser.parse_args()
    if given.train:
        write(MODEL, trained(load()))
    if given.directory is not None:
        build(given.directory)


if __name__ == "__main__":
    main()
