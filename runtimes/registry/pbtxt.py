"""Protobuf text format, as far as Triton's config.pbtxt uses it: fields, lists, nested messages, strings, numbers.

Source: https://protobuf.dev/reference/protobuf/textformat-spec/. Extensions, Any and string prefixes are not read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from runtimes.registry.strictyaml import DocumentError

_MAX_DEPTH: Final = 16
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n\f\v]+|\#[^\n]*)
    | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*|[-+]?[0-9.][A-Za-z0-9_.+-]*|-[A-Za-z]+)
    | (?P<sign>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True, slots=True)
class Text:
    """A value as written: a string without its quotes, a number, or a name such as KIND_CPU."""

    text: str


@dataclass(frozen=True, slots=True)
class Field:
    """One occurrence of a field; a list gives one field per item."""

    name: str
    value: "Text | Message"
    line: int


Message = tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def parse(text: str, what: str) -> Message:
    """Read a message.

    Raises:
        DocumentError: with the line.
    """
    return _Parser(list(_tokens(text, what)), what).message(end="", depth=0)


def _tokens(text: str, what: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise DocumentError(f"unexpected {text[at]!r}", what=what, line=line)
        kind = str(match.lastgroup)
        if kind != "space":
            yield _Token(kind, match.group(), line)
        line += match.group().count("\n")
        at = match.end()
    yield _Token("end", "", line)


class _Parser:
    def __init__(self, tokens: list[_Token], what: str) -> None:
        self._tokens = tokens
        self._at = 0
        self._what = what

    def message(self, end: str, depth: int) -> Message:
        """Fields up to the sign `end`; "" is the end of the text."""
        if depth > _MAX_DEPTH:
            raise self._error(f"nested deeper than {_MAX_DEPTH} levels")
        fields: list[Field] = []
        while not self._accept(end):
            name = self._next()
            if name.kind != "word":
                raise self._error(f"a field name is expected, got {name.text[:80]!r}", name)
            fields += (Field(name.text, value, name.line) for value in self._values(depth))
            if not self._accept(","):
                self._accept(";")
        return tuple(fields)

    def _values(self, depth: int) -> list[Text | Message]:
        colon = self._accept(":")
        if not self._accept("["):
            return [self._value(depth, scalar=colon)]
        values: list[Text | Message] = []
        while not self._accept("]"):
            values.append(self._value(depth, scalar=colon))
            if not self._accept(",") and self._peek().text != "]":
                raise self._error(f"',' or ']' is expected, got {self._peek().text[:80]!r}")
        return values

    def _value(self, depth: int, *, scalar: bool) -> Text | Message:
        token = self._next()
        if token.kind == "sign" and token.text in "{<":
            return self.message("}" if token.text == "{" else ">", depth + 1)
        if not scalar or token.kind not in ("string", "word"):
            raise self._error(f"a value is expected, got {token.text[:80]!r}", token)
        if token.kind == "word":
            return Text(token.text)
        text = _unquoted(token.text)
        while self._peek().kind == "string":  # adjacent strings are one
            text += _unquoted(self._next().text)
        return Text(text)

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        if token.kind == "end":
            raise self._error("the text ends too early")
        self._at += 1
        return token

    def _accept(self, sign: str) -> bool:
        token = self._peek()
        if token.text != sign or token.kind not in ("sign", "end"):
            return False
        self._at += token.kind == "sign"
        return True

    def _error(self, message: str, token: _Token | None = None) -> DocumentError:
        return DocumentError(message, what=self._what, line=(token or self._peek()).line)


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), text[1:-1])
