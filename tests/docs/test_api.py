"""docs/api.md names every endpoint, every error code with its status, and every header that is sent."""

import json
import re
from types import SimpleNamespace
from typing import Any

from starlette.routing import Route

from gateway.errors import STATUS
from gateway.http.admin import build_admin
from gateway.http.app import build_app
from gateway.http.compression import COMPRESS_BYTES
from runtimes.batching.plan import SHARE_OF_DEADLINE
from tests.docs.tables import DOCS, ROOT, code, rows

TEXT = (DOCS / "api.md").read_text()
DATA, ADMIN = TEXT.split("## Admin port")
_ANYTHING: Any = SimpleNamespace(dataplane=None, gate=None, policies=None, rollouts=None)


def calls(routes: list[Any]) -> set[str]:
    """`METHOD path`, as the page writes it."""
    found = set()
    for route in routes:
        assert isinstance(route, Route)
        methods = ", ".join(sorted((route.methods or set()) - {"HEAD"}))
        found.add(f"{methods} {route.path.replace(':path}', '}')}")
    return found


def written(text: str) -> set[str]:
    return {code(row[0]) for row in rows(text, "call")}


def test_every_endpoint_of_the_data_port_is_documented():
    app = build_app(_ANYTHING, _ANYTHING, _ANYTHING)
    assert written(DATA) == calls(app.routes)


def test_every_endpoint_of_the_admin_port_is_documented():
    app = build_admin(_ANYTHING, _ANYTHING, _ANYTHING, {}, 1, gate=None, names=_ANYTHING)
    assert written(ADMIN) == calls(app.routes)


def test_every_error_code_is_documented_with_its_status():
    assert {code(row[0]): int(row[1]) for row in rows(TEXT, "code")} == STATUS


def test_the_example_of_an_error_has_the_fields_that_are_sent():
    example = json.loads(re.search(r"^Body: `(.*?)`", TEXT, re.MULTILINE)[1])  # type: ignore[index]
    assert list(example) == ["error", "code", "request_id"]
    assert example["code"] in STATUS


def test_every_header_of_ours_is_documented():
    ours = re.compile(r"b\"(x-[a-z-]+|inference-header-[a-z-]+|retry-after|traceparent|(?:content|accept)-encoding)\"")
    used = {name for path in (ROOT / "gateway").rglob("*.py") for name in ours.findall(path.read_text())}
    assert used <= {code(row[0]) for row in rows(TEXT, "header")}
    assert "x-tidegate-model" in used


def test_the_numbers_in_the_text_are_those_of_the_code():
    assert f"{COMPRESS_BYTES // 1024} KiB" in TEXT
    assert f"{SHARE_OF_DEADLINE} of the time left" in TEXT
