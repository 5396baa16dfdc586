"""`tidegate audit ...`: who changed what and why, by the admin port of a running server."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from gateway.cli.client import AdminUrl, admin_url, call
from gateway.cli.output import Failure, Json, print, print_json, print_table
from router.moments import read_moment

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
RecordId = Annotated[
    str, typer.Argument(metavar="ID", help="CHAIN/SEQ, as `audit ls` prints it; a number alone is main/N.")
]
_EXPORT_S = 120.0
_SPAN = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command("ls")
def ls(
    name: Annotated[str | None, typer.Option(help="Only of this policy.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only by this key's name, or auto:...")] = None,
    what: Annotated[str | None, typer.Option(help="apply, step, hold, abort, promoted, kill ...")] = None,
    since: Annotated[str | None, typer.Option(help="2h, 7d, or a time such as 2030-01-31T12:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since.")] = None,
    rollout: Annotated[str | None, typer.Option(help="Identity of a rollout.")] = None,
    prediction_id: Annotated[str | None, typer.Option(help="Records that made the revision that answered it.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """List records, newest first."""
    asked = {
        "name": name, "actor": actor, "what": what, "rollout": rollout, "prediction_id": prediction_id, "limit": limit,
        "since": _time_ms(since, "--since"), "until": _time_ms(until, "--until"),
    }  # fmt: skip
    base, after = f"{admin_url(admin)}/admin/v1/audit", None
    records: list[dict[str, Any]] = []
    while len(records) < limit:
        query = {key: value for key, value in {**asked, "after": after}.items() if value is not None}
        found = call("GET", f"{base}?{urlencode(query)}").json()
        records += found["records"]
        after = found["next"]
        if after is None:
            break
    del records[limit:]
    if as_json:
        print_json(records)
        return
    rows = [
        (record["id"], _when(record["time_ms"]), record["name"], record.get("what"), record.get("actor"),
         _revisions(record), record.get("reason"))
        for record in records
    ]  # fmt: skip
    if not rows:
        print("no records")
        return
    print_table("audit", ["id", "time (UTC)", "policy", "what", "actor", "revision", "reason"], rows)


def _revisions(record: dict[str, Any]) -> str:
    before, after = record.get("revision_before"), record.get("revision_after")
    return "" if after is None else str(after) if before == after else f"{before} -> {after}"


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _time_ms(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    span = _SPAN.fullmatch(text)
    if span is not None:
        return int((time.time() - int(span[1]) * _UNITS[span[2]]) * 1000)
    try:
        moment = read_moment(text)
    except ValueError as error:
        raise Failure(
            f"{what}: expected 30m, 2h, 7d or a time such as 2030-01-31T12:00Z, got {text[:40]!r}", 2
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _path(record: str) -> str:
    chain, slash, seq = record.rpartition("/")
    if not seq.isdecimal() or (slash and not chain):
        raise Failure(f"expected an id such as main/17, got {record[:80]!r}", 2)
    return f"{quote(chain or 'main', safe='')}/{seq}"


@app.command("show")
def show(record: RecordId, admin: AdminUrl = None) -> None:
    """Print a record with all its evidence, as JSON."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/audit/{_path(record)}").json()
    if found["record"].get("evidence"):
        found["record"]["evidence"] = json.loads(found["record"]["evidence"])
    print_json(found)


@app.command("verify")
def verify(admin: AdminUrl = None, as_json: Json = False) -> None:
    """Read the whole chain: exit 3 when a record was changed, added or taken away."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/audit/verify", timeout_s=_EXPORT_S).json()
    if as_json:
        print_json(found)
    elif found["ok"]:
        print(f"{found['records']} records, each bound to the one before by its hash")
        for chain, head in found["heads"].items():
            print(f"{chain}: {head}")
    if not found["ok"]:
        raise Failure(f"the chain is broken: {found['broken']}", 3)


@app.command("replay")
def replay(record: RecordId, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Compute a record's verdicts anew from its counts: exit 3 when they are not what was recorded."""
    found = call("POST", f"{admin_url(admin)}/admin/v1/audit/replay/{_path(record)}").json()
    if as_json:
        print_json(found)
    else:
        rows = [
            (one["what"], one["recorded"], one["recomputed"], "" if one["ok"] else "DIFFERS") for one in found["checks"]
        ]
        print_table(found["id"], ["what", "recorded", "recomputed", ""], rows)
        for line in found["partly"]:
            print(f"not recomputed: {line}")
        print(found["text"])
    if not found["same"]:
        raise Failure(f"{found['id']}: {found['text']}", 3)


_NO_LINE: Final = {
    "off": "no line: the decision log is off (`decisions.log`), and none of before is left on this node",
    "files": "no line in the decision log of this node: ask the others too",
    "stream": "no line in the decision log of all nodes",
}
"""By where lines are written."""


@app.command("find")
def find(
    prediction_id: Annotated[str | None, typer.Option(help="What `x-prediction-id` said.")] = None,
    unit: Annotated[str | None, typer.Option(help="A user's id, as the policy reads it.")] = None,
    model: Annotated[str | None, typer.Option(help="With --unit: of which model.")] = None,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Find single predictions in the decision log: this node's files, and the stream of all nodes."""
    if (prediction_id is None) == (unit is None) or (unit is not None and model is None):
        raise Failure("give --prediction-id ID, or --unit UNIT --model NAME", 2)
    body = {"prediction_id": prediction_id} if prediction_id is not None else {"unit": unit, "model": model}
    found = call("POST", f"{admin_url(admin)}/admin/v1/audit/find", body, timeout_s=_EXPORT_S).json()
    if as_json:
        print_json(found)
        return
    if prediction_id is not None:
        when = _when(found["time_s"] * 1000)
        print(
            f"answered at {when} UTC by variant {found['variant']} of revision {found['revision']} of "
            f"{found['model'] or 'a policy that is gone'}, digest sha256:{found['digest']}..."
        )
    lines = found["decisions"]
    if not lines:
        print(_NO_LINE[found["log"]])
        return
    columns = ["time (UTC)", "request", "model", "revision", "variant", "rule", "outcome", "outputs"]
    rows = [
        (_when(line["time_ms"]), *(line[key] for key in ("request", "model", "revision", "variant")),
         line["rule"] or "split", line["outcome"], line.get("outputs"))
        for line in lines
    ]  # fmt: skip
    print_table("decisions", columns, rows)


@app.command("export")
def export(
    rollout: Annotated[str, typer.Option(metavar="NAME", help="Policy whose last rollout is written.")],
    identity: Annotated[str, typer.Option(help="Of an earlier rollout.")] = "",
    shape: Annotated[str, typer.Option("--format", help="html | json")] = "html",
    out: Annotated[Path | None, typer.Option("--out", help="File [standard output].")] = None,
    admin: AdminUrl = None,
) -> None:
    """Write all of a rollout for an auditor: what was decided, by whom or by which rule, on what numbers."""
    if shape not in ("html", "json"):
        raise Failure(f"--format: expected html or json, got {shape[:40]!r}", 2)
    query = urlencode({"format": shape, "rollout": identity})
    url = f"{admin_url(admin)}/admin/v1/audit/rollouts/{quote(rollout, safe='')}?{query}"
    body = call("GET", url, timeout_s=_EXPORT_S).body
    if out is None:
        print(body.decode())
        return
    try:
        out.write_bytes(body)
    except OSError as error:
        raise Failure(f"{out}: {error.strerror}") from error
    print(f"{out}: {len(body):,} bytes")
