"""Times as people and programs write them. No clock here."""

from datetime import datetime


def read_moment(text: str) -> datetime:
    """A date, or a date and time, of ISO 8601, with its zone if it says one. Raises ValueError: it is none.

    RFC 3339, 5.6, lets `t` and `z` be small; Python takes any letter between the two, but only a large Z.
    """
    return datetime.fromisoformat(text[:-1] + "Z" if text.endswith("z") else text)
