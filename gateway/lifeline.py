"""The line between the supervisor and each child: small messages, some with file descriptors. Standard library only.

One SOCK_SEQPACKET pair per child. Every message is a JSON object whose "say" tells what it is, except the heartbeat,
which is one byte. Messages by direction:

    child -> supervisor     beat | ready (a worker wants its slot) | listening | folded (control: start_id)
    supervisor -> worker    link [socket] | slot [socket] | adopt [socket] | drain (started_ns)
    supervisor -> control   worker (start_id, slot, pid, restarts, reason) [link, page] | gone (start_id, reason)
                            | dead (start_id, slot) [page] | stop
"""

import array
import ctypes
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

BEAT: Final = b"."
BEAT_S: Final = 0.25
_MESSAGE_BYTES: Final = 8192
_DESCRIPTORS: Final = 4
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
HUNG: Final = "its heartbeat stopped"
"""Why a process was killed whose loop did not answer any more."""
STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new line: the supervisor's, which never blocks, and the child's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def memory(name: str, size_bytes: int) -> int:
    """Descriptor of new zeroed shared memory; it costs only the pages that are touched."""
    descriptor = os.memfd_create(name)
    os.ftruncate(descriptor, size_bytes)
    return descriptor


def say(line: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send a message; the descriptors are duplicated. Raises OSError when the other end is gone or does not read."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    line.sendmsg([json.dumps(message).encode()], ancillary)


def hear(line: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message with its descriptors, now the caller's to close; None at the end of the line.

    Raises:
        BlockingIOError: there is none now.
    """
    data, descriptors, _, _ = socket.recv_fds(line, _MESSAGE_BYTES, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    return ({"say": "beat"} if data == BEAT else json.loads(data)), descriptors


def signals() -> socket.socket:
    """Catch the stop signals and SIGCHLD from now on: each arrives here as a byte with its number."""
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.detach(), warn_on_full_buffer=False)
    for caught in [*STOP_SIGNALS, signal.SIGCHLD]:
        signal.signal(caught, lambda *_: None)
    return woken


def become_child(parent_pid: int, *, niceness: int = 0) -> None:
    """First thing in a child: die with the parent, leave the signals to it, leave no core file.

    Raises:
        SystemExit: the parent died before this could be arranged.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if niceness:
        os.nice(niceness)


class Loop(Protocol):
    """What a line needs of an event loop."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> Any:
        """Call back whenever the descriptor is readable."""

    def remove_reader(self, fd: int, /) -> Any:
        """Stop that."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any:
        """Call back after `delay` seconds."""


class ChildLine:
    """A child's end on its event loop: beats, hears, says.

    Args:
        on_message: called with each message and its descriptors, which it has to close.
        on_end: the supervisor is gone.
    """

    def __init__(
        self,
        line: socket.socket,
        loop: Loop,
        *,
        on_message: Callable[[Message, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        line.setblocking(False)
        self._line = line
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end

    def start(self) -> None:
        """Begin to hear and to beat; a loop that hangs stops beating, and that is the point."""
        self._loop.add_reader(self._line.fileno(), self._readable)
        self._beat()

    def say(self, message: Message) -> None:
        """Tell the supervisor; one that is gone or hangs is not told."""
        try:
            say(self._line, message)
        except OSError:
            return

    def _beat(self) -> None:
        try:
            self._line.send(BEAT)
        except OSError:
            pass  # The supervisor hangs, and will read what it has; or it is gone, and so are we.
        self._loop.call_later(BEAT_S, self._beat)

    def _readable(self) -> None:
        try:
            heard = hear(self._line)
        except BlockingIOError:
            return
        except OSError:
            heard = None
        if heard is None:
            self._loop.remove_reader(self._line.fileno())
            self._on_end()
        else:
            self._on_message(*heard)
