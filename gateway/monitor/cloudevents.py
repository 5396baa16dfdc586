"""CloudEvents 1.0 in structured JSON, and the signature that goes with them. Pure.

Signature: `x-tidegate-signature: t=UNIX_SECONDS,v1=HEX`, HEX = HMAC-SHA256(secret, "UNIX_SECONDS." + body). The time
is signed so that an old event cannot be sent again as a new one.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
SIGNATURE: Final = "x-tidegate-signature"


def envelope(kind: str, subject: str, id: str, data: Mapping[str, Any], *, source: str, now_s: float) -> dict[str, Any]:
    """An event.

    Args:
        kind: behind `tidegate.`, such as `rollout.abort`.
        id: the same when it is sent again.
        source: this node.
        now_s: when it happened, Unix time.
    """
    return {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": f"tidegate.{kind}",
        "subject": subject,
        "time": moment(now_s),
        "datacontenttype": "application/json",
        "data": dict(data),
    }


def moment(now_s: float) -> str:
    """Unix time as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds")


def encoded(event: Mapping[str, Any]) -> bytes:
    """The body that is sent and signed."""
    return json.dumps(event, separators=(",", ":")).encode()


def signed(body: bytes, secret: bytes, second: int) -> dict[str, str]:
    """Headers of a signed event."""
    return {"content-type": CONTENT_TYPE, SIGNATURE: f"t={second},v1={signature(secret, second, body)}"}


def signature(secret: bytes, second: int, body: bytes) -> str:
    """HMAC-SHA256 of time and body, hexadecimal."""
    return hmac.new(secret, b"%d." % second + body, hashlib.sha256).hexdigest()
