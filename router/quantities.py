"""What people write for shares, times and models in a policy, read exactly: no floating point on the way.

Every reader takes a plain value and raises ValueError with what was expected and what it got.
"""

import re
from decimal import Decimal
from typing import Any, Final

from router.hashing import SLOTS
from router.slots import MAX_VARIANTS

_PERCENT: Final = re.compile(r"(-?[0-9]{1,12}(?:\.[0-9]{1,12})?) ?%\Z")
_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_APPROVER: Final = re.compile(r"(?:(?:key|label|group):)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
MAX_DURATION_MS: Final = 366 * 86_400_000
_MODEL: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,127})"
    r"(?::(?P<version>[1-9][0-9]{0,17})|@(?P<digest>sha256:[0-9a-f]{64})|@(?P<alias>[A-Za-z][A-Za-z0-9._-]{0,63}))?\Z"
)


def shown(value: object) -> str:
    """A value as messages quote it: bounded, and named as the document's author knows it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"text {value[:64]!r}" + ("..." if len(value) > 64 else "")
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    return "a list" if isinstance(value, list) else type(value).__name__


def read_slots(value: object) -> int:
    """Slots of 10,000: a whole number of them, or a percent text such as "0.5%"."""
    if isinstance(value, str) and _PERCENT.match(value):
        return _hundredths(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'expected slots of 10,000 as a whole number, or percent such as "0.5%", got {shown(value)}')
    return _share(value, shown(value))


def read_percent(value: object) -> int:
    """A share in percent, as a number or a text such as "0.5%"; slots of 10,000 come out."""
    if isinstance(value, str) and _PERCENT.match(value):
        return _hundredths(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f'expected percent as a number or a text such as "0.5%", got {shown(value)}')
    if not 0 <= value <= 100:
        raise ValueError(f"expected 0 to 100 %, got {shown(value)}")
    return _hundredths(f"{Decimal(repr(value)):f}%")


def _hundredths(text: str) -> int:
    """Slots of a percent text; a slot is a hundredth of a percent."""
    slots = Decimal(text.rstrip("% ")) * 100
    if slots != int(slots):
        raise ValueError(f"expected steps of 0.01 % (one slot of 10,000), got {text[:64]}")
    return _share(int(slots), text)


def _share(slots: int, text: str) -> int:
    if not 0 <= slots <= SLOTS:
        raise ValueError(f"expected 0 to {SLOTS:,} slots or 0 to 100 %, got {text}")
    return slots


def read_split(value: object) -> dict[str, int]:
    """Variant -> slots; all in slots or all in percent, with the sum 10,000 or 100 %."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"expected a mapping of variants to shares, got {shown(value)}")
    if len(value) > MAX_VARIANTS:
        raise ValueError(f"expected at most {MAX_VARIANTS} variants, got {len(value):,}")
    shares: dict[str, int] = {}
    wrong = []
    for name, share in value.items():
        try:
            shares[read_name(name)] = read_slots(share)
        except ValueError as error:
            wrong.append(f"{str(name)[:64]}: {error}")
    if wrong:
        raise ValueError("; ".join(wrong) + _sum_of(value))
    percent = {isinstance(share, str) for share in value.values()}
    if len(percent) == 2:
        raise ValueError("some shares are slots and some percent; write all in one of the two")
    total = sum(shares.values())
    if total != SLOTS:
        raise ValueError(_wrong_sum(total, percent.pop()))
    return shares


def _sum_of(value: dict[Any, Any]) -> str:
    """The sum of a split whose entries are wrong, where it has one."""
    shares = list(value.values())
    if all(isinstance(share, str) and _PERCENT.match(share) for share in shares):
        return f"; the sum is {sum(Decimal(share.rstrip('% ')) for share in shares):f} %"
    if all(isinstance(share, int | float) and not isinstance(share, bool) for share in shares):
        return f"; the sum is {shown(sum(shares))}"
    return ""


def _wrong_sum(total: int, percent: bool) -> str:
    if percent:
        return f"the sum is {percent_text(total)}, expected 100 %"
    hint = '; whole numbers are slots, percent is written as "90%"' if total == 100 else ""
    return f"the sum is {total:,} slots, expected {SLOTS:,}{hint}"


def read_name(value: object) -> str:
    """A name of something in the document, also a value of metric labels."""
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError(
            "expected a name of up to 64 letters, digits, '.', '_' and '-' that begins with a letter or digit, "
            f"got {shown(value)}"
        )
    return value


def read_approver(value: object) -> str:
    """Who may agree. Names of keys and labels are written alike; whom no key can match would be waited for for ever."""
    if not isinstance(value, str) or not _APPROVER.match(value):
        raise ValueError(
            "expected key:NAME, label:NAME, group:NAME or a bare name, each of up to 64 letters, digits, '.', '_' and "
            f"'-' that begins with a letter or digit, got {shown(value)}"
        )
    return value


def read_header(value: object) -> str:
    """A header's or cookie's name (RFC 9110, 5.6.2: a token)."""
    if not isinstance(value, str) or not TOKEN.match(value):
        raise ValueError(f"expected a header or cookie name, got {shown(value)}")
    return value


def read_method(value: object) -> str:
    """How an experiment is evaluated; there is one way yet."""
    if value != "asympcs":
        raise ValueError(
            f"expected asympcs, the asymptotic confidence sequence; other methods are not offered, got {shown(value)}"
        )
    return "asympcs"


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: half a surrogate pair cannot."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def check_text(value: object) -> None:
    """Raise ValueError for text that cannot be written as UTF-8; other values pass."""
    if isinstance(value, str) and not is_text(value):
        raise ValueError(f"expected text in Unicode, got {shown(value)} with half a surrogate pair")


def read_duration(value: object) -> int:
    """Milliseconds of `500ms`, `30s`, `5m`, `24h`, `7d`; up to 366 days."""
    found = _DURATION.match(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected a time such as 30s, 5m, 24h or 7d, got {shown(value)}")
    time_ms = int(found[1]) * _UNIT_MS[found[2]]
    if not 0 < time_ms <= MAX_DURATION_MS:
        raise ValueError(f"expected a time above 0 and up to 366d, got {found[0]}")
    return time_ms


def read_model(value: object) -> str:
    """NAME, NAME:VERSION, NAME@ALIAS or NAME@sha256:HEX."""
    if not isinstance(value, str) or not _MODEL.match(value):
        raise ValueError(f"expected NAME, NAME:VERSION, NAME@ALIAS or NAME@sha256:HEX, got {shown(value)}")
    return value


def read_model_name(value: object) -> str:
    """The name of a model, without a version."""
    if not isinstance(value, str) or not _MODEL.match(value) or model_name(value) != value:
        raise ValueError(f"expected a model name: up to 128 letters, digits, '.', '_' and '-', got {shown(value)}")
    return value


def model_name(reference: str) -> str:
    """The model name in a reference that `read_model` has accepted."""
    return re.split("[:@]", reference, maxsplit=1)[0]


def duration_text(time_ms: int) -> str:
    """As a person would write it: the largest unit that is whole."""
    for unit in ("d", "h", "m", "s"):
        if time_ms and time_ms % _UNIT_MS[unit] == 0:
            return f"{time_ms // _UNIT_MS[unit]}{unit}"
    return f"{time_ms}ms"


def percent_text(slots: int) -> str:
    """Slots as percent: 50 -> `0.5 %`."""
    return f"{Decimal(slots) / 100:f}".removesuffix(".00") + " %"
