"""What `tidegate monitor explain NAME` prints, from what a server may say."""

from typing import Any

import msgspec
import pytest

from gateway.cli.monitor_why import print_feature, print_found
from gateway.cli.output import Failure
from gateway.control.monitorviews import explanation
from gateway.control.monitorwords import MEASURES, measures, number
from gateway.monitor.explaining import explained
from tests.monitor.page_world import NOW_MS, ROWS_OF, held_of, plan_of

DRIFTED = [(ROWS_OF, 0.0), (ROWS_OF, 0.6), (ROWS_OF, 0.6)]


def found(windows: list[tuple[int, float]], features: int = 3) -> dict[str, Any]:
    held = held_of(plan_of(features, "f"), windows)
    about = {version: explained(one.reference, one.spec) for version, one in held.monitor.versions.items()}
    return msgspec.json.decode(msgspec.json.encode(explanation("loans", held, about, NOW_MS)))  # type: ignore[no-any-return]


def test_all_distances_and_tests_of_the_features_that_differ_most_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = found(DRIFTED, 30)
    print_found("loans", view)
    out = capsys.readouterr().out
    assert "what the last windows said, and why" in out
    assert all(column in out for column in MEASURES)
    assert "21 more features differ less: --feature NAME shows one" in out
    compared = view["versions"]["1"]["windows"]["-"][-1]["features"][0]
    assert None not in [compared[name] for name in MEASURES.values()]
    (row,) = [line for line in out.splitlines() if line.split()[:2] == ["f0", f"{ROWS_OF:,}"]]
    assert row.split()[2:] == " ".join(measures(compared)).split()


def test_one_feature_is_printed_window_by_window(capsys: pytest.CaptureFixture[str]) -> None:
    view = found(DRIFTED)
    print_feature(view, "f2")
    out = capsys.readouterr().out
    assert "f2 of version 1" in out
    rows = [line.split() for line in out.splitlines() if "UTC" in line]
    windows = view["versions"]["1"]["windows"]["-"]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert [row[5] for row in rows] == [number(one["features"][2]["psi"]) for one in windows]
    assert {tuple(row[-2:]) for row in rows} == {("-", "-")}, "categories have no order"
    print_feature(view, "score")
    assert "score of version 1" in capsys.readouterr().out


def test_a_feature_that_is_not_there_or_not_yet_compared_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Failure, match="no version has a feature 'income'"):
        print_feature(found(DRIFTED), "income")
    print_feature(found([(50, 0.0)]), "f1")
    assert "f1 of version 1: no window was judged yet" in capsys.readouterr().out
