"""The slow lane: every surface of the data port as one Starlette application."""

from concurrent.futures import Executor
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway.http.access import Guard, data_needs, guarded
from gateway.http.failures import exception_handlers
from gateway.http.feedback import FeedbackEndpoint
from gateway.http.inference import Inference
from gateway.http.limits import EdgeLimits
from gateway.http.metadata import Metadata
from gateway.http.repository import Repository, not_supported
from gateway.http.surface import Surface

_MODEL: Final = "/v2/models/{name}"
_VERSION: Final = _MODEL + "/versions/{version}"


def build_app(surface: Surface, limits: EdgeLimits, executor: Executor) -> Starlette:
    """The application of one worker's data port."""
    inference = Inference(surface.dataplane, limits, executor)
    metadata, repository = Metadata(surface), Repository(surface)
    routes = [
        Route("/v2/health/live", metadata.live),
        Route("/v2/health/ready", metadata.ready),
        Route("/v2", metadata.server),
        Route("/v2/models", metadata.models),
        Route("/v2/models/stats", metadata.statistics),
        Route("/metrics", metadata.metrics),
        *[
            route
            for prefix in (_MODEL, _VERSION)
            for route in (
                Route(prefix, metadata.model),
                Route(f"{prefix}/ready", metadata.model_ready),
                Route(f"{prefix}/config", metadata.config),
                Route(f"{prefix}/stats", metadata.statistics),
                Route(f"{prefix}/infer", inference.infer, methods=["POST"]),
            )
        ],
        Route("/v1/feedback", FeedbackEndpoint(surface).take, methods=["POST"]),
        Route("/v2/repository/index", repository.index, methods=["POST"]),
        Route("/v2/repository/models/{name}/load", repository.load, methods=["POST"]),
        Route("/v2/repository/models/{name}/unload", repository.unload, methods=["POST"]),
        Route("/v2/repository/{repository}/index", repository.named, methods=["POST"]),
        Route("/v2/repository/{repository}/models/{name}/{verb}", repository.named, methods=["POST"]),
        *[
            Route(path, not_supported(what), methods=["GET", "POST"])
            for path, what in (
                ("/v2/systemsharedmemory/{rest:path}", "shared memory"),
                ("/v2/cudasharedmemory/{rest:path}", "shared memory"),
                ("/v2/trace/setting", "tracing"),
                (f"{_MODEL}/trace/setting", "tracing"),
                ("/v2/logging", "changing log settings"),
            )
        ],
    ]
    guarded(routes, data_needs)
    guards = [Middleware(Guard, surface.gate)] if surface.gate is not None else []
    app = Starlette(routes=routes, middleware=guards, exception_handlers=exception_handlers())
    app.router.redirect_slashes = False
    return app
