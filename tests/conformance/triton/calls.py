"""Plain HTTP for these tests: no client library between the test and the bytes."""

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def output(self, name: str) -> dict[str, Any]:
        """One output of an inference that succeeded."""
        assert self.status == 200, self.body
        return next(output for output in self.json()["outputs"] if output["name"] == name)


def call(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return Answer(answer.status, _lower(answer.headers.items()), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers.items()), error.read())


def infer_body(name: str, datatype: str, shape: list[int], data: list[Any], **more: object) -> bytes:
    """A request of one input in JSON."""
    return json.dumps({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}], **more}).encode()


def burst(port: int, path: str, bodies: list[bytes], headers: dict[str, str] | None = None) -> list[Answer]:
    """Send all of them at the same moment, each on its own connection, and wait for all answers."""
    return asyncio.run(_burst(port, path, bodies, headers or {}))


async def _burst(port: int, path: str, bodies: list[bytes], headers: dict[str, str]) -> list[Answer]:
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in bodies]
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    for (_, writer), body in zip(connections, bodies, strict=True):
        head = f"POST {path} HTTP/1.1\r\nhost: test\r\n{extra}content-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*[_read(reader) for reader, _ in connections])
    finally:
        for _, writer in connections:
            writer.close()
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Answer:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = _lower(line.split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(lines[0].split(" ")[1]), headers, body)


def _lower(pairs: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in pairs}
