"""What `tidegate monitor explain NAME` prints: settings, what the last windows said and why they alarmed, or not."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.cli.monitor import print_explained
from gateway.cli.output import Failure, print, print_table
from gateway.control import monitortables as tables
from gateway.control.monitorwords import (
    MEASURES,
    by_psi,
    collected,
    judged,
    latency_beside,
    measures,
    moment,
    series_name,
    why,
)

_WINDOWS: Final = 3
_FEATURES: Final = 10
"""Shown of the last window, those that differ most; `--feature` shows any."""
View = Mapping[str, Any]


def print_found(name: str, found: View) -> None:
    """All of it. Args: found: as `GET /admin/v1/monitors/NAME/explain` answers."""
    for version, problem in found["problems"].items():
        print(f"version {version} is not watched: {problem}")
    for version, progress in found["collecting"].items():
        print(collected(version, progress))
    for version, one in found["versions"].items():
        print(f"{name}, version {version}")
        print_explained(dict(one))
        for variant, windows in one["windows"].items():
            print("")
            _print_windows(series_name(version, variant), windows)
            if one["stages"].get(variant):
                print_table("time by stage, and how fast it burns the budget", *tables.stages(one["stages"][variant]))
            if variant in one["beside_champion"]:
                print(f"  latency beside the champion: {latency_beside(one['beside_champion'][variant])}")
    if not found["versions"] and not found["collecting"]:
        print("nothing is watched: no version has a reference; `tidegate monitor fit` makes one")
    print("")
    print(f"attribution: {found['attribution']['verdict']}: {found['attribution']['sentence']}")
    for one in found["held_back"][-5:]:
        print(f"held back: {one['signal']} of {series_name(one['version'], one['variant'])}: {one['why']}")


def _print_windows(place: str, windows: Sequence[View]) -> None:
    print(f"{place}: what the last windows said, and why")
    if not windows:
        print("  no window has closed yet")
    for window in windows[-_WINDOWS:]:
        print(f"  window {window['index']}, {window['rows']:,} rows, {moment(window['closed_ms'] / 1000)}")
        for sentence in why(window):
            print(f"    {sentence}")
    for window in judged(windows)[-1:]:
        compared = by_psi(window)
        rows = [[one["name"], f"{one['rows']:,}", *measures(one)] for one in compared[:_FEATURES]]
        print_table(f"window {window['index']} against the reference", ["feature", "rows", *MEASURES], rows)
        if len(compared) > _FEATURES:
            print(f"  {len(compared) - _FEATURES:,} more features differ less: --feature NAME shows one")


def print_feature(found: View, feature: str) -> None:
    """All distances and tests of one feature, or of the score, window by window. Raises Failure: there is none."""
    seen = False
    for version, one in found["versions"].items():
        known = {each["name"] for each in one["features"]}
        for variant, windows in one["windows"].items():
            rows = [
                [window["index"], moment(window["closed_ms"] / 1000), f"{each['rows']:,}", *measures(each)]
                for window in judged(windows)
                for each in by_psi(window)
                if each["name"] == feature
            ]
            if rows:
                title = f"{feature} of {series_name(version, variant)}"
                print_table(title, ["window", "closed", "rows", *MEASURES], rows)
            elif feature in known:
                print(f"{feature} of {series_name(version, variant)}: no window was judged yet")
            seen = seen or bool(rows) or feature in known
    if not seen:
        raise Failure(f"no version has a feature {feature[:80]!r} that was compared", 2)
