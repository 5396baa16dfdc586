"""The admin port as a server. Imported when the node has begun to load its models: they come first."""

import asyncio
import socket
from functools import partial
from typing import Any

import uvicorn

from gateway.control.keys import KeyDesk
from gateway.control.service import Service
from gateway.control.traffic import Traffic
from gateway.counters import WORKER_FIELDS
from gateway.http.admin import build_admin
from gateway.http.door import Door
from gateway.http.gate import Gate
from gateway.http.guarded import GuardedProtocol
from gateway.http.limits import EdgeLimits
from gateway.http.origin import Names
from gateway.logs import request_log


async def serve_admin(
    admin: socket.socket,
    service: Service,
    traffic: Traffic,
    keys: KeyDesk,
    facts: dict[str, Any],
    limits: EdgeLimits,
    *,
    gate: Gate | None,
    names: Names,
) -> None:
    """Answer on the admin port for ever. Arguments as `gateway.http.admin.build_admin`; limits of connections, too."""
    # Its connections are not those of the metrics page, which counts what workers do.
    counts = memoryview(bytearray(8 * len(WORKER_FIELDS))).cast("q")
    call_later = asyncio.get_running_loop().call_later
    door = Door(limits, counts, request_log(), call_later=call_later)
    door.start()
    app = build_admin(service, traffic, keys, facts, limits.json_body_bytes, gate=gate, names=names)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=partial(GuardedProtocol, door),  # type: ignore[arg-type]  # any factory of protocols will do
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
    )
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[admin])
    await server.main_loop()
