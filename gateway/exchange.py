"""One inference request in flight, as every lane and the dataplane see it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.predictions import UNCOUNTED, signed
from gateway.tally import Tally, stratum_of
from gateway.wire.fields import agreed_value
from gateway.wire.request import InferRequest
from router.view import MIXED, Mixed, Value, parse_cookies, parse_query
from runtimes.batching.job import Job

if TYPE_CHECKING:
    from mypy_extensions import i64

    from gateway.policyroute import PolicyRoute
    from gateway.served import ServedVersion

JSON: Final = b"application/json"
_NO_HEADERS: Final[dict[bytes, bytes]] = {}


class Placed:
    """Where a policy puts the requests of one unit.

    Attributes:
        served: answers for the variant.
        tally: where they count.
        place: how the evidence names it; 0 = they are no evidence.
        unit: keyed hash of the unit (`gateway.unitkeys`), 64 bits, unsigned.
        bits, stratum: the same as a signed number, and what randomised it, for its prediction's id.
        shadowed: a copy goes to the policy's shadow.
        of_canary: the variant is the canary.
        rule: name of the rule that decided; "" = the default split.
    """

    __slots__ = ("bits", "of_canary", "place", "rule", "served", "shadowed", "stratum", "tally", "unit")

    def __init__(
        self,
        served: "ServedVersion",
        tally: Tally,
        place: int,
        unit: int,
        shadowed: bool,
        of_canary: bool,
        rule: str = "",
    ) -> None:
        self.served = served
        self.tally = tally
        self.place = place
        self.stratum = stratum_of(place) if place else UNCOUNTED
        self.unit = unit
        self.bits: i64 = signed(unit)
        self.shadowed = shadowed
        self.of_canary = of_canary
        self.rule = rule


class Exchange(Job):
    """One inference request in flight; each HTTP lane derives its own and implements `respond`.

    Attributes:
        model_name, selector: from the URL; selector is "", digits or an alias.
        json_length: of `Inference-Header-Content-Length`; None when the header is absent.
        request_id: the client's x-request-id if it may be echoed, else ours.
        timeout_ms: of `x-request-timeout-ms`; 0 = none.
        trace: its traceparent, for the answer.
        started_ns: when the request was complete.
        only_name, only_value: the one header of this request that a policy reads; None = there are none or several.
        query: of the URL; the fast lane takes none that has one.
        mixed: a policy asked for an input whose rows disagree.
        served, request: set on the way.
        route: a policy that has yet to decide, because it reads the body.
        tally: where this request counts under its policy; None where no policy decided, or once it has counted.
        placed: where a policy put it; None where no policy decided.
        final_deadline_ns: the caller's, while `deadline_ns` is that of an attempt on a canary; 0 = no attempt.
        prediction: id of its prediction, for the header of the answer; b"" = it names none.
    """

    # Class attributes, as in `Job`: most requests set few of them.
    model_name: str = ""
    selector: str = ""
    body: bytes = b""
    json_length: int | None = None
    request_id: bytes = b""
    timeout_ms: int = 0
    trace: bytes = b""
    started_ns: int = 0
    only_name: bytes | None = None
    only_value: bytes = b""
    _several: dict[bytes, bytes] = _NO_HEADERS
    query: bytes = b""
    mixed: bool = False
    served: "ServedVersion | None" = None
    request: InferRequest | None = None
    route: "PolicyRoute | None" = None
    tally: Tally | None = None
    placed: "Placed | None" = None
    final_deadline_ns: int = 0
    prediction: bytes = b""

    def respond(self, status: int, content_type: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send the answer; called exactly once, on the loop, unless the exchange was cancelled."""
        raise AssertionError("a lane must say how it responds")

    def respond_ok(self, served: "ServedVersion", body: bytes) -> None:
        """Send a plain JSON answer with status 200; a lane may have a shorter way."""
        self.respond(200, JSON, served.headers_of(self), body)

    # ---- what a policy may ask of a request, in the shape of `router.view.View` ----

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Those that a policy reads, by lower-case name."""
        name = self.only_name
        return self._several if name is None else {name: self.only_value}

    @headers.setter
    def headers(self, headers: dict[bytes, bytes]) -> None:
        """All of them at once."""
        self.only_name = None
        self._several = headers

    def cookie(self, name: bytes) -> bytes | None:
        """The first cookie of that name."""
        return parse_cookies(self.headers.get(b"cookie", b"")).get(name)

    def parameter(self, name: bytes) -> bytes | None:
        """The first parameter of that name in the query, decoded."""
        return parse_query(self.query).get(name)

    def field(self, name: str) -> Value | Mixed | None:
        """The value that all rows have in an input of one value per row, or in a named column of one."""
        if self.request is None or self.served is None:
            return None
        place = self.served.codec.fields.get(name)
        value = None if place is None else agreed_value(self.request.inputs[place[0]], place[1])
        self.mixed = self.mixed or value is MIXED
        return value
