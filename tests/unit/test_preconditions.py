"""If-Match and If-None-Match: which generation a caller has seen."""

import pytest
from starlette.requests import Request

from gateway.control.documents import ANY
from gateway.errors import HttpError
from gateway.http.preconditions import generation_seen
from runtimes.errors import InvalidInput


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "PUT", "headers": raw})


@pytest.mark.parametrize(
    ("headers", "generation"),
    [
        ({}, None),
        ({"if_match": '"3"'}, 3),
        ({"if_match": ' "12" '}, 12),
        ({"if_match": "4"}, 4),
        ({"if_match": "*"}, ANY),
        ({"if_none_match": "*"}, 0),
    ],
)
def test_a_generation_is_named(headers: dict[str, str], generation: int | None) -> None:
    assert generation_seen(request(**headers)) == generation


@pytest.mark.parametrize("sent", [{"if_none_match": '"3"'}, {"if_none_match": "*", "if_match": '"3"'}])
def test_what_would_not_be_heeded_is_refused(sent: dict[str, str]) -> None:
    """A document was changed although the caller had said: not if it is at 3."""
    with pytest.raises(InvalidInput, match="If-None-Match: expected"):
        generation_seen(request(**sent))


@pytest.mark.parametrize("tag", ['W/"2"', '"nine"', '""', '"1234567890"'])
def test_a_tag_that_no_generation_has_never_matches(tag: str) -> None:
    with pytest.raises(HttpError) as caught:
        generation_seen(request(if_match=tag))
    assert (caught.value.status, caught.value.code) == (412, "stale")


@pytest.mark.parametrize("tag", ['*, "1"', '"1", "2"', "", '"1', "w/2", "x"])
def test_what_is_no_single_tag_is_refused(tag: str) -> None:
    with pytest.raises(InvalidInput, match="If-Match: expected the ETag"):
        generation_seen(request(if_match=tag))
