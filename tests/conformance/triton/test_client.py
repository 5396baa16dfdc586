"""Triton's own Python client against a real server: every method it has, so that its users only change the address."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests import models
from tests.tree import Tree, serve

Client = triton.InferenceServerClient
ROWS = np.float32([[1, 2], [3, -4.5]])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    repository = tmp_path_factory.mktemp("repository")
    config = "aliases: {stable: 1}\nversion_policy: {all: true}\nbatching: {priority_levels: 3}\n"
    models.write(repository, "affine", models.affine(2.0), 1, config)
    models.write(repository, "affine", models.affine(3.0), 2)
    models.write(repository, "pair", models.add_and_sub())
    models.write(repository, "wide", models.identity("FP32", ("N", "M")))
    models.write(repository, "spare", models.affine(5.0))
    models.write(repository, "broken", b"this is no model")
    wanted = [flag for name in ("affine", "pair", "wide") for flag in ("--load", name)]
    with serve(repository, "--workers", "1", "--model-control-mode", "explicit", *wanted) as running:
        yield running


@pytest.fixture
def client(tree: Tree) -> Iterator[Client]:
    with Client(f"127.0.0.1:{tree.port}", concurrency=8) as connected:
        yield connected


def given(name: str, values: npt.NDArray[Any], *, binary: bool = True, datatype: str = "FP32") -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    return tensor.set_data_from_numpy(values, binary_data=binary)


def refusal(call: Callable[..., object], *arguments: object, **named: object) -> InferenceServerException:
    """The client's exception; its text has to be the server's sentence, not one about undecodable bytes."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **named)
    message = caught.value.message()
    assert message
    for trace in ("Traceback", "an exception occurred in the client", "empty response", "/tmp", ".py"):
        assert trace not in message
    return caught.value


# ---- health, metadata, repository ----


def test_health(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("affine")
    assert client.is_model_ready("affine", "1")
    assert client.is_model_ready("affine", "stable")
    assert not client.is_model_ready("affine", "9")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("spare")


def test_metadata(client: Client) -> None:
    server = client.get_server_metadata()
    assert server["name"] == "tidegate"
    assert "statistics" in server["extensions"]
    model = client.get_model_metadata("pair")
    assert [tensor["name"] for tensor in model["inputs"]] == ["a", "b"]
    assert [tensor["shape"] for tensor in model["outputs"]] == [[-1, 4], [-1, 4]]
    assert sorted(client.get_model_metadata("affine")["versions"]) == ["1", "2"]
    assert client.get_model_metadata("affine", "stable")["versions"] == ["1"]
    assert client.get_model_config("affine", "2")["max_batch_size"] == 64
    assert client.get_model_config("affine")["dynamic_batching"]["priority_levels"] == 3


def test_query_parameters_and_headers(client: Client) -> None:
    extra: dict[str, Any] = {"query_params": {"trace": "a b", "many": [1, 2]}, "headers": {"X-Team": "fraud"}}
    assert client.is_server_live(**extra)
    assert client.get_model_metadata("affine", **extra)["name"] == "affine"
    assert client.get_inference_statistics("affine", **extra)["model_stats"]
    answer = client.infer("affine", [given("x", ROWS)], **extra)
    assert answer.as_numpy("y").tolist() == (ROWS * 3).tolist()


def index(client: Client) -> dict[str, dict[str, str]]:
    return {f"{e['name']}:{e.get('version', '')}": e for e in client.get_model_repository_index()}


def test_load_and_unload(client: Client) -> None:
    assert index(client)["spare:"] == {"name": "spare"}
    client.load_model("spare")
    assert client.is_model_ready("spare")
    assert index(client)["spare:1"]["state"] == "READY"
    assert client.infer("spare", [given("x", ROWS)]).as_numpy("y").tolist() == (ROWS * 5).tolist()
    client.load_model("spare")
    assert client.is_model_ready("spare")
    client.unload_model("spare", unload_dependents=True)
    assert not client.is_model_ready("spare")
    assert index(client)["spare:"] == {"name": "spare"}
    assert "'spare' is not" in refusal(client.infer, "spare", [given("x", ROWS)]).message()


def test_load_and_unload_that_fail(client: Client) -> None:
    unknown = refusal(client.load_model, "nobody")
    assert unknown.status() == "404"
    assert unknown.message() == "failed to load 'nobody': it is not in the repository"
    broken = refusal(client.load_model, "broken")
    assert broken.status() == "400"
    assert "failed to load 'broken' version 1: " in broken.message()
    assert "version 1" in refusal(client.load_model, "broken").message()
    assert "it is not loaded" in refusal(client.unload_model, "spare").message()
    assert refusal(client.load_model, "affine", config='{"max_batch_size": 3}').status() == "501"
    assert refusal(client.load_model, "affine", config="{}", files={"file:1/model.onnx": b"x"}).status() == "501"
    assert client.is_model_ready("affine")
    client.unload_model("broken")


def test_statistics(client: Client) -> None:
    def counts() -> tuple[int, int]:
        (found,) = client.get_inference_statistics("pair", "1")["model_stats"]
        return found["inference_count"], found["inference_stats"]["success"]["count"]

    rows, successes = counts()
    pair = [given(name, np.ones((5, 4), np.int32), datatype="INT32") for name in ("a", "b")]
    client.infer("pair", pair)
    assert counts() == (rows + 5, successes + 1)
    everything = {(s["name"], s["version"]) for s in client.get_inference_statistics()["model_stats"]}
    assert everything >= {("affine", "1"), ("affine", "2"), ("pair", "1")}
    assert refusal(client.get_inference_statistics, "nobody").status() == "400"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_system_shared_memory_status", ()),
        ("register_system_shared_memory", ("region", "key", 64)),
        ("unregister_system_shared_memory", ("region",)),
        ("unregister_system_shared_memory", ()),
        ("get_cuda_shared_memory_status", ()),
        ("register_cuda_shared_memory", ("region", b"handle", 0, 64)),
        ("unregister_cuda_shared_memory", ()),
        ("get_trace_settings", ()),
        ("get_trace_settings", ("affine",)),
        ("update_trace_settings", ("affine", {"trace_level": ["OFF"]})),
        ("get_log_settings", ()),
        ("update_log_settings", ({"log_verbose_level": 1},)),
    ],
)
def test_what_does_not_apply_is_refused_in_words(client: Client, method: str, arguments: tuple[Any, ...]) -> None:
    refused = refusal(getattr(client, method), *arguments)
    assert refused.status() == "501"
    assert refused.message().endswith("is not supported")
    assert client.is_server_live()


# ---- inference ----


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_binary_and_json_both_ways(client: Client, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    answer = client.infer("affine", [given("x", ROWS, binary=binary_in)], outputs=outputs)
    assert answer.as_numpy("y").tolist() == (ROWS * 3).tolist()
    assert answer.as_numpy("y").dtype == np.float32
    # Without a list of outputs the client itself asks for all of them in binary.
    assert ("data" in answer.get_output("y")) == (binary_out is False)
    assert answer.get_response()["model_version"] == "2"
    assert "id" not in answer.get_response()


def test_one_input_binary_and_the_other_json(client: Client) -> None:
    a, b = np.int32([[1, 2, 3, 4]]), np.int32([[10, 20, 30, 40]])
    for binary in (True, False):
        tensors = [
            given("b", b, binary=not binary, datatype="INT32"),
            given("a", a, binary=binary, datatype="INT32"),
        ]
        outputs = [
            triton.InferRequestedOutput("difference", binary_data=binary),
            triton.InferRequestedOutput("total", binary_data=not binary),
        ]
        answer = client.infer("pair", tensors, outputs=outputs)
        assert answer.as_numpy("total").tolist() == (a + b).tolist()
        assert answer.as_numpy("difference").tolist() == (a - b).tolist()
        assert [output["name"] for output in answer.get_response()["outputs"]] == ["difference", "total"]


def test_requested_outputs_are_the_only_ones(client: Client) -> None:
    pair = [given(name, np.ones((1, 4), np.int32), datatype="INT32") for name in ("a", "b")]
    answer = client.infer("pair", pair, outputs=[triton.InferRequestedOutput("difference")])
    assert answer.as_numpy("total") is None
    assert answer.as_numpy("difference").tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("binary", [True, False])
def test_class_count(client: Client, binary: bool) -> None:
    scores = np.float32([[0.1, 7, -3, 7], [4, 3, 2, 1]])
    outputs = [triton.InferRequestedOutput("y", binary_data=binary, class_count=3)]
    found = client.infer("wide", [given("x", scores)], outputs=outputs).as_numpy("y")
    texts = [[t.decode() if isinstance(t, bytes) else t for t in row] for row in found.tolist()]
    split = [[(float(t.split(":")[0]), int(t.split(":")[1])) for t in row] for row in texts]
    assert split == [[(7, 1), (7, 3), (pytest.approx(0.1), 0)], [(4, 0), (3, 1), (2, 2)]]
    more = [triton.InferRequestedOutput("y", binary_data=binary, class_count=100)]
    assert client.infer("wide", [given("x", scores)], outputs=more).as_numpy("y").shape == (2, 4)


def test_request_id_is_echoed(client: Client) -> None:
    for text in ("42", 'a "quoted" ä', "x" * 1024):
        for outputs in (None, [triton.InferRequestedOutput("y", binary_data=False)]):
            answer = client.infer("affine", [given("x", ROWS)], request_id=text, outputs=outputs)
            assert answer.get_response()["id"] == text
    assert "1024" in refusal(client.infer, "affine", [given("x", ROWS)], request_id="x" * 1025).message()


def test_priority_timeout_and_parameters_of_ones_own(client: Client) -> None:
    tensors = [given("x", ROWS)]
    for priority in (1, 3, 99):
        answer = client.infer("affine", tensors, priority=priority, timeout=5_000_000)
        assert answer.as_numpy("y").tolist() == (ROWS * 3).tolist()
    own = {"customer": "ä", "share": 0.5, "count": 3, "flag": True}
    assert client.infer("affine", tensors, parameters=own).as_numpy("y").shape == (2, 2)
    assert "sequences are not supported" in refusal(client.infer, "affine", tensors, sequence_id=7).message()
    assert "timeout" in refusal(client.infer, "affine", tensors, timeout=-1).message()


def test_versions_and_aliases(client: Client) -> None:
    for selector, version, scale in (("", "2", 3), ("1", "1", 2), ("2", "2", 3), ("stable", "1", 2)):
        answer = client.infer("affine", [given("x", ROWS)], model_version=selector)
        assert answer.get_response()["model_version"] == version
        assert answer.as_numpy("y").tolist() == (ROWS * scale).tolist()


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(client: Client, request_coding: str | None, response_coding: str | None, binary: bool) -> None:
    """Both small answers, which are left as they are, and large ones, which are compressed."""
    for width in (3, 20_000):
        values = np.arange(2 * width, dtype=np.float32).reshape(2, width) / 7
        answer = client.infer(
            "wide",
            [given("x", values, binary=binary)],
            outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
            request_compression_algorithm=request_coding,
            response_compression_algorithm=response_coding,
        )
        assert np.array_equal(answer.as_numpy("y"), values)


def test_many_at_once(client: Client) -> None:
    values = [np.float32([[i, -i]] * (1 + i % 3)) for i in range(200)]
    running = [client.async_infer("affine", [given("x", v)], request_id=str(i)) for i, v in enumerate(values)]
    for i, request in enumerate(running):
        answer = request.get_result(timeout=30)
        assert answer.get_response()["id"] == str(i)
        assert answer.as_numpy("y").tolist() == (values[i] * 3).tolist()


def test_an_error_among_many_is_its_own_only(client: Client) -> None:
    good, bad = given("x", ROWS), given("x", np.ones((1, 3), np.float32))
    running = [client.async_infer("affine", [bad if i == 3 else good]) for i in range(8)]
    for i, request in enumerate(running):
        if i == 3:
            assert "expected shape [-1, 2], got [1, 3]" in refusal(request.get_result).message()
        else:
            assert request.get_result().as_numpy("y").tolist() == (ROWS * 3).tolist()


# ---- errors ----


@pytest.mark.parametrize(
    ("model", "version", "said"),
    [
        ("afine", "", "Request for unknown model: 'afine' is not found; did you mean 'affine'?"),
        ("zzz", "", "Request for unknown model: 'zzz' is not found"),
        ("affine", "7", "model 'affine' has no version 7; available versions: 1, 2"),
        ("affine", "stabel", "model 'affine' has no version or alias 'stabel'; known aliases: stable"),
        ("spare", "", "Request for unknown model: 'spare' is not found"),
    ],
)
def test_unknown_names(client: Client, model: str, version: str, said: str) -> None:
    for call in (
        lambda: client.infer(model, [given("x", ROWS)], model_version=version),
        lambda: client.get_model_metadata(model, version),
        lambda: client.get_model_config(model, version),
    ):
        refused = refusal(call)
        assert refused.status() == "404"
        assert refused.message().startswith(said)


@pytest.mark.parametrize("binary", [True, False])
def test_errors_of_the_input_say_what_was_expected(client: Client, binary: bool) -> None:
    def said(*tensors: triton.InferInput, outputs: list[triton.InferRequestedOutput] | None = None) -> str:
        refused = refusal(client.infer, "affine", list(tensors), outputs=outputs)
        assert refused.status() == "400"
        return refused.message()

    good = given("x", ROWS, binary=binary)
    assert said(given("z", ROWS, binary=binary)) == "unknown input 'z'; the model's are 'x'"
    assert "expected shape [-1, 2], got [2]" in said(given("x", np.float32([1, 2]), binary=binary))
    wrong = given("x", ROWS.astype(np.float64), binary=binary, datatype="FP64")
    assert "input 'x': expected datatype FP32, got 'FP64'" in said(wrong)
    assert "given twice" in said(good, good)
    assert "unknown output 'q'; the model's are 'y'" in said(good, outputs=[triton.InferRequestedOutput("q")])
    shared = triton.InferInput("x", [2, 2], "FP32")
    shared.set_shared_memory("region", 16)
    assert "shared memory" in said(shared)
    lacking = refusal(client.infer, "pair", [given("a", np.ones((1, 4), np.int32), datatype="INT32")])
    assert lacking.message() == "input 'b' is missing"
    uneven = [given(n, np.ones((r, 4), np.int32), datatype="INT32", binary=binary) for n, r in (("a", 1), ("b", 2))]
    assert "input 'b': 2 rows, but others have 1" in refusal(client.infer, "pair", uneven).message()
