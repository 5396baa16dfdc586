"""The catalogue of malformed, hostile and odd HTTP as bytes and answers.

Where the catalogue and Triton's clients differ, the clients win: Content-Type is ignored on inference, an Upgrade
header is ignored and the request served, and gzip and deflate bodies are read.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.conformance.messages import FAST, GOOD, RIGHT, SLOW, bare, chunked, get, post
from tests.conformance.raw import Answer

Check = Callable[[list[Answer]], bool]
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Case:
    """One request, or several.

    Attributes:
        wanted: for each answer in order the statuses that are right; () = closed without one.
        closes: the server ends the connection after them.
        ends: our side is ended after sending.
        holds: what must be true of the answers beside their statuses.
        head: the answers have no bodies.
    """

    id: str
    data: bytes
    wanted: tuple[set[int], ...]
    closes: bool = False
    ends: bool = False
    holds: Check | None = None
    head: bool = False


def refused(id: str, data: bytes, *statuses: int, **more: bool) -> Case:
    """One error and a closed connection."""
    return Case(id, data, (set(statuses or (400,)),), closes=True, **more)


def served(id: str, data: bytes, *, count: int = 1, closes: bool = False) -> Case:
    """Right answers of model affine."""
    return Case(id, data, ({200},) * count, closes=closes, holds=lambda found: all(RIGHT in a.body for a in found))


def answered(id: str, data: bytes, *statuses: int, holds: Check | None = None) -> Case:
    """One answer; the connection may go on."""
    return Case(id, data, (set(statuses),), holds=holds)


def every() -> list[Case]:
    """All cases that end by themselves at once."""
    found: list[Case] = []
    for lane, path in (("fast", FAST), ("slow", SLOW)):
        for part in (_lengths, _heads, _large, _odd_but_served, _methods, _headers_with_meaning):
            found += [Case(f"{case.id}-{lane}", *_rest(case)) for case in part(path)]
    for part in (_chunks, _strangers, _paths, _encodings, _pipelines):
        found += part()
    assert len({case.id for case in found}) == len(found), "two cases have one name"
    return found


def _rest(case: Case) -> tuple[object, ...]:
    return case.data, case.wanted, case.closes, case.ends, case.holds, case.head


def _start(path: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST " + path + b" HTTP/" + version


def _lengths(path: bytes) -> Iterator[Case]:
    start, size = _start(path), b"content-length: %d" % len(GOOD)
    yield refused("A01", bare(start, b"host: a", size, b"transfer-encoding: chunked", body=b"0\r\n\r\n"))
    yield refused("A01-turned", bare(start, b"host: a", b"transfer-encoding: chunked", size, body=b"0\r\n\r\n"))
    yield refused("A02", bare(start, b"host: a", size, b"content-length: 3", body=GOOD))
    yield refused("A03", bare(start, b"host: a", size, size, body=GOOD))
    for name, value in (("minus", b"-1"), ("plus", b"+2"), ("long", b"9" * 23), ("hex", b"0x5e"), ("list", b"3, 3")):
        yield refused(f"A04-{name}", bare(start, b"host: a", b"content-length: " + value, body=GOOD))
    yield refused("A05", bare(start, b"host: a", b"transfer-encoding: xchunked", body=b"0\r\n\r\n"), 400, 501)
    yield refused("A06", bare(start, b"host: a", b"transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"), 501)
    yield Case("A25", post(path=path) + b"junk\r\n\r\n", ({200}, {400}), closes=True)
    yield Case("A25-line", post(path=path) + b"JUNK / HTTP/1.1\r\n\r\n", ({200}, {400}), closes=True)
    yield Case("A26", post(path=path)[:-10], (), closes=True, ends=True)
    yield refused("A27", bare(start, b"host: a", b"content-length: %d" % (10 << 30)), 413)
    json_length = b"inference-header-content-length: 20"
    yield refused("A27-binary", bare(start, b"host: a", json_length, b"content-length: %d" % (65 * MIB)), 413)


def _heads(path: bytes) -> Iterator[Case]:
    start, size = _start(path), b"content-length: %d" % len(GOOD)
    yield refused("A11", post(path=path).replace(b"\r\n", b"\n"))
    yield refused("A12-none", bare(start, size, body=GOOD))
    yield refused("A12-two", bare(start, b"host: a", b"Host: b", size, body=GOOD))
    yield served("A13", bare(start, b"host: a/b:@", size, body=GOOD))
    yield refused("A14-space", post(GOOD, b"x-a : 1", path=path))
    yield refused("A14-fold", post(GOOD, b"x-a: 1\r\n 2", path=path))
    yield refused("A14-nul", post(GOOD, b"x-a: 1\x002", path=path))
    yield refused("A14-no-name", post(GOOD, b": 1", path=path))
    yield refused("A14-no-colon", post(GOOD, b"x-a", path=path))
    yield refused("A14-bare-cr", post(GOOD, b"x-a: 1\r2", path=path))
    for version in (b"9.9", b"2.0", b"0.9", b"1.2", b"1", b"11.1"):
        yield refused(f"A16-{version.decode()}", post(path=path, version=version), 400, 505)
    yield served("A17", bare(_start(path, b"1.0"), size, body=GOOD), closes=True)
    yield served("A17-host", post(path=path, version=b"1.0"), closes=True)
    yield served("A17-keep-alive", post(GOOD, b"connection: keep-alive", path=path, version=b"1.0"), closes=True)


def _large(path: bytes) -> Iterator[Case]:
    # A value that ends the head at once, and one that comes for ever: refused before it is all read.
    for name, size in (("9k", 9 * KIB), ("64k", 64 * KIB), ("1m", MIB), ("30m", 30 * MIB)):
        yield refused(f"A18-{name}", post(GOOD, b"x-a: " + b"a" * size, path=path), 431)
    yield refused("A18-many", post(GOOD, *[b"x-%d: " % i + b"a" * 4000 for i in range(9)], path=path), 431)
    yield refused("A18-name", post(GOOD, b"a" * 9 * KIB + b": 1", path=path), 431)
    yield refused("A19", post(GOOD, *[b"x-%d: 1" % i for i in range(50_000)], path=path), 431)
    yield refused("A19-65", post(GOOD, *[b"x-%d: 1" % i for i in range(63)], path=path), 431)
    yield served("A19-64", post(GOOD, *[b"x-%d: 1" % i for i in range(62)], path=path))
    # Pipelined: the second request of one packet is bounded like the first.
    for name, header in (("header", b"x-a: " + b"a" * 9 * KIB), ("count", b"\r\n".join([b"x: 1"] * 70))):
        both = post(path=path) + post(GOOD, header, path=path)
        yield Case(f"A31-large-{name}", both, ({200}, {431}), closes=True)
    both = post(path=path) + post(path=path + b"a" * 9 * KIB)
    yield Case("A31-large-url", both, ({200}, {414}), closes=True)


def _odd_but_served(path: bytes) -> Iterator[Case]:
    for name, value in (
        ("text", b"text/plain"), ("form", b"application/x-www-form-urlencoded"), ("multipart", b"multipart/form-data"),
        ("two", b"application/json\r\ncontent-type: text/html"), ("empty", b""),
    ):  # fmt: skip
        yield served(f"A34-{name}", post(GOOD, b"content-type: " + value, path=path))
    yield served("A30-websocket", post(GOOD, b"connection: upgrade", b"upgrade: websocket", path=path))
    # As Java 17's HttpClient sends it; what follows on the connection is served as well.
    h2c = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA")
    yield served("A30-h2c", post(GOOD, *h2c, path=path))
    yield served("A30-h2c-twice", post(GOOD, *h2c, path=path) * 2, count=2)
    yield served("A30-h2c-then-plain", post(GOOD, *h2c, path=path) + post(path=path), count=2)
    yield served("A37", post(GOOD, b"range: bytes=" + b",".join([b"0-0"] * 1000), path=path))
    yield refused("A37-large", post(GOOD, b"range: bytes=" + b",".join([b"0-0"] * 10_000), path=path), 431)
    yield served("A38-forwarded", post(GOOD, b"x-forwarded-for: " + b", ".join([b"10.0.0.1"] * 100), path=path))
    yield served("A38-forwarded-lines", post(GOOD, *[b"x-forwarded-for: 10.0.0.1"] * 50, path=path))
    yield served("A39", post(GOOD, b"accept: application/xml", path=path))
    yield served("close", post(GOOD, b"connection: close", path=path), closes=True)
    yield served("close-then-more", post(GOOD, b"connection: close", path=path) + post(path=path), closes=True)
    yield served("empty-lines-before", b"\r\n\r\n" + post(path=path))


def _methods(path: bytes) -> Iterator[Case]:
    def allows(found: list[Answer]) -> bool:
        return found[0].header("allow") == "POST"

    for method in (b"TRACE", b"DELETE", b"PUT", b"PATCH", b"GET"):
        yield answered(f"A32-{method.decode()}", post(path=path, method=method), 405, holds=allows)
    yield refused("A32-CONNECT", post(path=path, method=b"CONNECT"), 405)
    yield refused("A32-CONNECT-authority", bare(b"CONNECT a:80 HTTP/1.1", b"host: a:80"), 400, 404, 405)
    for method in (b"FOO", b"post", b"P", b"POSTPOST"):
        yield refused(f"A32-{method.decode()}", post(path=path, method=method))
    yield Case("A33-HEAD", get(path, method=b"HEAD"), ({405},), holds=allows, head=True)
    yield answered("A33-OPTIONS", get(path, b"origin: http://evil", method=b"OPTIONS"), 405, holds=_no_cors)
    yield Case(
        "A33-origin", post(GOOD, b"origin: http://evil", path=path), ({200},), holds=lambda found: _no_cors(found)
    )


def _no_cors(found: list[Answer]) -> bool:
    return not any(name.startswith("access-control") for name, _ in found[0].headers)


def _headers_with_meaning(path: bytes) -> Iterator[Case]:
    for value in (b"-1", b"NaN", b"1e9", "٣".encode(), b"1.5", b"9" * 30, b"1, 2", b"1\r\nx-request-timeout-ms: 2"):
        name = value.decode().replace("\r\n", "-")
        yield answered(f"A38-timeout-{name}", post(GOOD, b"x-request-timeout-ms: " + value, path=path), 400)
    yield served("A38-timeout-ok", post(GOOD, b"x-request-timeout-ms: 5000", path=path))
    for value in (b"-1", b"abc", b"9e9", b"99999999999", b"%d" % (len(GOOD) + 1)):
        header = b"inference-header-content-length: " + value
        yield answered(f"C01-{value.decode()}", post(GOOD, header, path=path), 400)
    yield refused("A29-bogus", post(GOOD, b"expect: bogus", path=path), 417)
    expecting = bare(_start(path), b"host: a", b"content-length: %d" % (3 * MIB), b"expect: 100-continue")
    yield Case("A29-large", expecting, ({413},), closes=True, holds=lambda found: found[0].interim == ())
    yield Case(
        "A29", post(GOOD, b"expect: 100-continue", path=path), ({200},), holds=lambda found: found[0].interim == (100,)
    )
    for value in (b"\xff\xfe", b"a b", b"a" * 65, b"a\r\nx-request-id: b", b""):
        case = post(GOOD, b"x-request-id: " + value, path=path)
        own = answered(f"id-{value.hex()[:12]}", case, 200, holds=lambda found: len(_id_of(found[0])) == 32)
        yield own


def _id_of(answer: Answer) -> str:
    return answer.header("x-request-id") or ""


def _chunks() -> Iterator[Case]:
    def raw_chunks(body: bytes) -> bytes:
        return chunked(end=body)

    yield served("chunked", chunked(GOOD[:20], GOOD[20:]))
    yield refused("A07", raw_chunks(b"3\r\nabcXX3\r\nabc\r\n0\r\n\r\n"))
    yield refused("A08-minus", raw_chunks(b"-2\r\nabc\r\n"))
    yield refused("A08-long", raw_chunks(b"F" * 17 + b"\r\nabc"))
    yield refused("A08-16", raw_chunks(b"F" * 16 + b"\r\n" + b"a" * 3 * MIB), 400, 413)
    yield refused("A08-large", raw_chunks(b"1F400000\r\n" + b"a" * 3 * MIB), 413)
    yield refused("A08-empty", raw_chunks(b"\r\nabc\r\n"))
    yield refused("A09", raw_chunks(b"2;" + b"a" * MIB + b"\r\n{}\r\n0\r\n\r\n"), 400, 413)
    yield refused("A09-30m", raw_chunks(b"2;a=" + b"a" * 30 * MIB + b"\r\n{}\r\n0\r\n\r\n"), 400, 413)
    yield served("A09-small", chunked(end=b"%x;name=value\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)))
    trailers = b"0\r\nx-request-timeout-ms: -1\r\nx-request-id: evil\r\ncontent-encoding: br\r\n\r\n"
    yield Case("A10", chunked(GOOD, end=trailers), ({200},), holds=lambda found: _id_of(found[0]) != "evil")
    for name, trailer in (("long", b"x: " + b"a" * 30 * MIB), ("many", b"\r\n".join([b"x: 1"] * 200_000))):
        yield refused(f"A10-{name}", chunked(GOOD, end=b"0\r\n" + trailer + b"\r\n\r\n"), 400, 431)
    for count in (100_000, 1_000_000):
        yield refused(f"A24-{count}", raw_chunks(b"1\r\na\r\n" * count), 400)
    yield refused("A28", chunked(*[b" " * 64 * KIB] * 80), 413)
    yield refused("A28-no-end", chunked(*[b" " * 64 * KIB] * 40, end=b""), 413)


def _strangers() -> Iterator[Case]:
    hello = bytes.fromhex("16030100c2010000be0303") + bytes(range(180))
    yield refused("A15-tls", hello)
    yield refused("A15-random", bytes(range(128, 256)))
    yield refused("A15-zeros", bytes(5000))
    yield refused("A15-h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    yield refused("A15-get-h2", bare(b"GET /v2 HTTP/2.0", b"host: a"), 400, 505)
    yield refused("A15-no-version", b"GET /v2\r\n\r\n")
    yield refused("A15-response", b"HTTP/1.1 200 OK\r\n\r\n")
    yield Case("nothing", b"", (), closes=True, ends=True)
    yield Case("half-a-head", b"POST /v2/models/aff", (), closes=True, ends=True)
    yield answered("OPTIONS-star", get(b"*", method=b"OPTIONS"), 400, 404, 405)


def _paths() -> Iterator[Case]:
    for name, size in (("9k", 9 * KIB), ("70k", 70 * KIB), ("1m", MIB)):
        yield refused(f"A20-{name}", get(b"/v2/" + b"a" * size), 414)
        yield refused(f"A20-{name}-post", post(path=b"/v2/" + b"a" * size), 414)
        yield refused(f"A20-{name}-query", post(path=FAST + b"?" + b"a" * size), 414)
    for target in (b"http://evil/admin/v1/workers", b"http://evil", b"evil:80", b"//evil/admin", b"http://evil:x/v2"):
        yield answered(f"A21-{target.decode()}", get(target), 400, 404)
    yield answered("A21-live", get(b"http://evil/v2/health/live"), 200, 400)
    yield answered("A21-infer", post(path=b"http://evil" + FAST), 200, 400)
    for name in (
        b"%2e%2e%2f%2e%2e%2fetc%2fpasswd", b"..", b"../../etc/passwd", b"%00", b"a%00b", b"%ff%fe", b"%", b"%zz",
        b"\xff\xfe", "ä".encode(), b"%252e%252e", b"..\\..\\etc", b"..%5c..", b"affine%2f1", b"affine;a=b", b" ",
        b"%20affine", b"affine%0d%0ax-evil:1", b"a" * 300, b"%F0%9F%98%80", b"%E2%80%AE", b"CON", b"", b".",
    ):  # fmt: skip
        for what, verb in (("get", b""), ("infer", b"/infer")):
            shown = name.decode("latin-1")[:40]
            request = get(b"/v2/models/" + name) if what == "get" else post(path=b"/v2/models/" + name + verb)
            wanted = (400, 404)
            yield answered(f"A22-{what}-{shown}", request, *wanted, holds=_is_not_split)
    for path in (b"/admin/v1/workers", b"/v2/models/affine/", b"/v2/", b"/", b"/v2/models/affine/versions//infer"):
        yield answered(f"A23-{path.decode()}", get(path), 404)
    for version in (b"0", b"-1", b"01", b"1e3", b"9" * 31, b"latest", b"%D9%A1"):
        path = b"/v2/models/affine/versions/" + version + b"/infer"
        yield answered(f"B42-{version.decode()}", post(path=path), 400, 404)


def _is_not_split(found: list[Answer]) -> bool:
    return all(name != "x-evil" for name, _ in found[0].headers)


def _encodings() -> Iterator[Case]:
    def coded(coding: bytes, body: bytes, *headers: bytes) -> bytes:
        return post(body, b"content-encoding: " + coding, *headers)

    small = gzip.compress(GOOD)
    yield served("A35-gzip", coded(b"gzip", small))
    yield served("A35-GZIP", coded(b"GZIP", small))
    yield served("A35-deflate", coded(b"deflate", zlib.compress(GOOD)))
    yield served("A35-identity", coded(b"identity", GOOD))
    for value in (b"br", b"gzip,gzip", b"gzip\r\ncontent-encoding: gzip", b"x-gzip", b"zstd", b"\xff", b"gzip;q=1"):
        name = value.decode("latin-1").replace("\r\n", "-")
        yield answered(f"A35-{name}", coded(value, small), 415)
    bomb = gzip.compress(bytes(64 * MIB))
    yield answered("A36-bomb", coded(b"gzip", bomb), 413)
    yield answered("A36-bomb-deflate", coded(b"deflate", zlib.compress(bytes(64 * MIB))), 413)
    large = gzip.compress(b" " * (2 * MIB + 1))
    yield answered("A36-one-too-many", coded(b"gzip", large), 413)
    yield answered("A36-binary-bomb", coded(b"gzip", gzip.compress(bytes(80 * MIB)), _JSON_LENGTH), 413)
    yield answered("A36-truncated", coded(b"gzip", small[:-5]), 400)
    yield answered("A36-trailing", coded(b"gzip", small + small), 400)
    yield answered("A36-junk", coded(b"gzip", small + b"x"), 400)
    yield answered("A36-none", coded(b"gzip", GOOD), 400)
    yield answered("A36-empty", coded(b"gzip", b""), 400)
    yield answered("A36-checksum", coded(b"gzip", small[:-8] + bytes(8)), 400)


_JSON_LENGTH = b"inference-header-content-length: 20"


def _pipelines() -> Iterator[Case]:
    infer, meta, slow, bad = post(), get(), chunked(GOOD[:9], GOOD[9:]), post(b"{}")
    yield served("A31", infer * 3, count=3)
    yield served("A31-slow", slow * 3, count=3)
    yield Case("A31-mixed", (infer + meta + slow) * 2, ({200},) * 6, holds=_in_order)
    yield Case("A31-mixed-turned", (slow + meta + infer) * 2, ({200},) * 6, holds=lambda f: _in_order(f[::-1]))
    yield Case("A31-errors", infer + bad * 3 + infer, ({200}, {400}, {400}, {400}, {200}))
    yield Case("A31-many-errors", infer + bad * 1500 + infer, ({200}, *[{400}] * 1500, {200}))
    yield served("A31-many", infer * 500, count=500)
    yield Case("A31-many-mixed", (infer + meta) * 200, ({200},) * 400)
    yield Case("A31-then-junk", infer + meta + b"\x00\x01\r\n\r\n", ({200}, {200}, {400}), closes=True)
    # The second is refused while it is read and the first is not answered yet.
    broken = chunked(end=b"3\r\nabcXX")
    for name, first in (("fast", infer), ("slow", slow)):
        yield Case(f"A31-{name}-then-broken", first + broken, ({200}, {400}), closes=True)
        yield Case(f"A31-{name}-twice-then-broken", first * 2 + broken, ({200}, {200}, {400}), closes=True)
        thin = first + chunked(end=b"1\r\na\r\n" * 5000)
        yield Case(f"A31-{name}-then-thin", thin, ({200}, {400}), closes=True)
        yield Case(f"A31-{name}-half-closed", first, ({200},), closes=True, ends=True)
        yield Case(f"A31-{name}-three-half-closed", first * 3, ({200},) * 3, closes=True, ends=True)
    # An answer that came before the whole body was sent; what is wrong after it gets no second answer.
    lost = b"/v2/models/nobody/infer"
    yield Case("early-then-broken", chunked(path=lost, end=b"3\r\nabcXX"), ({404, 400},), closes=True)
    yield Case("early-then-next", chunked(GOOD, path=lost) + infer, ({404}, {200}))


def _in_order(found: list[Answer]) -> bool:
    kinds = [b'"platform"' in answer.body for answer in found]
    return kinds == [False, True, False] * 2
