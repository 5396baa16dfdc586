"""`tidegate monitor ...`: make a reference, try it on rows, see what can be seen. These need no server."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import Failure, Json, print, print_json, print_table

if TYPE_CHECKING:
    from gateway.monitor.fit import Fitted
    from gateway.monitor.reference import Reference
    from gateway.monitor.replaying import Replayed
    from gateway.monitor.settings import Spec

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Data = Annotated[Path, typer.Option("--data", metavar="FILE", help="Rows: .csv, .csv.gz, .npz or .parquet.")]
ReferenceFile = Annotated[Path, typer.Option("--reference", metavar="FILE", help="What `monitor fit` wrote.")]
Document = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A Monitor document [the defaults].")]
Score = Annotated[str | None, typer.Option(metavar="COLUMN", help="The model's answers [the model is run].")]
Label = Annotated[str | None, typer.Option(metavar="COLUMN", help="What came true; empty = not known.")]
Group = Annotated[str | None, typer.Option(metavar="COLUMN", help="Groups of people, for fairness.")]
Ignore = Annotated[list[str] | None, typer.Option("--ignore", metavar="COLUMN", help="No input; may be repeated.")]
_HOUR_MS = 3_600_000
_MOST_GROUPS = 16


@app.command("fit")
def fit(
    data: Data,
    model: Annotated[Path, typer.Option(metavar="PATH", help="model.onnx, or a folder of a model or version.")],
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML, feature: numeric | categorical | boolean | text | ignore."),
    ] = None,
    score: Score = None,
    output: Annotated[
        str | None, typer.Option(metavar="NAME[:COLUMN]", help="Which output is the score [the first that can be].")
    ] = None,
    label: Label = None,
    positive: Annotated[str, typer.Option(help="The label that a high score means.")] = "1",
    group: Group = None,
    ignore: Ignore = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="A score of at least this decides 1.")] = 0.5,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the reference goes.")] = Path("reference.npz"),
    as_json: Json = False,
) -> None:
    """Make a model's reference from rows that it was not trained on, in the order of time."""
    from gateway.cli.monitordata import Columns, ignored_of, model_of, no_inputs, place_of, rows_of, schema_of, table_of
    from gateway.monitor.fit import Choices
    from gateway.monitor.fit import fit as fitted_of
    from gateway.monitor.reference import ReferenceRefused, dumped

    kinds = schema_of(schema)
    table, found = table_of(data), model_of(model)
    groups = _groups_in(table, group)
    place = place_of(found.session.signature, output)
    left = no_inputs(table, kinds, found)
    columns = Columns(score, label, group, ignored=(*ignored_of(table, ignore), *left))
    kinds = {name: kind for name, kind in kinds.items() if name not in left}
    rows, said = rows_of(
        table, found.session.signature, found.names, columns, positive=positive, groups=groups, model=found, place=place
    )
    choices = Choices(kinds, found.names, place, threshold, tuple(groups))
    try:
        fitted = fitted_of(found.session.signature, found.digest, rows, choices)
    except ReferenceRefused as error:
        raise Failure(f"{data}: {error}", 2) from error
    try:
        out.write_bytes(dumped(fitted.reference))
    except OSError as error:
        raise Failure(f"cannot write {out}: {error.strerror}") from error
    summary = _summary(fitted, said) | {"file": str(out)}
    if as_json:
        print_json(summary)
    else:
        _print_fit(summary)


def _groups_in(table: Any, column: str | None) -> list[str]:
    """The most frequent words of the group column, in the order of the alphabet."""
    from collections import Counter

    from gateway.monitor import tables

    if column is None:
        return []
    try:
        counts = Counter(word for word in tables.words(table, column) if word)
    except tables.TableRefused as error:
        raise Failure(str(error), 2) from error
    return sorted(word for word, _ in counts.most_common(_MOST_GROUPS))


def _summary(fitted: "Fitted", said: list[str]) -> dict[str, Any]:
    from gateway.monitor.baselines import baselines

    reference = fitted.reference
    score = reference.plan.score
    return {
        "id": reference.id,
        "model_sha256": reference.binding.digest,
        "rows": reference.rows,
        "features": [_feature(one.plan, one.why) for one in fitted.features],
        "left_out": [{"name": one.name, "why": one.why} for one in fitted.left],
        "score": None if score is None else {"kind": score.kind, "calibration_points": len(score.calibration)},
        "baselines": baselines(reference),
        "notes": [*said, *fitted.warnings],
    }


def _feature(plan: Any, why: str) -> dict[str, Any]:
    if plan.edges:
        holds = f"{plan.edges[0]:.6g} to {plan.edges[-1]:.6g}"
    else:
        rest = f" and {len(plan.others):,} more" if plan.others else ""
        shown = ", ".join(f"{value:g}" if isinstance(value, float) else str(value)[:20] for value in plan.values[:6])
        holds = shown + (", ..." if len(plan.values) > 6 else "") + rest
    return {"name": plan.name, "kind": plan.kind, "why": why, "bins": plan.bins, "holds": holds}


def _print_fit(summary: dict[str, Any]) -> None:
    rows = [(one["name"], one["kind"], one["why"], one["bins"], one["holds"]) for one in summary["features"]]
    print_table("features", ["feature", "kind", "why", "bins", "holds"], rows)
    for one in summary["left_out"]:
        print(f"left out: {one['name']}: {one['why']}")
    lines = [
        (name, one["rows"], _number(one["positive_rate"]), *(_number(one["realised"].get(m)) for m in _METRICS))
        for name, one in summary["baselines"].items()
    ]
    if lines:
        print_table("group", ["group", "rows", "decided 1", *_METRICS], lines)
    for note in summary["notes"]:
        print(f"note: {note}")
    print(f"{summary['file']}: reference {summary['id']} of {summary['rows']:,} rows")
    print(f"for the model with sha256 {summary['model_sha256'][:12]}...; put it beside that model.onnx")


_METRICS = ("accuracy", "roc_auc", "precision", "recall", "specificity", "f1")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@app.command("replay")
def replay(
    data: Data,
    reference: ReferenceFile,
    config: Document = None,
    window_rows: Annotated[int | None, typer.Option(min=1, help="Rows per window [the document's].")] = None,
    model: Annotated[Path | None, typer.Option(metavar="PATH", help="Run this model for the scores.")] = None,
    score: Score = None,
    label: Label = None,
    positive: Annotated[str, typer.Option(help="The label that a high score means.")] = "1",
    group: Group = None,
    ignore: Ignore = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="When each row was asked.")] = None,
    rows_per_day: Annotated[
        float | None, typer.Option(min=1e-3, help="Without a time column [one window of rows per hour].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send rows through the monitor as if they had been asked, and show what it says."""
    from gateway.cli.monitordata import (
        Columns,
        ignored_of,
        model_of,
        monitor_of,
        reference_of,
        rows_of,
        table_of,
        times_of,
    )
    from gateway.monitor.fit import regrouped
    from gateway.monitor.reference import ReferenceRefused, refuse_other_signature, without_score
    from gateway.monitor.replaying import replay as replayed

    found, spec = reference_of(reference), _spec_of(monitor_of(config).spec, window_rows)
    if spec.reference.mode == "champion":
        raise Failure(f"{config}: reference: champion compares two variants, and rows of a file have one", 2)
    if spec.groups is not None:
        found = regrouped(found, spec.groups.values)
    table = table_of(data)
    if not table.rows:
        raise Failure(f"{data}: no rows", 2)
    asked = None if model is None else model_of(model)
    if asked is not None:
        try:
            refuse_other_signature(found, asked.session.signature, asked.digest)
        except ReferenceRefused as error:
            raise Failure(str(error), 2) from error
    unknown = asked is None and score is None and found.plan.score is not None
    if unknown:
        found = without_score(found)
    rows, said = rows_of(
        table,
        found.binding.signature,
        found.binding.names,
        Columns(score, label, group, time, ignored_of(table, ignore)),
        positive=positive,
        groups=found.plan.groups,
        model=asked,
        place=_place(found),
    )
    notes = [*said, *_not_judged(spec, found, label, group, unknown)]
    spacing_ms = _spacing_ms(spec, rows_per_day, found)
    if time is None:
        notes.append(f"rows are taken to come every {spacing_ms / 1000:.6g} s; --time or --rows-per-day says otherwise")
    windows = replayed(found, spec, rows, times_of(table, time, spacing_ms))
    notes += _few_labels(windows, spec)
    _print_replay(windows, table.rows, notes, _silence(windows, spec, found, table.rows), as_json)


def _not_judged(
    spec: "Spec", reference: "Reference", label: str | None, group: str | None, unknown: bool
) -> Iterator[str]:
    """What a running gateway would judge and this replay does not, and why. Args: unknown: there are no answers."""
    score = reference.plan.score
    if spec.latency is not None:
        yield "latency is not judged: a file does not say how long answers took"
    if unknown:
        yield "without --model or --score COLUMN predictions and performance are not judged"
    if score is None or score.kind != "probability":
        return
    if label is None:
        yield "without --label COLUMN performance by labels and concept drift are not judged"
    elif reference.labels is None:
        yield "the reference was made without labels: performance by labels has nothing to be compared with"
    if spec.groups is not None and group is None:
        yield "without --group COLUMN fairness is not judged"
    if spec.groups is None and group is not None:
        yield "fairness is judged where the document of --config names spec.groups"


def _few_labels(windows: "list[Replayed]", spec: "Spec") -> list[str]:
    """A note, where windows have labels and none had enough of them."""
    from gateway.monitor.cbpe import MIN_ROWS

    if not any(one.realised for one in windows) or any("performance_realised" in one.said for one in windows):
        return []
    share = f"less than {spec.labels.min_coverage:.0%} of a decision class have one (labels.min_coverage)"
    return [f"no window is judged by labels: each has fewer than {MIN_ROWS}, or {share}"]


def _silence(windows: "list[Replayed]", spec: "Spec", reference: "Reference", rows: int) -> str:
    """Why nothing was judged; "" = something was."""
    from gateway.monitor.engine import rule_of

    if any(not one.result.reason for one in windows):
        return ""
    if windows:
        reasons = ", ".join(sorted({one.result.reason.replace("_", " ") for one in windows}))
        return f"each of {len(windows):,} windows has {reasons} (min_rows {spec.min_rows:,})"
    limit = rule_of(reference, spec).limit
    ends = [f"{limit:,} rows"] if limit else []
    ends += [f"{spec.window.time_ms / 1000:,.6g} s"] if spec.window.time_ms is not None else []
    return f"{rows:,} rows close no window; one closes at {' or '.join(ends)}, or what --window-rows says"


def _place(reference: "Reference") -> Any:
    from gateway.monitor.fit import ScoreAt

    score = reference.plan.score
    return None if score is None else ScoreAt(score.output, score.column)


def _spec_of(spec: "Spec", window_rows: int | None) -> "Spec":
    import msgspec

    from gateway.monitor.settings import Window

    if window_rows is None:
        return spec
    return msgspec.structs.replace(spec, window=Window(rows=window_rows), min_rows=min(spec.min_rows, window_rows))


def _spacing_ms(spec: "Spec", rows_per_day: float | None, reference: "Reference") -> float:
    from gateway.monitor.engine import rule_of
    from gateway.monitor.windows import DAY_MS

    if rows_per_day is not None:
        return DAY_MS / rows_per_day
    return _HOUR_MS / (rule_of(reference, spec).limit or spec.min_rows)


def _print_replay(windows: "list[Replayed]", rows: int, notes: list[str], silence: str, as_json: bool) -> None:
    alarms = [alarm for one in windows for alarm in _alarms(one)]
    left = rows - (windows[-1].last if windows else 0)
    if left:
        notes = [*notes, f"the last {left:,} rows close no window, and are not judged"]
    verdict = "alarm" if alarms else "insufficient" if silence else "no alarm"
    if as_json:
        judged = sum(not one.result.reason for one in windows)
        facts = {"judged": judged, "rows_left": left, "verdict": verdict, "reason": silence}
        print_json({"windows": [_listed(one) for one in windows], "alarms": alarms, "notes": notes, **facts})
        return
    columns = ["rows", "input", "names", "prediction", "quality", "performance", "estimated", "realised", "labels"]
    print_table(f"{len(windows)} windows", [*columns, "fairness"], [_line(one) for one in windows])
    for note in notes:
        print(f"note: {note}")
    for alarm in alarms:
        print(f"alarm at row {alarm['row']:,}: {alarm['family']}: {', '.join(alarm['names'])}")
    if not alarms:
        print(f"nothing was judged: {silence}" if silence else "no alarm")


def _listed(one: "Replayed") -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(one.result)
    states = {name: said.state for name, said in one.said.items()}
    return found | {"first": one.first, "last": one.last, "realised": one.realised, "states": states}


def _line(one: "Replayed") -> list[object]:
    result = one.result
    states = {family.family: family for family in result.families}
    shown = [f"{one.first:,} to {one.last:,}"]
    if result.reason:
        return [*shown, f"not judged: {result.reason}"]
    of_input = states["input"]
    values = result.estimated.values if result.estimated else {}
    return [
        *shown,
        f"{of_input.state} p {of_input.p_value:.2g}",
        ", ".join(of_input.named),
        f"{states['prediction'].state} p {states['prediction'].p_value:.2g}" if result.score else "",
        states["quality"].state,
        result.performance.state if result.performance else "",
        _number(values.get("accuracy")),
        _number(one.realised.get("accuracy")),
        _by_labels(one),
        one.said["fairness"].state if "fairness" in one.said else "",
    ]


def _by_labels(one: "Replayed") -> str:
    """The worse of performance by labels and concept drift."""
    from gateway.monitor.words import Signal, worst_of

    names: tuple[Signal, ...] = ("performance_realised", "concept_drift")
    states = [one.said[name].state for name in names if name in one.said]
    return worst_of(states) if states else ""


def _alarms(one: "Replayed") -> list[dict[str, Any]]:
    """Alarms that begin with a window: families, estimated performance, and what labels and groups say."""
    found = {family.family: family.named for family in one.result.families if family.fired}
    if one.result.performance and one.result.performance.fired:
        found["performance"] = one.result.performance.firing
    found |= {name: one.said[name].keys for name in one.began}
    place = {"row": one.last, "closed_ms": one.result.closed_ms}
    return [{**place, "family": family, "names": list(names)} for family, names in found.items()]


def explain_offline(reference: Path, config: Path | None, as_json: bool) -> None:
    """The form of `monitor explain` that needs no server."""
    from gateway.cli.monitordata import monitor_of, reference_of
    from gateway.monitor.explaining import explained

    found = explained(reference_of(reference), monitor_of(config).spec)
    if as_json:
        print_json(found)
    else:
        print_explained(found)


def print_explained(found: dict[str, Any]) -> None:
    """What `gateway.monitor.explaining.explained` gave, as tables."""
    print_table("settings", ["setting", "value"], found["settings"].items())
    print_table("reference", ["what", "value"], found["reference"].items())
    window = found["window"]
    print_table("window", ["what", "value"], window.items())
    rows = [
        (name, *(f"{one[family]:.3g}" for family in ("input", "prediction", "quality")))
        for name, one in found["levels"].items()
    ]
    print_table("level of a window that lasts", ["time", "input", "prediction", "quality"], rows)
    print_table(
        "features",
        ["feature", "kind", "bins", "rows with data", "overdispersion", "smallest psi seen"],
        [
            (one["name"], one["kind"], one["bins"], one["rows"], f"{one['overdispersion']:.3f}", _number(one["psi"]))
            for one in found["features"]
        ],
    )
    for note in found["notes"]:
        print(f"note: {note}")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of Monitor documents."""
    from gateway.monitor.settings import schema as schema_of

    print_json(schema_of())
