"""Each endpoint as bytes on the wire: exact keys, status, headers. What clients in other languages rely on."""

import json
import re
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from tests import models
from tests.conformance.triton.calls import Answer, call, infer_body
from tests.tree import Tree, serve

ROW = infer_body("x", "FP32", [1, 2], [1, 2])
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

PAIRS = ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    repository = tmp_path_factory.mktemp("repository")
    config = "aliases: {stable: 2}\nversion_policy: {all: true}\n"
    models.write(repository, "affine", models.affine(2.0), 2, config)
    models.write(repository, "affine", models.affine(3.0), 10)
    models.write(repository, "pair", models.add_and_sub())
    models.write(repository, "broken", b"this is no model")
    with serve(repository, "--workers", "1", "--allow-degraded-start") as running:
        yield running


def get(tree: Tree, path: str) -> Answer:
    return call("GET", tree.url + path)


def post(tree: Tree, path: str, body: bytes = b"{}", **headers: str) -> Answer:
    return call("POST", tree.url + path, body, {name.replace("_", "-"): value for name, value in headers.items()})


def test_health(tree: Tree) -> None:
    live, ready = get(tree, "/v2/health/live"), get(tree, "/v2/health/ready")
    assert (live.status, live.json()) == (200, {"live": True})
    assert (ready.status, ready.json()) == (200, {"ready": True})


def test_server_metadata(tree: Tree) -> None:
    found = get(tree, "/v2").json()
    assert list(found) == ["name", "version", "extensions"]
    assert (found["name"], found["version"]) == ("tidegate", version("tidegate"))
    # What is said here makes clients call it: nothing that is answered with 501 may stand here.
    assert set(found["extensions"]) == {
        "classification", "model_repository", "model_repository(unload_dependents)", "model_configuration",
        "binary_tensor_data", "parameters", "statistics",
    }  # fmt: skip


def test_names_that_resolve(tree: Tree) -> None:
    assert get(tree, "/v2/models").json() == {"models": ["affine", "pair"]}


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        ("/v2/models/affine", {"2", "10"}),
        ("/v2/models/affine/versions/2", {"2"}),
        ("/v2/models/affine/versions/stable", {"2"}),
    ],
)
def test_model_metadata(tree: Tree, path: str, versions: set[str]) -> None:
    found = get(tree, path).json()
    assert list(found) == ["name", "versions", "platform", "inputs", "outputs"]
    assert (found["name"], found["platform"]) == ("affine", "onnxruntime_onnx")
    assert set(found["versions"]) == versions
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert found["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]


@pytest.mark.parametrize("middle", ["", "/versions/10", "/versions/stable"])
def test_model_readiness(tree: Tree, middle: str) -> None:
    found = get(tree, f"/v2/models/affine{middle}/ready")
    assert (found.status, found.json()) == (200, {"name": "affine", "ready": True})


def test_a_model_that_could_not_be_loaded_is_503_with_the_reason(tree: Tree) -> None:
    for answer in (get(tree, "/v2/models/broken/ready"), post(tree, "/v2/models/broken/infer", ROW)):
        assert answer.status == 503
        assert "is not ready: " in answer.json()["error"]
        assert int(answer.headers["retry-after"]) >= 1


def test_config_has_what_perf_analyzer_reads(tree: Tree) -> None:
    found = get(tree, "/v2/models/pair/config").json()
    assert {
        "name", "platform", "backend", "version_policy", "max_batch_size", "input", "output", "batch_input",
        "batch_output", "optimization", "instance_group", "default_model_filename", "dynamic_batching",
        "model_transaction_policy", "response_cache", "parameters",
    } <= set(found)  # fmt: skip
    assert (found["name"], found["platform"], found["max_batch_size"]) == ("pair", "onnxruntime_onnx", 64)
    # A key of another kind of scheduler would make perf_analyzer use that one.
    assert not {"sequence_batching", "ensemble_scheduling"} & set(found)
    assert found["model_transaction_policy"] == {"decoupled": False}
    assert found["response_cache"] == {"enable": False}
    assert found["input"] == [
        {
            "name": name,
            "data_type": "TYPE_INT32",
            "dims": [4],
            "format": "FORMAT_NONE",
            "is_shape_tensor": False,
            "allow_ragged_batch": False,
            "optional": False,
            "is_non_linear_format_io": False,
        }
        for name in ("a", "b")
    ]
    assert [(o["name"], o["data_type"], o["dims"]) for o in found["output"]] == [
        ("total", "TYPE_INT32", [4]),
        ("difference", "TYPE_INT32", [4]),
    ]
    assert get(tree, "/v2/models/affine/config").json()["version_policy"] == {"all": {}}


def test_statistics_have_every_key_and_count_rows_and_requests(tree: Tree) -> None:
    path = "/v2/models/affine/versions/2"
    (before,) = get(tree, f"{path}/stats").json()["model_stats"]
    assert post(tree, f"{path}/infer", infer_body("x", "FP32", [3, 2], [0] * 6)).status == 200
    assert post(tree, f"{path}/infer", infer_body("x", "FP32", [1, 3], [0] * 3)).status == 400
    (after,) = get(tree, f"{path}/stats").json()["model_stats"]
    assert list(after) == [
        "name", "version", "last_inference", "inference_count", "execution_count", "inference_stats",
        "response_stats", "batch_stats", "memory_usage",
    ]  # fmt: skip
    assert (after["name"], after["version"]) == ("affine", "2")
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] > 1_600_000_000_000
    statistics = after["inference_stats"]
    assert list(statistics) == PAIRS
    for pair in statistics.values():
        assert list(pair) == ["count", "ns"]
        assert all(type(number) is int and number >= 0 for number in pair.values())
    for name, grew in (("success", 1), ("queue", 1), ("compute_infer", 1), ("fail", 1), ("cache_hit", 0)):
        assert statistics[name]["count"] - before["inference_stats"][name]["count"] == grew, name
    assert statistics["success"]["ns"] >= statistics["compute_infer"]["ns"] > 0
    (batch,) = [batch for batch in after["batch_stats"] if batch["batch_size"] == 3]
    assert list(batch) == ["batch_size", "compute_input", "compute_infer", "compute_output"]
    assert batch["compute_infer"]["count"] >= 1


def test_statistics_of_one_version_of_one_model_and_of_all(tree: Tree) -> None:
    def asked(path: str) -> list[tuple[str, str]]:
        return sorted((found["name"], found["version"]) for found in get(tree, path).json()["model_stats"])

    assert asked("/v2/models/affine/versions/stable/stats") == [("affine", "2")]
    assert asked("/v2/models/affine/stats") == [("affine", "10"), ("affine", "2")]
    assert asked("/v2/models/stats") == [("affine", "10"), ("affine", "2"), ("pair", "1")]
    unknown = get(tree, "/v2/models/nobody/stats")
    assert unknown.status == 400
    assert "requested model 'nobody' is not available" in unknown.json()["error"]


def test_repository_index(tree: Tree) -> None:
    everything = post(tree, "/v2/repository/index").json()
    assert [(e["name"], e.get("version"), e["state"]) for e in everything if e["name"] != "broken"] == [
        ("affine", "2", "READY"),
        ("affine", "10", "READY"),
        ("pair", "1", "READY"),
    ]
    assert all("reason" not in entry for entry in everything if entry["state"] == "READY")
    (broken,) = [entry for entry in everything if entry["name"] == "broken"]
    assert broken["state"] == "UNAVAILABLE"
    assert broken["reason"]
    ready = post(tree, "/v2/repository/index", b'{"ready": true}').json()
    assert ready == [entry for entry in everything if entry["state"] == "READY"]
    assert post(tree, "/v2/repository/index", b"").json() == everything
    assert post(tree, "/v2/repository/index", b'{"ready": 1}').status == 400
    assert post(tree, "/v2/repository/index", b"[]").status == 400


def test_load_and_unload_are_refused_in_this_mode(tree: Tree) -> None:
    for verb in ("load", "unload"):
        answer = post(tree, f"/v2/repository/models/affine/{verb}")
        assert answer.status == 403
        assert answer.json()["error"] == f"explicit model {verb} is not allowed: models.control_mode is none"
    assert get(tree, "/v2/models/affine/ready").status == 200


@pytest.mark.parametrize("path", ["/", "/v2/", "/v2/nothing", "/v2/models/affine/nothing", "/v1/models/affine"])
def test_unknown_paths(tree: Tree, path: str) -> None:
    answer = get(tree, path)
    assert answer.status == 404
    assert answer.json() == {
        "error": "Not Found",
        "code": "not_found",
        "request_id": answer.headers["x-request-id"],
    }


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2", "GET"),
        ("POST", "/v2/health/live", "GET"),
        ("POST", "/v2/models/affine", "GET"),
        ("DELETE", "/v2/models/affine/config", "GET"),
        ("GET", "/v2/models/affine/infer", "POST"),
        ("PUT", "/v2/models/affine/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", "/v2/repository/models/affine/load", "POST"),
    ],
)
def test_wrong_methods(tree: Tree, method: str, path: str, allowed: str) -> None:
    answer = call(method, tree.url + path, b"{}" if method != "GET" else None)
    assert answer.status == 405
    assert answer.json() == {
        "error": "Method Not Allowed",
        "code": "method_not_allowed",
        "request_id": answer.headers["x-request-id"],
    }
    assert allowed in answer.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/region/a/register"),
        ("POST", "/v2/cudasharedmemory/unregister"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/models/affine/trace/setting"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/repository/named/index"),
        ("POST", "/v2/repository/named/models/affine/load"),
    ],
)
def test_what_is_not_offered_is_501(tree: Tree, method: str, path: str) -> None:
    answer = call(method, tree.url + path, b"{}" if method == "POST" else None)
    assert answer.status == 501
    assert answer.json()["code"] == "unsupported"
    assert "not supported" in answer.json()["error"]


def test_an_inference_answer(tree: Tree) -> None:
    answer = post(tree, "/v2/models/affine/infer", ROW)
    assert answer.body == (
        b'{"model_name":"affine","model_version":"10","outputs":'
        b'[{"name":"y","datatype":"FP32","shape":[1,2],"data":[3.0,6.0]}]}'
    )
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-tidegate-model"] == "affine:10"
    assert answer.headers["x-tidegate-variant"] == "-"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers["x-request-id"])


@pytest.mark.parametrize("selector", ["stable", "2"])
def test_the_version_of_an_alias_answer_is_the_digits(tree: Tree, selector: str) -> None:
    answer = post(tree, f"/v2/models/affine/versions/{selector}/infer", ROW)
    assert answer.json()["model_version"] == "2"
    assert answer.output("y")["data"] == [2.0, 4.0]
    assert answer.headers["x-tidegate-model"] == "affine:2"


@pytest.mark.parametrize("path", ["/v2", "/v2/health/ready", "/nothing", "/v2/models/affine/config", "/metrics"])
def test_every_answer_is_dated_and_says_nothing_of_the_server(tree: Tree, path: str) -> None:
    answer = get(tree, path)
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers["date"])
    assert "server" not in answer.headers


@pytest.mark.parametrize("path", ["/v2/models/affine/infer", "/v2/models/affine/infer?lane=slow"])
def test_headers_of_an_inference(tree: Tree, path: str) -> None:
    """The second path takes the slow lane, for it has a query: both have to send the same."""
    answer = post(tree, path, ROW, x_request_id="Order-7.a_b", traceparent=TRACE)
    assert answer.status == 200
    assert answer.headers["x-request-id"] == "Order-7.a_b"
    assert answer.headers["traceparent"] == TRACE
    assert "date" in answer.headers
    assert "server" not in answer.headers
    assert "traceparent" not in post(tree, path, ROW).headers
    refused = post(tree, path, b"{}", x_request_id="Order-8", traceparent=TRACE)
    assert refused.status == 400
    assert refused.json()["request_id"] == refused.headers["x-request-id"] == "Order-8"
    assert refused.headers["traceparent"] == TRACE


@pytest.mark.parametrize("given", ["a" * 64, "0", "._-"])
def test_request_ids_that_are_echoed(tree: Tree, given: str) -> None:
    assert post(tree, "/v2/models/affine/infer", ROW, x_request_id=given).headers["x-request-id"] == given
    assert call("GET", f"{tree.url}/v2", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["a" * 65, "a b", "a/b", "ä", "a:b", ""])
def test_request_ids_that_are_replaced(tree: Tree, given: str) -> None:
    replaced = [
        post(tree, "/v2/models/affine/infer", ROW, x_request_id=given).headers["x-request-id"],
        call("GET", f"{tree.url}/v2", headers={"x-request-id": given}).headers["x-request-id"],
    ]
    assert given not in replaced
    assert len(set(replaced)) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", own) for own in replaced)


def test_metrics_page(tree: Tree) -> None:
    answer = get(tree, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\ntidegate_requests_total{" in answer.body
    assert b"\nnv_inference_count{" in answer.body


def test_head_gives_the_headers_alone(tree: Tree) -> None:
    answer = call("HEAD", f"{tree.url}/v2")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) == len(json.dumps(get(tree, "/v2").json(), separators=(",", ":")))
