"""`tidegate experiment ...` and `tidegate shadow ...`: reports of a running server, by its admin port."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli.client import AdminUrl, admin_url, call
from gateway.cli.output import Failure, Json, print, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
shadow_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_WORDS = ("NaN", "Infinity", "-Infinity")
_VALUES = 32
"""Shown of a tensor; --json has all."""
Name = Annotated[str, typer.Argument(metavar="NAME", help="The policy's name: that of its model.")]


@app.command("ls")
def ls(admin: AdminUrl = None, as_json: Json = False) -> None:
    """List experiments."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/experiments").json()
    if as_json:
        print_json(found)
        return
    from gateway.control.experimentpage import moment

    rows = [(one["name"], one["state"], moment(one["began_ms"]), one["owner"]) for one in found]
    print_table("experiments", ["name", "state", "since", "owner"], rows)


@app.command("report")
def report(
    name: Name,
    html: Annotated[Path | None, typer.Option("--html", help="Write the page with plots to this file.")] = None,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Show how an experiment stands; it may be read at any time, as often as wanted."""
    url = f"{admin_url(admin)}/admin/v1/experiments/{quote(name)}"
    if html is not None:
        page = call("GET", f"{url}?format=html").body
        try:
            html.write_bytes(page)
        except OSError as error:
            raise Failure(f"cannot write {html}: {error.strerror}") from error
    found = call("GET", url).json()
    if as_json:
        print_json(found)
        return
    _print(found)
    if html is not None:
        print(f"page with plots: {html}")


def _print(found: dict[str, Any]) -> None:
    from gateway.control.experimentpage import headline, moment, number, percent, skew

    print(f"experiment {found['name']}: {found['state']}, since {moment(found['began_ms'])}; {found['unit']}")
    if found["hypothesis"]:
        print(f"  {found['hypothesis']}")
    print_table("what is compared", ["what", "value"], headline(found))
    health = found["health"]
    print(f"sample ratio p {number(health['srm_p'])}, of units with feedback {number(health['feedback_srm_p'])}")
    print(f"nodes behind the newest revision: {' ('.join(skew(health))})")
    for warning in health["warnings"]:
        print(f"  ! {warning}")
    print_table(
        "health",
        ["variant", "units", "requests", "bad", "fallbacks", "with feedback", "join rate", "median delay"],
        [
            [
                one["variant"], one["units"], one["requests"], one["bad"], percent(one["fallback_rate"]),
                one["predictions_with_feedback"], percent(one["join_rate"]), one["median_delay"],
            ]
            for one in health["arms"]
        ],
    )  # fmt: skip
    for goal in found["goals"]:
        mark = ", primary" if goal["primary"] else ""
        _print_goal(f"goal {goal['name']} ({goal['direction']} is better{mark})", goal)
    for rail in found["guardrails"]:
        _print_goal(f"guardrail {rail['name']}: share of failed requests per unit", rail)
    _print_times(found)
    _print_models(found)
    _print_history(found)


def _print_times(found: dict[str, Any]) -> None:
    from gateway.control.experimentpage import TIMES, TIMES_COLUMNS, TIMES_NOTE, times

    tables = [(title, rows) for title, name in TIMES.items() if (rows := [*times(found[name])])]
    for title, rows in tables:
        print_table(title, TIMES_COLUMNS, rows)
    if tables:
        print(f"  {TIMES_NOTE}")


def _print_models(found: dict[str, Any]) -> None:
    from gateway.control.experimentpage import (
        ARM_COLUMNS,
        MODEL_NOTE,
        SHADOW_COLUMNS,
        arm_tables,
        arms_of,
        matrices_of,
        shadows_of,
    )

    model = found["model"]
    print(f"models: {MODEL_NOTE}")
    if model["shadow"] is None:
        print(f"  no shadow report: {model['shadow_missing']}")
    else:
        print_table("in the shadow", SHADOW_COLUMNS, shadows_of(model))
        for title, classes, counts in matrices_of(model["shadow"]["variants"]):
            print_table(title, classes, counts)
        print(f"  more: tidegate shadow report {found['name']}; where: tidegate shadow samples {found['name']}")
    if model["arms"] is None:
        print(f"  no word of a monitor: {model['arms_missing']}")
        return
    print_table("drift, by the monitor", ARM_COLUMNS, arms_of(model))
    for title, columns, rows in arm_tables(model):
        print_table(title, columns, rows)


def _print_history(found: dict[str, Any]) -> None:
    from gateway.control.experimentpage import configured, edits

    title = f"what was in force; computed by tidegate {found['code_version']}"
    print_table(title, ["revisions", "since", "rule", "shares"], configured(found))
    if found["audit"] is None:
        print("the audit trail cannot be read: the store is away")
        return
    more = f", and {found['audit_left_out']:,} in between" if found["audit_left_out"] else ""
    print_table(f"who changed it{more}", ["record", "time", "what", "actor", "revision", "reason"], edits(found))


def _print_goal(title: str, goal: dict[str, Any]) -> None:
    from gateway.control.experimentpage import e_value, interval, number, percent_interval, signed

    compared = {one["variant"]: one for one in goal["comparisons"]}
    of_requests = any("requests" in arm for arm in goal["arms"])
    rows = []
    for arm in goal["arms"]:
        one = compared.get(arm["variant"])
        counts = [arm["requests"]] if of_requests else []
        line = [arm["variant"], *counts, arm["units"], number(arm["mean"])]
        if one is None:
            rows.append([*line, "control", "", "", "", "", "", ""])
            continue
        absolute = one["absolute"]
        effect = [signed(absolute["value"]), interval(absolute), percent_interval(one["relative"])]
        p = one.get("running_p", one["p"])
        rows.append([*line, *effect, number(p), e_value(one["log_e"]), number(one["detectable"]), one["decision"]])
    counted = ["requests", "units"] if of_requests else ["units"]
    told = ["effect", "interval", "relative", "p", "e-value", "would have seen", "decision"]
    columns = ["variant", *counted, "mean", *told]
    print_table(title, columns, rows)


@shadow_app.command("report")
def shadow_report(name: Name, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Show how the answers of a policy's shadow compare with those that were given."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/policies/{quote(name)}/shadow").json()
    if as_json:
        print_json(found)
        return
    scope = "since the rollout began" if found["scope"] == "rollout" else "of this node, since its start"
    print(f"shadow of {found['name']}: {found['shadow_slots'] / 100:g} % of the requests are copied; counts {scope}")
    if not found["variants"]:
        print("nothing was compared yet")
    for one in found["variants"]:
        _print_shadow(one)


def _print_shadow(one: dict[str, Any]) -> None:
    from gateway.control.experimentpage import matrices_of, number, percent

    surely = one["disagreement"]
    limits = f"{percent(surely['low'])} to {percent(surely['high'])}" if surely else None
    rows = [
        ("requests compared", one["requests"]),
        ("agreement", percent(one["agreement"])),
        ("disagreement, surely", limits),
        ("rows compared", one["rows"]),
        ("rows with another argmax", one["rows_other_argmax"]),
        ("rows outside the tolerance", one["rows_outside_tolerance"]),
        ("rows with another top k", one["rows_other_topk"]),
        ("score shift, mean", number(one["shift_mean"])),
        ("score shift, deviation", number(one["shift_deviation"])),
        ("failed in the shadow", one["failed"]),
        ("dropped", one["dropped"]),
    ]
    print_table(f"variant {one['variant']}", ["what", "value"], rows)
    for title, columns, counts in matrices_of([one]):
        print_table(title, columns, counts)
    most = max((bin["rows"] for bin in one["shift_histogram"]), default=0)
    if most:
        bars = [
            (f"{bin['at']:+.1f}", bin["rows"], "#" * max(1, round(40 * bin["rows"] / most)))
            for bin in one["shift_histogram"]
            if bin["rows"]
        ]
        print_table("score shift: shadow minus primary", ["shift", "rows", ""], bars)


@shadow_app.command("samples")
def shadow_samples(
    name: Name,
    variant: Annotated[str | None, typer.Option(metavar="NAME", help="Of this variant alone.")] = None,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Show requests that the shadow answered otherwise, with their inputs, where the policy asks for samples."""
    wanted = f"?variant={quote(variant)}" if variant else ""
    found = call("GET", f"{admin_url(admin)}/admin/v1/policies/{quote(name)}/shadow/samples{wanted}").json()
    if as_json:
        print_json(found)
        return
    from router.quantities import duration_text

    asked = found["asked"]
    if asked is None:
        print(f"the policy of {found['name']} asks for no samples: spec.shadow.samples")
        return
    kept = f"the newest {asked['max']:,} of this node are kept, each for {duration_text(asked['ttl_ms'])}"
    print(f"shadow samples of {found['name']}: {len(found['samples'])}; {kept}; {found['skipped']:,} were skipped")
    for one in found["samples"]:
        for line in _sample_lines(one):
            print(line)


def _sample_lines(one: dict[str, Any]) -> Iterator[str]:
    from gateway.control.experimentpage import moment

    rows = ", ".join(map(str, one["kept"]))
    yield f"{moment(one['time_ms'])}  request {one['request']}  {', '.join(one['why'])}  row {rows} of {one['rows']:,}"
    said = [("input", one["inputs"]), ("answered", one["answered"]), (one["variant"], one["shadow"] or [])]
    for who, tensors in said:
        for tensor in tensors:
            values = ", ".join(map(_shown, tensor["data"][:_VALUES]))
            more = ", ..." if len(tensor["data"]) > _VALUES else ""
            yield f"  {who} {tensor['name']} {tensor['shape']}: {values}{more}"
    if one["error"]:
        yield f"  {one['variant']} failed: {_plain(one['error'])}"


def _shown(value: object) -> str:
    return f'"{_plain(value)}"' if isinstance(value, str) and value not in _WORDS else str(value)


def _plain(text: str) -> str:
    """What callers sent, without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
