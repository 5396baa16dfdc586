"""How models, versions and aliases are written, everywhere: NAME, NAME:VERSION, NAME@ALIAS, NAME@sha256:HEX."""

import re
from dataclasses import dataclass
from typing import Final

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
VERSION: Final = re.compile(r"[1-9][0-9]{0,17}\Z")
"""At most 18 digits: always below 2**63."""
ALIAS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}\Z")
"""Begins with a letter: in a URL it stands where the version stands, and digits mean a version."""
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")

NAME_RULE: Final = "1 to 128 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
VERSION_RULE: Final = "a number from 1, of at most 18 digits, without leading zeros"
ALIAS_RULE: Final = "1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter"


class NameRefused(ValueError):
    """A text that is no name, version, alias or reference; the message says what would be."""


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model as people write it. At most one of version, alias and digest is set.

    Attributes:
        digest: "sha256:HEX".
    """

    name: str
    version: int | None = None
    alias: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        selector = self.alias or self.digest
        return f"{self.name}@{selector}" if selector else self.name


def is_name(text: str) -> bool:
    """Whether the text may name a model."""
    return NAME.match(text) is not None


def is_alias(text: str) -> bool:
    """Whether the text may be an alias."""
    return ALIAS.match(text) is not None


def version_of(text: str) -> int | None:
    """The version a text of digits means; None when it is no version."""
    return int(text) if VERSION.match(text) else None


def parse_reference(text: str) -> ModelReference:
    """Read NAME, NAME:VERSION, NAME@ALIAS or NAME@sha256:HEX.

    Raises:
        NameRefused: with the rule that was broken.
    """
    name, at, selector = text.partition("@")
    if not at:
        name, colon, digits = text.partition(":")
        _require_name(name)
        return ModelReference(name, version=_version(digits) if colon else None)
    _require_name(name)
    if DIGEST.match(selector):
        return ModelReference(name, digest=selector)
    if selector.startswith("sha256:"):
        raise NameRefused(f"{_shown(selector)} is no digest: sha256: and 64 of 0-9 a-f are expected")
    if not is_alias(selector):
        raise NameRefused(f"{_shown(selector)} is no alias: expected {ALIAS_RULE}")
    return ModelReference(name, alias=selector)


def _version(text: str) -> int:
    version = version_of(text)
    if version is None:
        raise NameRefused(f"{_shown(text)} is no version: expected {VERSION_RULE}")
    return version


def _require_name(text: str) -> None:
    if not is_name(text):
        raise NameRefused(f"{_shown(text)} is no model name: expected {NAME_RULE}")


def _shown(text: str) -> str:
    return repr(text[:80])
