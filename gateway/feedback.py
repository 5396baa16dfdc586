"""What callers send back for predictions: reading a body, and checking the ids in it. Pure.

    {"prediction_id": "ID[/k]", "reward": {"NAME": number}, "label": text | number | true | false,
     "timestamp": seconds since 1970 | RFC 3339 text, "model": NAME}

One such object, or a list of at most 1,000. A body of another form is refused whole, with the place of what is wrong:
whoever sends it has a bug. An id that is not ours is no such bug, but an item refused by itself.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.predictions import MOST_CHARS, ForgedId, Prediction, read
from router.moments import read_moment
from runtimes.errors import InvalidInput

MOST_ITEMS: Final = 1_000
"""As many rows as the store takes in one step."""
BODY_BYTES: Final = 1024 * 1024
MOST_REWARDS: Final = 16
"""Rewards of one item: as many as an experiment has goals."""
LARGEST: Final = 1e12
"""Of a number: sums of squares of a million of them keep their digits."""
LABEL_CHARS: Final = 256
LABEL_SLOT: Final = "label"
REWARD_SLOT: Final = "reward."
"""What comes back for one prediction stands in the ledger under `label` and `reward.NAME`."""
OUTCOMES: Final = ("new", "duplicate", "replaced", "forged", "expired", "unknown_model", "forbidden")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FIELDS: Final = frozenset({"prediction_id", "reward", "label", "timestamp", "model"})
_LARGEST_INTEGER: Final = 2**53
_LATEST_S: Final = 32_503_680_000  # the year 3000: what is larger was meant in milliseconds

Label = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Item:
    """One item as sent.

    Attributes:
        rewards: by name, finite.
        label: the truth, as it became known; None = not told.
        timestamp_s: Unix time at which the outcome was observed; None = now.
        model: the policy's name, for a version that stands under two names; "" = not told.
    """

    prediction_id: str
    rewards: Mapping[str, float]
    label: Label | None = None
    timestamp_s: float | None = None
    model: str = ""

    def slots(self) -> dict[str, Label]:
        """Place in the ledger -> value."""
        found: dict[str, Label] = {f"{REWARD_SLOT}{name}": value for name, value in self.rewards.items()}
        if self.label is not None:
            found[LABEL_SLOT] = self.label
        return found


def listed(document: object) -> list[tuple[str, object]]:
    """The items of a body, each with its path.

    Args:
        document: plain values, as a JSON parser gives them.

    Raises:
        InvalidInput: it is neither an object nor a list of 1 to 1,000.
    """
    if isinstance(document, dict):
        return [("", document)]
    if not isinstance(document, list):
        raise InvalidInput(f"expected an object or a list of objects, got {_shown(document)}")
    if not 1 <= len(document) <= MOST_ITEMS:
        raise InvalidInput(f"expected 1 to {MOST_ITEMS:,} items, got {len(document):,}")
    return [(f"[{at}]", one) for at, one in enumerate(document)]


def item_of(value: object, path: str = "") -> Item:
    """One item. Raises InvalidInput with the path of what does not fit."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: expected an object, got {_shown(value)}")
    dot = f"{path}." if path else ""
    for name in value:
        if name not in _FIELDS:
            raise InvalidInput(f"{dot}{name[:64]}: unknown field; there are {', '.join(sorted(_FIELDS))}")
    prediction_id, model = value.get("prediction_id"), value.get("model", "")
    if not isinstance(prediction_id, str) or not 1 <= len(prediction_id) <= MOST_CHARS:
        raise InvalidInput(f"{dot}prediction_id: expected the text of x-prediction-id, got {_shown(prediction_id)}")
    if not isinstance(model, str) or len(model) > 256:
        raise InvalidInput(f"{dot}model: expected a model's name, got {_shown(model)}")
    rewards, label = _rewards(value.get("reward"), f"{dot}reward"), _label(value.get("label"), f"{dot}label")
    if not rewards and label is None:
        raise InvalidInput(f"{path or 'the item'}: expected reward, label or both")
    return Item(prediction_id, rewards, label, _time(value.get("timestamp"), f"{dot}timestamp"), model)


def _rewards(value: object, path: str) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not 1 <= len(value) <= MOST_REWARDS:
        raise InvalidInput(f"{path}: expected an object of 1 to {MOST_REWARDS} numbers, got {_shown(value)}")
    found = {}
    for name, number in value.items():
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{path}.{name[:64]}: expected a name of 1 to 64 of A-Z a-z 0-9 _ . -")
        found[name] = _finite(number, f"{path}.{name}")
    return found


def _finite(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{path}: expected a number, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        raise InvalidInput(f"{path}: expected a finite number within {LARGEST:g}, got {_shown(value)}")
    return number


def _label(value: object, path: str) -> Label | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > LABEL_CHARS:
            raise InvalidInput(f"{path}: expected at most {LABEL_CHARS} characters, got {len(value):,}")
        return value
    if isinstance(value, int) and not -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        raise InvalidInput(f"{path}: expected a whole number within 2^53, got {_shown(value)}")
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return _finite(value, path)
    raise InvalidInput(f"{path}: expected text, a number, true or false, got {_shown(value)}")


def _time(value: object, path: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            seconds = read_moment(value) if len(value) <= 40 else None
        except ValueError:
            seconds = None
        if seconds is None or seconds.tzinfo is None:
            raise InvalidInput(f"{path}: expected RFC 3339 with a time zone, such as 2026-03-01T12:00:00Z")
        value = seconds.timestamp() if 0 <= seconds.timestamp() <= _LATEST_S else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_S:
        raise InvalidInput(f"{path}: expected a time from 1970 to 2999, in seconds or RFC 3339, got {_shown(value)}")
    return float(value)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return repr(value)[:60] if isinstance(value, str | int | float) else f"a {type(value).__name__} of another form"


def facts_of(item: Item, keys: Mapping[int, bytes]) -> dict[str, Any] | None:
    """What control needs of an item, in plain values; None = its id is forged.

    Args:
        keys: of prediction ids, by key id.
    """
    try:
        prediction = read(item.prediction_id, keys)
    except ForgedId:
        return None
    return _facts(item, prediction)


def _facts(item: Item, prediction: Prediction) -> dict[str, Any]:
    return {
        "id": prediction.id,
        "row": prediction.row,
        "digest": prediction.digest,
        "revision": prediction.revision,
        "variant": prediction.variant,
        "stratum": prediction.stratum,
        "time_s": prediction.time_s,
        "unit": prediction.unit,
        "score_bin": prediction.score_bin,
        "decision": prediction.decision,
        "group": prediction.group,
        "slots": item.slots(),
        "at_s": item.timestamp_s,
        "model": item.model,
    }
