"""`tidegate bench`: a closed loop of a few connections against a running server, for a first impression.

The client is Python and takes a CPU of its own: for figures use wrk (docs/benchmarks.md).
"""

import asyncio
import json
import time
from typing import Annotated
from urllib.parse import urlsplit

import typer

from gateway.cli.client import Url, data_url, key_header
from gateway.cli.infer import describe, model_path, random_inputs
from gateway.cli.output import Failure, Json, print_json, print_table


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="NAME, NAME:VERSION or NAME@ALIAS.")],
    connections: Annotated[int, typer.Option(min=1, max=256)] = 8,
    seconds: Annotated[float, typer.Option(min=0.1, max=600)] = 5.0,
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="Rows per request.")] = 1,
    max_p99_ms: Annotated[float | None, typer.Option(help="Exit 3 when the 99th percentile is above.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Measure requests per second and latency with random inputs."""
    path = model_path(data_url(url), model)
    body = json.dumps({"inputs": random_inputs(describe(path), rows)}).encode()
    latencies, errors, took_s = asyncio.run(_load(f"{path}/infer", body, connections, seconds))
    if not latencies:
        raise Failure(f"no request succeeded, {errors} failed")
    latencies.sort()
    found = {
        "requests": len(latencies),
        "errors": errors,
        "requests_per_s": round(len(latencies) / took_s, 1),
        "rows_per_s": round(rows * len(latencies) / took_s, 1),
        **{
            f"p{q}_ms": round(latencies[min(len(latencies) - 1, len(latencies) * q // 100)] * 1e3, 3)
            for q in (50, 95, 99)
        },
    }
    if as_json:
        print_json(found)
    else:
        title = f"{model}, {connections} connections, {rows} rows per request, {took_s:.1f} s"
        print_table(title, list(found), [list(found.values())])
    if max_p99_ms is not None and found["p99_ms"] > max_p99_ms:
        raise Failure(f"the 99th percentile is {found['p99_ms']} ms, above {max_p99_ms} ms", 3)


async def _load(url: str, body: bytes, connections: int, seconds: float) -> tuple[list[float], int, float]:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    key = "".join(f"{name}: {value}\r\n" for name, value in key_header().items())
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {host}\r\n{key}content-length: {len(body)}\r\n\r\n".encode()
    latencies: list[float] = []
    started = time.perf_counter()
    errors = await asyncio.gather(
        *[_connection(host, port, head + body, started + seconds, latencies) for _ in range(connections)]
    )
    return latencies, sum(errors), time.perf_counter() - started


async def _connection(host: str, port: int, request: bytes, until: float, latencies: list[float]) -> int:
    """Send one request after the other until the time is over; gives the number of errors."""
    errors = 0
    while time.perf_counter() < until:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            try:
                while time.perf_counter() < until:
                    started = time.perf_counter()
                    writer.write(request)
                    status = await _answer(reader)
                    if status == 200:
                        latencies.append(time.perf_counter() - started)
                    else:
                        errors += 1
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError):
            errors += 1
            if errors > 100:
                break
    return errors


async def _answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
    await reader.readexactly(length)
    if b"connection: close" in head:
        raise asyncio.IncompleteReadError(b"", 0)
    return int(head[9:12])
