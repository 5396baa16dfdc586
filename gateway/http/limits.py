"""Bounds on connections and on the framing of requests, from the configuration. Pure."""

from dataclasses import dataclass, replace

from gateway.config import Config, keep_alive_s, worker_count


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Bounds on connections and on the framing of requests; per connection unless said otherwise.

    Attributes:
        connections: per process.
        pipelined: requests that may wait behind one that is being answered; one read could bring ten thousand.
        fast_body_bytes: larger bodies take the slow lane.
        linger_bytes: read and dropped of a peer that was refused and still sends.
    """

    url_bytes: int = 8192
    header_count: int = 64
    header_bytes: int = 8192
    headers_total_bytes: int = 32768
    json_body_bytes: int = 2 * 1024 * 1024
    binary_body_bytes: int = 64 * 1024 * 1024
    fast_body_bytes: int = 1024 * 1024
    linger_bytes: int = 64 * 1024 * 1024
    body_chunks: int = 65536
    connections: int = 1000
    pipelined: int = 2048
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    body_min_bytes_per_s: int = 1024
    write_timeout_s: float = 30.0
    keep_alive_s: float = 5.0


def edge_limits(config: Config) -> EdgeLimits:
    """The bounds of one worker's connections."""
    limits, workers = config.limits, max(1, worker_count(config))
    return EdgeLimits(
        url_bytes=limits.url_bytes,
        header_count=limits.header_count,
        header_bytes=limits.header_bytes,
        headers_total_bytes=limits.headers_total_bytes,
        json_body_bytes=limits.json_body_bytes,
        binary_body_bytes=limits.binary_body_bytes,
        fast_body_bytes=limits.fast_body_bytes,
        linger_bytes=limits.binary_body_bytes,
        body_chunks=limits.body_chunks,
        connections=-(-limits.connections // workers),
        header_timeout_s=limits.header_timeout_ms / 1000,
        body_timeout_s=limits.body_timeout_ms / 1000,
        body_min_bytes_per_s=limits.body_min_bytes_per_s,
        write_timeout_s=limits.write_timeout_ms / 1000,
        keep_alive_s=keep_alive_s(config.server),
    )


def admin_limits(config: Config) -> EdgeLimits:
    """The bounds of the admin port: as on the data port, with fewer connections and smaller bodies."""
    limits = config.limits
    return replace(
        edge_limits(config),
        connections=limits.admin_connections,
        json_body_bytes=limits.admin_body_bytes,
        binary_body_bytes=limits.admin_body_bytes,
        fast_body_bytes=0,
    )
