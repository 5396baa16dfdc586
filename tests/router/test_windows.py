"""Spans of the week and frozen times."""

import pytest

from router.windows import read_freeze_end, read_weekly


@pytest.mark.parametrize(
    ("text", "days", "start", "stop", "zone"),
    [
        ("Mon-Thu 09:00-16:00 Europe/Berlin", {0, 1, 2, 3}, 540, 960, "Europe/Berlin"),
        ("Fri-Mon 00:00-24:00 UTC", {4, 5, 6, 0}, 0, 1440, "UTC"),
        ("Mon,Wed-Thu,Sun 08:30-09:00 America/Argentina/Buenos_Aires", {0, 2, 3, 6}, 510, 540, None),
        ("Sat 23:59-24:00 Etc/GMT+5", {5}, 1439, 1440, "Etc/GMT+5"),
    ],
)
def test_spans_of_the_week(text: str, days: set[int], start: int, stop: int, zone: str | None) -> None:
    found = read_weekly(text)
    assert (found.days, found.start_minute, found.stop_minute) == (days, start, stop)
    assert found.zone == (zone or text.split()[2])
    for weekday in range(7):
        assert found.holds(weekday, start) is (weekday in days)
        assert found.holds(weekday, stop - 1) is (weekday in days)
        assert not found.holds(weekday, stop)
        assert not found.holds(weekday, start - 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Mon",
        "mon 09:00-16:00 UTC",
        "Mon 9:00-16:00 UTC",
        "Mon 09:00-25:00 UTC",
        "Mon 24:00-24:00 UTC",
        "Mon 09:00-09:00 UTC",
        "Mon- 09:00-16:00 UTC",
        "Mon 09:00-16:00 ../etc",
        "Mon 09:00-16:00 UTC\n",
        "Mon,Mon,Mon,Mon,Mon,Mon,Mon,Mon 09:00-16:00 UTC",
    ],
)
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_weekly(text)


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.5+01:00", 500),
        ("2026-12-20T00:00+01:00", 1_797_721_200_000),
        ("1970-01-01t00:00:00.5z", 500),  # RFC 3339 lets both be small
        ("1970-01-01 00:00:00z", 0),
    ],
)
def test_times_have_zones(text: str, time_ms: int) -> None:
    assert read_freeze_end(text) == time_ms


@pytest.mark.parametrize(
    "text", ["", "2026-12-20", "2026-12-20T00:00:00", "tomorrow", "2026-13-01T00:00Z", "1e9", "z", "12zz"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time"):
        read_freeze_end(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"])
def test_the_ends_of_time_are_times(text: str) -> None:
    assert isinstance(read_freeze_end(text), int)
