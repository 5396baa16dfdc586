"""Server and model metadata, model config, health: what a worker knows itself.

Source: Open Inference Protocol (REST) and Triton's model configuration extension.
"""

from typing import Any, Final

from starlette.requests import Request

from gateway.http.reply import Reply, json_reply
from gateway.http.surface import Surface
from runtimes.errors import InvalidInput, ModelNotReady, UnknownModel
from runtimes.runtime import Runtime
from runtimes.tensors import TensorSpec

EXTENSIONS: Final = (
    "classification", "model_repository", "model_repository(unload_dependents)", "model_configuration",
    "binary_tensor_data", "parameters", "statistics",
)  # fmt: skip
_CONFIG_TYPES: Final = {"BYTES": "TYPE_STRING"}


class Metadata:
    """The endpoints."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface

    async def live(self, request: Request) -> Reply:
        """The process answers."""
        return json_reply({"live": True})

    async def ready(self, request: Request) -> Reply:
        """Every model wanted at start is there, and the server does not stop."""
        ready = self._surface.snapshot().ready and not self._surface.dataplane.draining
        return json_reply({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Reply:
        """Name, version, extensions."""
        return json_reply({"name": "tidegate", "version": self._surface.version, "extensions": list(EXTENSIONS)})

    async def models(self, request: Request) -> Reply:
        """Names that resolve now."""
        routes = self._surface.dataplane.routes.table.routes
        return json_reply({"models": [name for name in sorted(routes) if routes[name].default is not None]})

    async def model(self, request: Request) -> Reply:
        """Inputs and outputs."""
        name, selector, runtime = self._find(request)
        route = self._surface.dataplane.routes.table.routes[name]
        versions = [runtime.version_text] if selector else [str(version) for version in route.versions]
        return json_reply(
            {
                "name": name,
                "versions": versions,
                "platform": "onnxruntime_onnx",
                "inputs": [_tensor(spec) for spec in runtime.signature.inputs],
                "outputs": [_tensor(spec) for spec in runtime.signature.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Reply:
        """Whether this model, or this version of it, answers."""
        name, _, runtime = self._find(request)
        refused = runtime.refusal()
        if refused is not None:
            raise refused
        return json_reply({"name": name, "ready": True})

    async def config(self, request: Request) -> Reply:
        """Triton's ModelConfig of the version, with the fields that have a meaning here."""
        _, _, runtime = self._find(request)
        return json_reply(model_config(runtime))

    async def statistics(self, request: Request) -> Reply:
        """Triton's statistics, from control. An unknown model is 400, as there."""
        name, selector = request.path_params.get("name", ""), request.path_params.get("version", "")
        arguments: dict[str, Any] = {"name": name}
        if name:
            try:
                runtime = self._find(request)[2]
            except (UnknownModel, ModelNotReady) as error:
                raise InvalidInput(f"requested model {name[:128]!r} is not available: {error.message}") from error
            if selector:
                arguments["version"] = runtime.version
        return json_reply(await self._surface.call("statistics", arguments, 2.0))

    async def metrics(self, request: Request) -> Reply:
        """The node's page, from control; 503 rather than a part of it."""
        page = await self._surface.call("metrics", {}, 2.0)
        return Reply(200, page, content_type=b"text/plain; version=0.0.4; charset=utf-8")

    def _find(self, request: Request) -> tuple[str, str, Runtime]:
        name, selector = request.path_params["name"], request.path_params.get("version", "")
        return name, selector, self._surface.dataplane.find(name, selector).runtime


def _tensor(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}


def model_config(runtime: Runtime) -> dict[str, Any]:
    """ModelConfig as JSON, with protobuf's field names; primitive fields stand there even when default.

    `dims` leave out the batch dimension. Source: Triton's model_config.proto.
    """
    signature, batching = runtime.signature, runtime.config.batching
    batched = runtime.batcher.bounds.mergeable
    config: dict[str, Any] = {
        "name": runtime.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "runtime": "",
        "version_policy": {"latest": {"num_versions": runtime.config.version_policy.latest or 1}},
        "max_batch_size": batching.max_batch_size if batched else 0,
        "input": [_config_input(spec, batched and not spec.optional) for spec in signature.inputs],
        "output": [_config_output(spec, batched) for spec in signature.outputs],
        "batch_input": [],
        "batch_output": [],
        "optimization": {"priority": "PRIORITY_DEFAULT", "gather_kernel_buffer_threshold": 0, "eager_batching": False},
        "instance_group": [],
        "default_model_filename": "model.onnx",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
    }
    policy = runtime.config.version_policy
    if policy.all:
        config["version_policy"] = {"all": {}}
    elif policy.specific:
        config["version_policy"] = {"specific": {"versions": list(policy.specific)}}
    if batched:
        config["dynamic_batching"] = {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": batching.max_queue_delay_us,
            "preserve_ordering": False,
            "priority_levels": batching.priority_levels if batching.priority_levels > 1 else 0,
            "default_priority_level": batching.default_priority or 0,
            "priority_queue_policy": {},
        }
    return config


def _config_input(spec: TensorSpec, batched: bool) -> dict[str, object]:
    extra = {"format": "FORMAT_NONE", "is_shape_tensor": False, "allow_ragged_batch": False, "optional": spec.optional}
    return _config_tensor(spec, batched) | extra | {"is_non_linear_format_io": False}


def _config_output(spec: TensorSpec, batched: bool) -> dict[str, object]:
    extra = {"label_filename": "", "is_shape_tensor": False, "is_non_linear_format_io": False}
    return _config_tensor(spec, batched) | extra


def _config_tensor(spec: TensorSpec, batched: bool) -> dict[str, object]:
    name = spec.datatype.name
    return {
        "name": spec.name,
        "data_type": _CONFIG_TYPES.get(name, f"TYPE_{name}"),
        "dims": list(spec.shape[1:] if batched else spec.shape),
    }
