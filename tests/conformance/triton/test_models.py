"""Models of every shape that people have, under many callers at once: each gets the answer for its own rows."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import tritonclient.http as triton

from tests import models
from tests.conformance.triton.calls import Answer, burst, call, infer_body
from tests.tree import Tree, serve

SLOW = "batching: {max_batch_size: 1, max_queue_rows: 4}\n"
PRIORITIES = "batching: {max_batch_size: 1, priority_levels: 2}\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="module")
def tree(repository: Path) -> Iterator[Tree]:
    for name, model, config in (
        ("fixed", models.fixed_batch(3), ""),
        ("scalar", models.scalar(), ""),
        ("pair", models.add_and_sub(), ""),
        ("colours", models.colours(), ""),
        ("centred", models.centred(), ""),
        ("lookup", models.lookup(4), ""),
        ("split", models.mlp((3, 16, 2)), "batching: {max_batch_size: 64}\n"),
        ("widths", models.dynamic_width(), ""),
        ("optional", models.scaled_by_default(3.0), ""),
        ("slow", models.slow(), SLOW),
        ("priorities", models.slow(layers=400), PRIORITIES),
        ("slow_centred", models.slow_centred(), ""),
        ("endless", models.endless(), ""),
        ("mlp", models.mlp(), ""),
        ("zip_map", models.zip_map(), ""),
        ("sequence", models.sequence(), ""),
    ):
        models.write(repository, name, model, config=config)
    with serve(repository, "--workers", "1", "--allow-degraded-start") as running:
        yield running


def infer(tree: Tree, model: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    return call("POST", f"{tree.url}/v2/models/{model}/infer", body, headers)


def body(values: npt.NDArray[Any], name: str = "x", **more: object) -> bytes:
    """A request of FP32 values."""
    return infer_body(name, "FP32", list(values.shape), values.ravel().tolist(), **more)


def values_of(answer: Answer, name: str = "y") -> npt.NDArray[np.float64]:
    """An output as an array."""
    output = answer.output(name)
    return np.array(output["data"], np.float64).reshape(output["shape"])


def counts(tree: Tree, model: str) -> tuple[int, int, int]:
    """Rows, executions and failures so far."""
    status, text = tree.get(f"/v2/models/{model}/stats")
    assert status == 200, text
    (found,) = json.loads(text)["model_stats"]
    return found["inference_count"], found["execution_count"], found["inference_stats"]["fail"]["count"]


def config_of(tree: Tree, model: str) -> dict[str, Any]:
    return json.loads(tree.get(f"/v2/models/{model}/config")[1])


# ---- shapes ----


def test_a_fixed_first_dimension_is_not_the_rows(tree: Tree) -> None:
    config = config_of(tree, "fixed")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [3, 2])
    assert "dynamic_batching" not in config
    bodies = [body(np.full((3, 2), i, np.float32)) for i in range(20)]
    for i, answer in enumerate(burst(tree.port, "/v2/models/fixed/infer", bodies)):
        assert values_of(answer).tolist() == [[2.0 * i] * 2] * 3
    refused = infer(tree, "fixed", body(np.zeros((2, 2), np.float32)))
    assert refused.status == 400
    assert refused.json()["error"] == "input 'x': expected shape [3, 2], got [2, 2]"


def test_scalars(tree: Tree) -> None:
    assert config_of(tree, "scalar")["input"][0]["dims"] == []
    answer = infer(tree, "scalar", infer_body("x", "FP32", [], [21]))
    assert (answer.output("y")["shape"], answer.output("y")["data"]) == ([], [42.0])
    for shape, data in (([1], [21]), ([], [21, 22]), ([], [])):
        assert infer(tree, "scalar", infer_body("x", "FP32", shape, data)).status == 400


def test_a_scalar_with_tritons_client(tree: Tree) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{tree.port}") as client:
        for binary in (True, False):
            tensor = triton.InferInput("x", [], "FP32")
            tensor.set_data_from_numpy(np.array(4, np.float32), binary_data=binary)
            outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
            found = client.infer("scalar", [tensor], outputs=outputs).as_numpy("y")
            assert (found.shape, found.item()) == ((), 8.0)


def test_several_inputs_and_outputs_of_many_callers(tree: Tree) -> None:
    def request(i: int) -> bytes:
        items = [
            {"name": name, "datatype": "INT32", "shape": [2, 4], "data": [i * factor] * 8}
            for name, factor in (("b", 1), ("a", 100))
        ]
        return json.dumps({"inputs": items}).encode()

    answers = burst(tree.port, "/v2/models/pair/infer", [request(i) for i in range(30)])
    for i, answer in enumerate(answers):
        assert answer.output("total")["data"] == [101 * i] * 8
        assert answer.output("difference")["data"] == [99 * i] * 8
        assert answer.output("total")["shape"] == [2, 4]


def test_texts_in_and_out_of_many_callers(tree: Tree) -> None:
    names = [models.COLOURS[i % 3] for i in range(30)]
    answers = burst(
        tree.port, "/v2/models/colours/infer", [infer_body("name", "BYTES", [2, 1], [name, "none"]) for name in names]
    )
    for i, answer in enumerate(answers):
        assert answer.output("code")["data"] == [i % 3, -1]
        assert answer.output("echo") == {"name": "echo", "datatype": "BYTES", "shape": [2, 1], "data": [names[i], "?"]}


@pytest.mark.parametrize(
    ("model", "advice"),
    [("zip_map", "export the classifier with zipmap disabled"), ("sequence", "let the graph join it to one tensor")],
)
def test_what_is_no_tensor_is_refused_at_load_with_advice(tree: Tree, model: str, advice: str) -> None:
    entries = call("POST", f"{tree.url}/v2/repository/index", b"{}").json()
    (entry,) = [entry for entry in entries if entry["name"] == model]
    assert (entry["version"], entry["state"]) == ("1", "UNAVAILABLE")
    assert "only tensors are served" in entry["reason"]
    assert advice in entry["reason"]
    refused = infer(tree, model, body(np.zeros((1, 2), np.float32)))
    assert refused.status == 503
    assert advice in refused.json()["error"]


def test_no_rows_no_answers(tree: Tree) -> None:
    empty = np.zeros((0, 2), np.float32)
    for model in ("optional", "centred"):
        executions = counts(tree, model)[1]
        output = infer(tree, model, body(empty)).output("y")
        assert (output["shape"], output["data"]) == ([0, 2], [])
        assert counts(tree, model)[1] == executions
    with triton.InferenceServerClient(f"127.0.0.1:{tree.port}") as client:
        for binary in (True, False):
            tensor = triton.InferInput("x", [0, 2], "FP32").set_data_from_numpy(empty, binary_data=binary)
            outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
            assert client.infer("optional", [tensor], outputs=outputs).as_numpy("y").shape == (0, 2)


# ---- optional inputs: the graph has a value, a request may replace it ----


def scaled(i: int, scale: float | None, rows: int = 2) -> bytes:
    items = [{"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [i] * (2 * rows)}]
    if scale is not None:
        items.append({"name": "scale", "datatype": "FP32", "shape": [1], "data": [scale]})
    return json.dumps({"inputs": items}).encode()


def test_optional_inputs_are_described(tree: Tree) -> None:
    found = {item["name"]: (item["optional"], item["dims"]) for item in config_of(tree, "optional")["input"]}
    assert found == {"x": (False, [2]), "scale": (True, [1])}


def test_an_optional_input_holds_for_its_own_request_alone(tree: Tree) -> None:
    scales = [None if i % 3 == 0 else float(i) for i in range(40)]
    executions = counts(tree, "optional")[1]
    answers = burst(tree.port, "/v2/models/optional/infer", [scaled(i, scale) for i, scale in enumerate(scales)])
    for i, (answer, scale) in enumerate(zip(answers, scales, strict=True)):
        assert values_of(answer).tolist() == [[i * (3.0 if scale is None else scale)] * 2] * 2
    with_value = sum(scale is not None for scale in scales)
    # How many of those without one are merged depends on how busy the machine is.
    assert with_value < counts(tree, "optional")[1] - executions <= len(scales)


def test_an_optional_input_holds_for_every_slice_of_a_large_request(tree: Tree) -> None:
    assert set(values_of(infer(tree, "optional", scaled(2, 7.0, rows=200))).ravel().tolist()) == {14.0}
    assert set(values_of(infer(tree, "optional", scaled(2, None, rows=200))).ravel().tolist()) == {6.0}


def test_an_optional_input_is_checked_like_any_other(tree: Tree) -> None:
    item = {"name": "scale", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    wrong = json.dumps({"inputs": [json.loads(scaled(1, None))["inputs"][0], item]}).encode()
    assert infer(tree, "optional", wrong).json()["error"] == "input 'scale': expected shape [1], got [2]"
    alone = json.dumps({"inputs": [item | {"shape": [1], "data": [1]}]}).encode()
    assert infer(tree, "optional", alone).json()["error"] == "input 'x' is missing"


# ---- batches ----


def test_answers_that_depend_on_batch_mates_are_never_merged(tree: Tree) -> None:
    """x minus the mean over the rows: every caller has to get the mean over its own."""
    assert config_of(tree, "centred")["max_batch_size"] == 0
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((2 + i % 3, 2)).astype(np.float32) for i in range(20)]
    executions = counts(tree, "centred")[1]
    for values, answer in zip(
        given, burst(tree.port, "/v2/models/centred/infer", [body(v) for v in given]), strict=True
    ):
        np.testing.assert_allclose(values_of(answer), values - values.mean(axis=0), atol=1e-6)
    assert counts(tree, "centred")[1] - executions == 20


def test_more_rows_than_a_batch_may_have_are_split_and_joined(tree: Tree, repository: Path) -> None:
    values = np.random.default_rng(1).standard_normal((300, 3)).astype(np.float32)
    executions = counts(tree, "split")[1]
    found = values_of(infer(tree, "split", body(values)))
    np.testing.assert_allclose(found, alone(repository, "split", values), rtol=1e-5, atol=1e-6)
    assert counts(tree, "split")[1] - executions == 5, "64 + 64 + 64 + 64 + 44"


def test_several_large_requests_at_once(tree: Tree, repository: Path) -> None:
    rng = np.random.default_rng(2)
    given = [rng.standard_normal((60 + 30 * i, 3)).astype(np.float32) for i in range(8)]
    for values, answer in zip(given, burst(tree.port, "/v2/models/split/infer", [body(v) for v in given]), strict=True):
        np.testing.assert_allclose(values_of(answer), alone(repository, "split", values), rtol=1e-5, atol=1e-6)


def test_inner_widths_of_many_callers(tree: Tree) -> None:
    given = [np.full((1 + i % 2, 1 + i % 5), i, np.float32) for i in range(40)]
    for values, answer in zip(
        given, burst(tree.port, "/v2/models/widths/infer", [body(v) for v in given]), strict=True
    ):
        assert values_of(answer).tolist() == (2 * values).tolist()


def test_merged_rows_get_what_they_would_get_alone(tree: Tree, repository: Path) -> None:
    rng = np.random.default_rng(3)
    given = [rng.standard_normal((1, 24)).astype(np.float32) for _ in range(64)]
    rows, executions, _ = counts(tree, "mlp")
    answers = burst(tree.port, "/v2/models/mlp/infer", [body(v) for v in given])
    for values, answer in zip(given, answers, strict=True):
        np.testing.assert_allclose(values_of(answer), alone(repository, "mlp", values), rtol=1e-6, atol=1e-6)
    rows_after, executions_after, _ = counts(tree, "mlp")
    assert rows_after - rows == 64
    assert executions_after - executions < 64


def test_one_that_the_model_refuses_does_not_hurt_its_neighbours(tree: Tree) -> None:
    places = [9 if i == 11 else i % 4 for i in range(30)]
    answers = burst(tree.port, "/v2/models/lookup/infer", [infer_body("x", "INT64", [1], [place]) for place in places])
    for place, answer in zip(places, answers, strict=True):
        if place == 9:
            assert (answer.status, answer.json()["code"]) == (400, "model_rejected_input")
        else:
            assert answer.output("y")["data"] == [10.0 * place]


def alone(repository: Path, model: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What ONNX Runtime itself gives."""
    session = onnxruntime.InferenceSession(repository / model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})[0]


# ---- time and space ----


def test_a_deadline_that_passes_is_504_and_counted(tree: Tree) -> None:
    failures, expired = counts(tree, "endless")[2], tree.counter("tidegate_rejected_total", model="endless")
    request = infer_body("trips", "INT64", [], [1_000_000])
    answer = infer(tree, "endless", request, {"x-request-timeout-ms": "1"})
    assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded"), answer.body
    assert counts(tree, "endless")[2] - failures == 1
    assert tree.counter("tidegate_requests_total", model="endless", code="504") >= 1
    assert tree.counter("tidegate_rejected_total", model="endless") - expired == 1


def test_a_deadline_that_cannot_be_met_is_refused_before_the_work(tree: Tree) -> None:
    executions = counts(tree, "slow")[1]
    half = body(np.full((1, 1), 0.5, np.float32))
    answer = infer(tree, "slow", half, {"x-request-timeout-ms": "1"})
    assert (answer.status, answer.json()["code"]) == (429, "overloaded")
    assert "estimated wait" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) >= 1
    assert counts(tree, "slow")[1] == executions
    assert infer(tree, "slow", body(np.full((1, 1), 0.5, np.float32), parameters={"timeout": 1000})).status == 429
    assert infer(tree, "slow", half, {"x-request-timeout-ms": "10000"}).status == 200


def test_a_full_queue_is_429_with_a_time_to_come_back(tree: Tree) -> None:
    bodies = [body(np.full((1, 1), i, np.float32)) for i in range(24)]
    answers = burst(tree.port, "/v2/models/slow/infer", bodies)
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 429}
    # Four wait, one may run meanwhile; a queue that had no bound would have answered them all.
    assert 4 <= statuses.count(200) <= 12
    for answer in answers:
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert "would pass its bound of 4 rows" in answer.json()["error"]
    assert tree.counter("tidegate_rejected_total", model="slow", reason="queue_full") >= statuses.count(429)


def test_those_who_would_wait_too_long_are_told_at_once(tree: Tree) -> None:
    """A second of work for 40 callers with 300 ms each: nobody is let in only to fail later."""
    bodies = [body(np.full((1, 1), 0.5, np.float32)) for _ in range(40)]
    answers = burst(tree.port, "/v2/models/slow_centred/infer", bodies, {"x-request-timeout-ms": "300"})
    statuses = [answer.status for answer in answers]
    # How many depends on how busy the machine is; that not all are refused does not.
    assert statuses.count(200) >= 1
    assert statuses.count(429) >= 10
    # One may be unlucky on a busy machine; an estimate that took them for one batch would let all of them in.
    assert statuses.count(504) <= 1


def test_a_request_larger_than_the_queue_is_the_callers_mistake(tree: Tree) -> None:
    answer = infer(tree, "slow", body(np.zeros((5, 1), np.float32)))
    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert "can never wait in a queue of 4 rows" in answer.json()["error"]


def test_urgent_requests_overtake(tree: Tree) -> None:
    finished: list[str] = []

    def ask(kind: str, priority: int) -> None:
        request = body(np.full((1, 1), 0.5, np.float32), parameters={"priority": priority})
        assert infer(tree, "priorities", request).status == 200
        finished.append(kind)

    with ThreadPoolExecutor(13) as callers:
        patient = [callers.submit(ask, "patient", 2) for _ in range(12)]
        tree.until("a queue", lambda: tree.counter("tidegate_queue_rows", model="priorities") >= 6)
        before = len(finished)
        callers.submit(ask, "urgent", 1).result()
        for caller in patient:
            caller.result()
    assert len(finished) == 13
    # The one that runs cannot be overtaken, and a second may have begun before the urgent one arrived.
    assert finished.index("urgent") <= before + 2 < 12
