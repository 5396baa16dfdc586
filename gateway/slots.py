"""The listening sockets of the node: one SO_REUSEPORT slot per worker. Standard library only.

The kernel spreads new connections over the slots that listen. (One socket shared by all workers gave a single worker
31 of 32 connections under uvloop.) A slot is bound here and listens only when its worker is ready to accept.
"""

import socket


def bind(host: str, port: int, *, shared: bool) -> socket.socket:
    """A bound TCP socket that does not listen yet; `shared`: others of ours may bind the same address.

    Raises:
        OSError: the host is unknown, or the address is in use or not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class Slots:
    """One slot per worker, all on one address.

    Attributes:
        host, port: the address; a port of 0 was replaced with a free one.

    Raises:
        OSError: as `bind`; sharing would succeed on a port that another program of this user shares already,
            so a plain bind comes first and shows that the port is free.
    """

    def __init__(self, host: str, port: int, count: int) -> None:
        with bind(host, port, shared=False) as plain:
            self.host, self.port = host, int(plain.getsockname()[1])
        self._slots: list[socket.socket] = []
        try:
            for _ in range(count):
                self._slots.append(bind(host, self.port, shared=True))
        except OSError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._slots)

    def fileno(self, slot: int) -> int:
        """Descriptor of a slot; -1 after `close`."""
        return self._slots[slot].fileno()

    def renew(self, slot: int) -> socket.socket:
        """Put a fresh socket in place of one; gives the old, still open, with whatever waits in its backlog."""
        old, self._slots[slot] = self._slots[slot], bind(self.host, self.port, shared=True)
        return old

    def close(self) -> None:
        """Let go of all; a worker that holds one goes on listening."""
        for slot in self._slots:
            slot.close()
