"""References that are remembered are those that are served, however many versions come and go."""

import hashlib
from pathlib import Path

import numpy as np

from gateway.control.messages import WantedModel
from gateway.control.references import References
from gateway.monitor.plan import CountPlan, FeaturePlan
from gateway.monitor.reference import FILE_NAME, Binding, Reference, Tensor, dumped, identified
from gateway.monitor.settings import Spec
from runtimes.registry.modelconfig import ModelConfig

PLAN = CountPlan("", (FeaturePlan("a", "numeric", 0, 0, (0.0, 0.5, 1.0)),))


def test_what_is_not_asked_for_in_a_round_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"a model")
    binding = Binding(hashlib.sha256(b"a model").hexdigest(), (Tensor("x", "FP32", (-1, 1)),), ())
    reference = identified(Reference(PLAN, np.full(PLAN.size, 1_000, np.int64), binding))
    (tmp_path / FILE_NAME).write_bytes(dumped(reference))
    read: list[Path] = []

    def digest_of(path: Path) -> str:
        read.append(path)
        return binding.digest

    references = References(digest_of)
    for version in range(300):
        for wanted in (0, version):
            model = WantedModel("m", wanted, f"sha256:{wanted}", str(tmp_path), "model.onnx", ModelConfig())
            found, problem = references.find(model, Spec())
            assert (found and found.id, problem) == (reference.id, "")
        references.settle()
        assert len(references._known) <= 2
    assert len(read) == 300, "what is served is read once"
