"""If-Match and If-None-Match: which generation a caller has seen."""

import pytest
from starlette.requests import Request

from gateway.control.documents import ANY, Seen, in_words, is_stale
from gateway.errors import HttpError
from gateway.http.preconditions import generation_seen
from runtimes.errors import InvalidInput


def request(*lines: str, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"if-match", line.encode()) for line in lines]
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
        ({"if_match": '"1", "2"'}, frozenset({1, 2})),
        ({"if_match": '"1","3" ,, W/"2",\t"nine", "a,b",'}, frozenset({1, 3})),
        ({"if_match": 'W/"1", "2"'}, 2),
        ({"if_match": '"3", "3", "0"'}, 3),
    ],
)
def test_a_generation_is_named(headers: dict[str, str], generation: Seen) -> None:
    assert generation_seen(request(**headers)) == generation


def test_lines_of_a_header_are_one_list() -> None:
    """Of two lines the first counted, and the document was changed."""
    assert generation_seen(request('"1"', '"2"')) == frozenset({1, 2})
    with pytest.raises(InvalidInput, match="If-Match: expected the ETag"):
        generation_seen(request('"1"', "*"))


def test_one_of_a_list_is_in_force_or_none() -> None:
    seen = frozenset({2, 10})
    assert [is_stale("policy", seen, current) for current in (0, 1, 2, 3, 10)] == [True, True, False, True, False]
    assert (in_words(seen), in_words(3)) == ("2 or 10", "3")


@pytest.mark.parametrize("tag", ['"0"', "0"])
def test_none_is_in_force_is_no_generation_but_where_it_was_given_as_one(tag: str) -> None:
    """RFC 9110, 13.1.1: If-Match is false where there is nothing. It made a first one."""
    with pytest.raises(HttpError, match="If-None-Match: \\* makes a first one") as caught:
        generation_seen(request(if_match=tag))
    assert (caught.value.status, caught.value.code) == (412, "stale")
    assert generation_seen(request(if_match=tag), 0) == 0


@pytest.mark.parametrize("sent", [{"if_none_match": '"3"'}, {"if_none_match": "*", "if_match": '"3"'}])
def test_what_would_not_be_heeded_is_refused(sent: dict[str, str]) -> None:
    """A document was changed although the caller had said: not if it is at 3."""
    with pytest.raises(InvalidInput, match="If-None-Match: expected"):
        generation_seen(request(**sent))


@pytest.mark.parametrize("tag", ['W/"2"', '"nine"', '""', '"1234567890"', '"03"', 'W/"1", "x"'])
def test_a_tag_that_no_generation_has_never_matches(tag: str) -> None:
    with pytest.raises(HttpError) as caught:
        generation_seen(request(if_match=tag))
    assert (caught.value.status, caught.value.code) == (412, "stale")


@pytest.mark.parametrize("tag", ['*, "1"', "", " , ", '"1" "2"', "03", "1, 2", '"1", x', 'w/"2"', '"1'])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(InvalidInput, match="If-Match: expected the ETag"):
        generation_seen(request(if_match=tag))
