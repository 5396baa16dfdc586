"""One inference request in flight, as every lane and the dataplane see it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.wire.request import InferRequest
from runtimes.batching.job import Job

if TYPE_CHECKING:
    from gateway.served import ServedVersion

JSON: Final = b"application/json"
_NO_HEADERS: Final[Mapping[bytes, bytes]] = {}


class Exchange(Job):
    """One inference request in flight; each HTTP lane derives its own and implements `respond`.

    Attributes:
        model_name, selector: from the URL; selector is "", digits or an alias.
        json_length: of `Inference-Header-Content-Length`; None when the header is absent.
        request_id: the client's x-request-id if it may be echoed, else ours.
        timeout_ms: of `x-request-timeout-ms`; 0 = none.
        started_ns: when the request was complete.
        headers: those that a policy reads, by lower-case name.
        served, request: set on the way.
        tally: where this request counts under its policy; None where no policy decided, or once it has counted.
        place: where it was routed, as the evidence names it (`gateway.tally`); 0 = it is no evidence.
        unit: 64-bit hash of what was randomised.
        shadowed: a copy of it goes to the policy's shadow.
        final_deadline_ns: the caller's, while `deadline_ns` is that of an attempt on a canary; 0 = no attempt.
        lead: bytes of an answer's head between those of its version and the request id.
    """

    # Class attributes, as in `Job`: most requests set few of them.
    model_name: str = ""
    selector: str = ""
    body: bytes = b""
    json_length: int | None = None
    request_id: bytes = b""
    timeout_ms: int = 0
    started_ns: int = 0
    headers: Mapping[bytes, bytes] = _NO_HEADERS
    served: "ServedVersion | None" = None
    request: InferRequest | None = None
    tally: memoryview | None = None
    place: int = 0
    unit: int = 0
    shadowed: bool = False
    final_deadline_ns: int = 0
    lead: bytes = b""

    def respond(self, status: int, content_type: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send the answer; called exactly once, on the loop, unless the exchange was cancelled."""
        raise AssertionError("a lane must say how it responds")

    def respond_ok(self, served: "ServedVersion", body: bytes) -> None:
        """Send a plain JSON answer with status 200; a lane may have a shorter way."""
        self.respond(200, JSON, served.headers_of(self), body)

    # ---- what a policy may ask of a request ----

    def cookie(self, name: str) -> str | None:
        """Value of a cookie; None when there is none. The first one counts."""
        wanted = name.encode()
        for part in self.headers.get(b"cookie", b"").split(b";"):
            key, found, value = part.strip().partition(b"=")
            if found and key == wanted:
                return value.decode("latin-1")
        return None

    def query(self, name: str) -> str | None:
        """Value of a query parameter; the fast lane takes no URL that has any."""
        return None

    def input(self, name: str) -> Any:
        """Value of an input field that all rows agree on; None when they disagree or it is absent."""
        return None
