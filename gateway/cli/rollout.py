"""`tidegate rollout ...`: where a rollout stands, what it waits for, and what people may tell it."""

import time
from typing import Annotated, Any

import typer

from gateway.cli.applying import Reason, not_yet, url_of
from gateway.cli.client import AdminUrl, admin_url, call
from gateway.cli.feedback import opened
from gateway.cli.following import follow
from gateway.cli.output import Failure, Json, print, print_json, print_table
from gateway.cli.policy import Name, percent

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
AT_REST = ("IDLE", "PROMOTED", "ROLLED_BACK")


@app.command("ls")
def ls(admin: AdminUrl = None, as_json: Json = False) -> None:
    """List the rollouts of all policies."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/rollouts").json()
    if as_json:
        print_json(found)
        return
    if not found:
        print("no rollouts: a policy whose document has spec.rollout makes one")
        return
    rows = [
        (
            one["name"], one["state"], step_text(one), percent(share_of_canary(one)),
            "; ".join(one["waits"]) or one["reason"],
        )
        for one in found
    ]  # fmt: skip
    print_table("rollouts", ["model", "state", "step", "canary", "waits for"], rows)


def share_of_canary(shown: dict[str, Any]) -> float:
    """What the canary has now; also of one that was promoted and is stable since."""
    names = {pin["digest"]: pin["variant"] for pin in shown["variants"]}
    share: float = shown["weights"]["in_force"].get(names.get(shown["canary_digest"], shown["canary"]), 0.0)
    return share


def step_text(shown: dict[str, Any]) -> str:
    """Which step it is in, counted from 1; "" while it is in none."""
    if not shown["steps"] or shown["state"] in AT_REST:
        return ""
    return f"{min(shown['step'] + 1, shown['steps'])} of {shown['steps']}"


@app.command("status")
def status(
    name: Name,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it until it is at rest; exit 3 when it was rolled back.")
    ] = False,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Show where a rollout stands and what it waits for."""
    import sys

    url = url_of(admin, "rollouts", name)
    if not watch:
        shown = call("GET", url).json()
        if as_json:
            print_json(shown)
        else:
            from rich.console import Console

            from gateway.cli.rollout_view import render

            Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(render(shown, time.time()))
        return
    from gateway.cli import rollout_view

    last = follow(url, lambda shown: shown["state"] in AT_REST, rollout_view, as_json)
    if last["state"] == "ROLLED_BACK":
        raise Failure(f"{name} was rolled back: {last['reason']}", 3)


@app.command("exposed")
def exposed(
    name: Name,
    units: Annotated[
        str | None, typer.Option("--units", metavar="FILE", help="Units, one per line; - = standard input.")
    ] = None,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Who may have had answers of the canary: stretches of slots, or which of these units fall into them."""
    shown = call("GET", url_of(admin, "rollouts", name)).json()
    found = shown["exposed"]
    if not found:
        raise Failure(f"{name}: its canary was given no slots, so nobody was exposed by the split")
    from gateway.control.exposure import in_words, members

    if units is None:
        if as_json:
            print_json(found)
        else:
            print("\n".join(map(in_words, found)))
        return
    try:
        with opened(units) as stream:
            every = [unit for line in stream if (unit := line.rstrip("\r\n"))]
    except UnicodeDecodeError as error:
        raise Failure(f"{units}: not UTF-8", 2) from error
    inside = members(found, every)
    if as_json:
        print_json({"exposed": inside, "of": len(every)})
        return
    for unit in inside:
        print(unit)


@app.command("approve")
def approve(
    name: Name,
    step: Annotated[
        int | None, typer.Option("--step", metavar="N", help="The step that is meant [the present].")
    ] = None,
    reason: Reason = "",
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Agree to leave the present step."""
    _command("approve", name, reason, admin, as_json, {} if step is None else {"step": step - 1})


@app.command("pause")
def pause(name: Name, reason: Reason = "", admin: AdminUrl = None, as_json: Json = False) -> None:
    """Stop where it is; it still rolls back when it has to."""
    _command("pause", name, reason, admin, as_json)


@app.command("resume")
def resume(name: Name, reason: Reason = "", admin: AdminUrl = None, as_json: Json = False) -> None:
    """Go on after a pause, or after what held it."""
    _command("resume", name, reason, admin, as_json)


@app.command("abort")
def abort(name: Name, reason: Reason = "", admin: AdminUrl = None, as_json: Json = False) -> None:
    """Roll back now: the canary gets nothing, and this rollout does not start again by itself."""
    _command("abort", name, reason, admin, as_json)


@app.command("promote")
def promote(name: Name, reason: Reason = "", admin: AdminUrl = None, as_json: Json = False) -> None:
    """Promote before the evidence is complete; never against a guardrail that has tripped."""
    _command("promote", name, reason, admin, as_json)


@app.command("retry")
def retry(name: Name, reason: Reason = "", admin: AdminUrl = None, as_json: Json = False) -> None:
    """Begin again a rollout that was rolled back; needs a --reason."""
    _command("retry", name, reason, admin, as_json)


def _command(
    kind: str, name: str, reason: str, admin: str | None, as_json: bool, more: dict[str, Any] | None = None
) -> None:
    found = call("POST", url_of(admin, "rollouts", name, kind), {"reason": reason, **(more or {})}).json()
    if as_json:
        print_json(found)
        return
    acted = "" if found["in_force_everywhere"] else f"; {not_yet(found)}"
    print(f"{name}: {found['text']}{acted}; it is {found['rollout']['state']}")
