"""Rules of a policy as functions of a request: made once per revision, run per request.

AND inside a match, OR across matches. An absent value fails every test but `present: false` and `not`; an input whose
rows disagree fails all of them.
"""

from collections.abc import Callable
from typing import Final

from router import patterns
from router.policy import Match, PlainTextTest, PlainValueTest, Rule, Source, TextTest, ValueTest
from router.view import MIXED, Mixed, Value, View

Matcher = Callable[[View], bool]
Unit = Callable[[View], bytes | None]
TextCheck = Callable[[bytes | None], bool]
ValueCheck = Callable[[Value | Mixed | None], bool]

MAX_UNIT_BYTES: Final = 1024
"""A longer unit is none: nobody's user id is so long."""
_MAX_UNIT_BITS: Final = 1024
"""Of a number; float64 has no larger one."""


def matcher(rule: Rule) -> Matcher:
    """Whether a request is one that the rule decides."""
    return _any([_all(_conditions(match)) for match in rule.match])


def unit_of(sources: tuple[Source, ...]) -> Unit:
    """The first unit that is present; of no sources each request's id."""
    if not sources:
        return lambda view: view.request_id
    found = [_source(source) for source in sources]
    if len(found) == 1:
        return found[0]

    def first(view: View) -> bytes | None:
        for one in found:
            unit = one(view)
            if unit is not None:
                return unit
        return None

    return first


def unit_text(value: Value | Mixed | None) -> bytes | None:
    """An input's value as a unit; None where there is none. A whole number is the same unit as its text or float."""
    if value is None or value is MIXED:
        return None
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, float):
        if not value.is_integer():
            return None if value != value or value in (float("inf"), float("-inf")) else repr(value).encode()
        value = int(value)
    if isinstance(value, int) and value.bit_length() > _MAX_UNIT_BITS:
        return None
    text = str(value).encode("utf-8", "replace")
    return text if 0 < len(text) <= MAX_UNIT_BYTES else None


def _source(source: Source) -> Unit:
    if source.header is not None:
        name = source.header.lower().encode()

        def header(view: View) -> bytes | None:
            unit = view.headers.get(name)
            return unit if unit and len(unit) <= MAX_UNIT_BYTES else None

        return header
    if source.cookie is not None:
        key = source.cookie.encode()

        def cookie(view: View) -> bytes | None:
            unit = view.cookie(key)
            return unit if unit and len(unit) <= MAX_UNIT_BYTES else None

        return cookie
    field = source.input or ""
    return lambda view: unit_text(view.field(field))


def _any(alternatives: list[Matcher]) -> Matcher:
    if len(alternatives) == 1:
        return alternatives[0]
    return lambda view: any(one(view) for one in alternatives)


def _all(conditions: list[Matcher]) -> Matcher:
    if len(conditions) == 1:
        return conditions[0]
    return lambda view: all(one(view) for one in conditions)


def _conditions(match: Match) -> list[Matcher]:
    """Cheap ones first: what stands in the body is asked last."""
    return [
        *(_header(name.lower().encode(), test) for name, test in match.headers.items()),
        *(_cookie(name.encode(), text_check(test)) for name, test in match.cookies.items()),
        *(_parameter(name.encode(), text_check(test)) for name, test in match.query.items()),
        *(_field(name, value_check(test)) for name, test in match.input.items()),
    ]


def _header(name: bytes, test: TextTest) -> Matcher:
    if test.exact is not None:
        value = test.exact.encode()
        return lambda view: view.headers.get(name) == value
    check = text_check(test)
    return lambda view: check(view.headers.get(name))


def _cookie(name: bytes, check: TextCheck) -> Matcher:
    return lambda view: check(view.cookie(name))


def _parameter(name: bytes, check: TextCheck) -> Matcher:
    return lambda view: check(view.parameter(name))


def _field(name: str, check: ValueCheck) -> Matcher:
    return lambda view: check(view.field(name))


def text_check(test: PlainTextTest) -> TextCheck:
    """A test of a header, cookie or parameter on its bytes; the policy's text is UTF-8."""
    if isinstance(test, TextTest) and test.not_ is not None:
        inner = text_check(test.not_)
        return lambda value: not inner(value)
    if test.exact is not None:
        exact = test.exact.encode()
        return lambda value: value == exact
    if test.prefix is not None:
        prefix = test.prefix.encode()
        return lambda value: value is not None and value.startswith(prefix)
    if test.in_ is not None:
        texts = frozenset(text.encode() for text in test.in_)
        return lambda value: value in texts
    if test.regex is not None:
        fullmatch = patterns.compiled(test.regex).fullmatch
        longest = patterns.VALUE_BYTES
        return lambda value: value is not None and len(value) <= longest and fullmatch(value) is not None
    present = test.present is True
    return lambda value: (value is not None) is present


def value_check(test: PlainValueTest) -> ValueCheck:
    """A test of an input's value."""
    if isinstance(test, ValueTest) and test.not_ is not None:
        inner = value_check(test.not_)
        return lambda value: value is not MIXED and not inner(value)
    if test.exact is not None or test.in_ is not None:
        keys = frozenset(_key(one) for one in (test.in_ or (test.exact,)))
        return lambda value: value is not None and _key(value) in keys
    if test.present is not None:
        present = test.present
        return lambda value: value is not MIXED and (value is not None) is present
    return _bounds(test)


def _key(value: Value | Mixed | None) -> tuple[str, Value | Mixed | None]:
    """Equal for equal values of one kind: true is not 1 and "1" is not 1, but 1.0 is."""
    if isinstance(value, bool):
        return "bool", value
    return "number" if isinstance(value, int | float) else "text", value


def _bounds(test: PlainValueTest) -> ValueCheck:
    above = test.gt if test.gt is not None else float("-inf")
    least = test.gte if test.gte is not None else float("-inf")
    below = test.lt if test.lt is not None else float("inf")
    most = test.lte if test.lte is not None else float("inf")
    # A bound that is not given lets infinities pass too.
    open_low, open_high = test.gt is None, test.lt is None

    def within(value: Value | Mixed | None) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return (value > above or open_low) and value >= least and (value < below or open_high) and value <= most

    return within
