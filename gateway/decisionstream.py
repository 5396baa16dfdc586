"""Lines of the decision log on their way to the store: by control, which alone talks to it, one part at a time.

The log's thread waits for control's word. Until it has come a part is neither written nor lost, and is sent again under
the same number: the store keeps it once.
"""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from gateway.decisions import NotNow
from gateway.store.lines import LINE_BYTES, PART_BYTES, PART_LINES
from runtimes.errors import ServingError

CALL_S: Final = 2.0
"""Control gives up after so long. Its own calls to Redis end within 250 ms, but other workers may be in front."""
_PATIENCE_S: Final = 1.0

Call = Callable[[str, dict[str, Any], float], Coroutine[Any, Any, Any]]


class StreamSink:
    """See `gateway.decisions.Sink`.

    Args:
        call: asks control, on `loop`; see `gateway.control.link.WorkerEnd.call`.
        sender: names this start of this worker, never used again.
        most: lines that the store keeps of all nodes, about.
    """

    part_lines = PART_LINES
    part_bytes = PART_BYTES
    line_bytes = LINE_BYTES

    def __init__(self, call: Call, loop: asyncio.AbstractEventLoop, sender: str, most: int) -> None:
        self._call = call
        self._loop = loop
        self._sender = sender
        self._most = most
        self._sequence = 1

    def open(self) -> None:
        """Nothing: control may come later."""

    def write(self, lines: Sequence[bytes]) -> None:
        """See `Sink.write`. Blocks; raises NotNow."""
        part = {"sender": self._sender, "sequence": self._sequence, "lines": list(lines), "most": self._most}
        asked = asyncio.run_coroutine_threadsafe(self._call("decision_lines", part, CALL_S), self._loop)
        try:
            asked.result(CALL_S + _PATIENCE_S)
        except ServingError as error:
            raise NotNow(error.message) from error
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            asked.cancel()
            raise NotNow("the worker's loop does not answer") from error
        self._sequence += 1
