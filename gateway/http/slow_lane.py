"""The slow lane's requests: an ASGI task waits for the answer of each."""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from gateway.exchange import Exchange
from gateway.http.meanings import BLANKS
from gateway.http.reply import Reply


class SlowExchange(Exchange):
    """A request whose answer an ASGI task waits for."""

    def __init__(self, name: str, selector: str, request_id: bytes, trace: bytes) -> None:
        self.model_name = name
        self.selector = selector
        self.request_id = request_id
        self.trace = trace
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def read(self, request: Request, names: frozenset[bytes]) -> None:
        """Keep what policies read of a request; of a repeated header the first counts, cookies are one list."""
        if names:
            found = [(name, value.strip(BLANKS)) for name, value in request.scope["headers"] if name in names]
            cookies = b"; ".join(value for name, value in found if name == b"cookie")
            self.headers = {**dict(reversed(found)), **({b"cookie": cookies} if cookies else {})}
        self.query = request.scope["query_string"]

    def respond(self, status: int, content_type: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Hand the answer to the task."""
        if self.trace:
            headers = [*headers, (b"traceparent", self.trace)]
        if not self.answer.done():
            self.answer.set_result(Reply(status, body, content_type=content_type, headers=headers))
