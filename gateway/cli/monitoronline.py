"""`tidegate monitor ...` of a running server, by its admin port: where it stands, why, and its documents."""

import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.applying import (
    Force,
    IfMatch,
    Reason,
    folder_of,
    generation_of,
    print_folder,
    put,
    refused_text,
    stale,
    url_of,
    when,
    with_query,
)
from gateway.cli.client import AdminUrl, Refused, admin_url, call
from gateway.cli.documents import as_yaml, text_of
from gateway.cli.following import follow
from gateway.cli.monitor import Document, app, explain_offline
from gateway.cli.output import Failure, Json, print, print_json, print_table

__all__ = ["app"]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model that is watched.")]
Request = Annotated[str, typer.Argument(metavar="REQUEST", help="Key of a request, or its first letters.")]
SECTION = "monitors"
_LOOK_S = 0.5
_LOOKS = 20
"""Until settings are in force."""


@app.command("ls")
def ls(admin: AdminUrl = None, as_json: Json = False) -> None:
    """List the monitors of a server: the worst state of each signal, open incidents, what is wrong with their files."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/monitors").json()
    folder = folder_of(admin)
    if as_json:
        print_json({"monitors": found, "folder": folder})
        return
    if found:
        rows = [(one["name"], one["generation"] or "defaults", one["owner"], f"{one['rows']:,}", _incident(one),
                 one["verdict"], _loud(one), _trouble(one)) for one in found]  # fmt: skip
        columns = ["model", "settings", "owner", "rows", "incident", "attribution", "signals", "trouble"]
        print_table("monitors", columns, rows)
    else:
        print("no monitors: put a reference.npz beside a model.onnx; `tidegate monitor fit` makes one")
    print_folder(folder, "Monitor", {one["name"] for one in found if one["file_problem"]})


def _incident(one: dict[str, Any]) -> str:
    incident = one["incident"]
    return "" if incident is None else f"{incident['severity']} since {when(round(1000 * incident['opened_s']))}"


def _loud(one: dict[str, Any]) -> str:
    loud = [f"{signal} {state}" for signal, state in one["states"].items() if state != "ok"]
    return ", ".join(loud) or ("ok" if one["states"] else "nothing judged yet")


def _trouble(one: dict[str, Any]) -> str:
    from gateway.control.monitorwords import collected

    blind = [f"{place} is blind" for place in one["blind"]]
    file = [one["file_problem"]] if one["file_problem"] else []
    waits = [collected(version, progress) for version, progress in one["collecting"].items()]
    problems = (f"version {version}: {why}" for version, why in one["problems"].items())
    return "; ".join([*file, *problems, *waits, *blind])


# ---- status ----


@app.command("status")
def status(
    name: Name,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it; in a pipe with a line per change.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 3 when an incident is open; with --watch as soon as one is.")
    ] = False,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Show where a monitor stands: signals, the incident, windows, performance, groups, what is done about it."""
    import sys

    from gateway.control.monitorwords import headline

    url = url_of(admin, SECTION, name)
    if watch:
        from gateway.cli import monitor_view

        shown = follow(url, lambda shown: check and shown["incident"] is not None, monitor_view, as_json)
    else:
        shown = call("GET", url).json()
        if as_json:
            print_json(shown)
        else:
            from rich.console import Console

            from gateway.cli.monitor_view import render

            Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(render(shown, time.time()))
    if check and shown["incident"] is not None:
        raise Failure(f"{name} has an open incident: {headline(shown)}", 3)


# ---- why ----


@app.command("explain")
def explain(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Ask a server about this model; instead of --reference.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="FILE", help="What `monitor fit` wrote; needs no server.")
    ] = None,
    config: Document = None,
    feature: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="All that the last windows say of it, or of `score`.")
    ] = None,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Show every setting in force, and what can be seen: levels, and the smallest drift of each feature.

    Of a server also what the last windows said, and why that did or did not alarm: all distances and tests of the
    features that differ most, or of one feature over time.
    """
    if (name is None) == (reference is None):
        raise Failure("give a NAME to ask a server, or --reference FILE to ask none", 2)
    if reference is not None:
        if feature is not None:
            raise Failure("--feature is of a server: a reference alone has no windows", 2)
        explain_offline(reference, config, as_json)
        return
    if config is not None:
        raise Failure("--config is for --reference: a server has a document of its own", 2)
    assert name is not None, "one of the two was given"
    found = call("GET", url_of(admin, SECTION, name, "explain")).json()
    if as_json:
        print_json(found)
        return
    from gateway.cli.monitor_why import print_feature, print_found

    if feature is None:
        print_found(name, found)
    else:
        print_feature(found, feature)


# ---- documents ----


@app.command("get")
def get(
    name: Name,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="yaml = the document, json = the same as --json [yaml].")
    ] = None,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Show a monitor's document as it can be applied again; where nobody wrote one, the defaults."""
    if output not in (None, "yaml", "json"):
        raise Failure(f"-o: expected yaml or json, got {output[:40]!r}", 2)
    view = call("GET", url_of(admin, SECTION, name)).json()
    document = view["document"] or _defaults(name)
    if as_json or output == "json":
        print_json({"name": name, "generation": view["generation"], "applied_by": view["applied_by"],
                    "document": document})  # fmt: skip
        return
    if not view["generation"]:
        print("# nobody wrote a document: these are the defaults")
    print(as_yaml(document).rstrip("\n"))


def _defaults(name: str) -> dict[str, Any]:
    """A document that says nothing; every setting has a default, `monitor explain` shows them."""
    return {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": name}, "spec": {}}


@app.command("apply")
def apply(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A Monitor document in YAML; - = standard input.")],
    if_match: IfMatch = None,
    force: Force = False,
    reason: Reason = "",
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Put a Monitor document in force; windows that are open go on, and are judged by it.

    Without --if-match the generation in force is looked up first; when somebody else is faster, nothing is changed and
    the difference is shown.
    """
    from gateway.monitordocument import read_monitor

    text = text_of(file)
    read = read_monitor(text)
    if read.problems:
        raise Failure(refused_text(file, read.problems), 3)
    name = read.name
    url = url_of(admin, SECTION, name)
    try:
        done = put(url, text, if_match, force, reason)
    except Refused as refused:
        if refused.status != 412:
            raise
        raise stale(refused, call("GET", url).json(), read.document, file) from refused
    acted = _until(url, done["generation"])
    if as_json:
        print_json({**done, "in_force": acted})
    else:
        told = "it is in force" if acted else "IT IS NOT IN FORCE YET"
        print(f"{name}: generation {done['generation']}{'' if done['changed'] else ', nothing has changed'}; {told}")
        for warning in done["warnings"]:
            print(f"warning: {warning}")


def _until(url: str, generation: int) -> bool:
    """Wait until the server judges by a generation, which it looks for every second; False = it does not yet."""
    clock = threading.Event()
    for _ in range(_LOOKS):
        if generation_of(url) == generation:
            return True
        clock.wait(_LOOK_S)
    return False


@app.command("delete")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, remove it.")] = False,
    reason: Reason = "",
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Remove a monitor's document: the model is watched by the defaults from then on, if it has a reference."""
    if not yes:
        raise Failure(
            f"this removes the settings of {name}: alerts, actions and groups among them, and the defaults are in "
            "force; say --yes to do it",
            2,
        )
    url = url_of(admin, SECTION, name)
    call("DELETE", with_query(url, reason=reason))
    acted = _until(url, 0)
    if as_json:
        print_json({"name": name, "deleted": True, "in_force": acted})
    else:
        print(f"{name} has no document any more: the defaults are {'' if acted else 'NOT YET '}in force")


# ---- retraining ----


@app.command("approve")
def approve(name: Name, request: Request, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Let a request to train anew go."""
    _decide(name, request, "approve", admin, as_json)


@app.command("reject")
def reject(name: Name, request: Request, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Refuse a request to train anew."""
    _decide(name, request, "reject", admin, as_json)


def _decide(name: str, request: str, verb: str, admin: str | None, as_json: bool) -> None:
    asked = call("GET", url_of(admin, SECTION, name)).json()["retraining"]
    keys = [one["key"] for one in asked if one["key"].startswith(request)]
    if not request or len(keys) != 1:
        pending = [one["key"] for one in asked if one["status"] == "pending"]
        wait = f"; waiting: {', '.join(pending)}" if pending else "; none waits for anybody"
        count = "no request begins" if not keys else f"{len(keys)} requests begin"
        raise Failure(f"{name}: {count} with {request[:40]!r}{wait}", 2)
    url = url_of(admin, SECTION, name, "retraining", verb)
    done = call("POST", url, {"request": keys[0]}).json()
    if as_json:
        print_json({"name": name, "request": keys[0], **done})
    else:
        print(f"{name}: request {keys[0]}: {_OUTCOMES.get(done['outcome'], done['outcome'])}")


_OUTCOMES = {"send": "it is being sent", "dry_run": "it would be sent (dry_run)", "rejected": "it is rejected"}


# ---- the page ----


@app.command("report")
def report(
    name: Name,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="Where the page goes [NAME.html].")
    ] = None,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Write one page with plots: what degraded, since when, every feature, performance, and what can be seen."""
    from gateway.control.monitorwords import headline

    url = url_of(admin, SECTION, name)
    page = call("GET", f"{url}?format=html").body
    target = out or Path(f"{name}.html".replace("/", "-"))
    try:
        target.write_bytes(page)
    except OSError as error:
        raise Failure(f"cannot write {target}: {error.strerror}") from error
    told = headline(call("GET", url).json())
    if as_json:
        print_json({"name": name, "file": str(target), "bytes": len(page), "headline": told})
    else:
        print(f"{told}\npage with plots: {target}")
