"""`tidegate policy ...`: traffic policies of a running server, by its admin port."""

from typing import Annotated, Any

import typer

from gateway.cli.applying import (
    SLOW_S,
    Force,
    IfMatch,
    Reason,
    folder_of,
    not_yet,
    print_folder,
    put,
    refused_text,
    stale,
    url_of,
    when,
    with_query,
)
from gateway.cli.client import AdminUrl, Refused, admin_url, call
from gateway.cli.documents import File, as_yaml, difference, name_of, problems_of, text_of
from gateway.cli.output import Failure, Json, print, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model name that the policy decides for.")]
SECTION = "policies"


@app.command("ls")
def ls(admin: AdminUrl = None, as_json: Json = False) -> None:
    """List policies, with their shares and what is wrong with their files."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/policies").json()
    folder = folder_of(admin)
    if as_json:
        print_json({"policies": found, "folder": folder})
        return
    if found:
        rows = [
            (
                one["name"],
                one["generation"],
                one["revision"],
                _shares(one),
                one["rollout"],
                one["owner"],
                one["problem"],
            )
            for one in found
        ]
        print_table("policies", ["model", "generation", "revision", "shares", "rollout", "owner", "problem"], rows)
    else:
        print("no policies: every model's default version answers; `tidegate policy apply FILE` makes one")
    print_folder(folder, "TrafficPolicy", {one["name"] for one in found if one["problem"]})


def _shares(view: dict[str, Any]) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in view["weights"]["in_force"].items())


def percent(share: float) -> str:
    """A share for people: 0.005 is `0.5 %`."""
    return f"{100 * share:.4g} %"


@app.command("get")
def get(
    name: Name,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="yaml = the document, json = all there is [a summary].")
    ] = None,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Show a policy; `-o yaml` prints the document as it can be applied again."""
    if output not in (None, "yaml", "json"):
        raise Failure(f"-o: expected yaml or json, got {output[:40]!r}", 2)
    view = call("GET", url_of(admin, SECTION, name)).json()
    if as_json or output == "json":
        print_json(view)
    elif output == "yaml":
        print(as_yaml(view["document"]).rstrip("\n"))
    else:
        _summary(view)


def _summary(view: dict[str, Any]) -> None:
    owner = f", belongs to {view['owner']}" if view["owner"] else ""
    print(
        f"{view['name']}: generation {view['generation']}, revision {view['revision']}, applied by "
        f"{view['applied_by']} {when(view['applied_ms'])}{owner}"
    )
    if view["problem"]:
        print(f"problem: {view['problem']}")
    in_force = view["weights"]["in_force"]
    rows = [
        (
            one["name"], one["version"], percent(in_force[one["name"]]), _roles(view, one["name"]), one["digest"],
        )
        for one in view["variants"]
    ]  # fmt: skip
    print_table("variants", ["variant", "version", "share", "role", "digest"], rows)
    shadow = view["shadow_slots"]
    if shadow:
        print(f"shadow: {percent(shadow / 10_000)} of requests are copied")
    print(f"slots: {view['slots']} (digest {view['slots_digest']})")
    if view["rollout"]:
        print(f"rollout: {view['rollout']}; `tidegate rollout status {view['name']}` says more")


def _roles(view: dict[str, Any], variant: str) -> str:
    roles = [role for role in ("stable", "canary") if view[role] == variant]
    roles += ["killed"] if variant in view["killed"] else []
    return ", ".join(roles)


@app.command("apply")
def apply(
    file: File,
    if_match: IfMatch = None,
    force: Force = False,
    reset: Annotated[bool, typer.Option("--reset", help="An experiment that has data may begin anew.")] = False,
    reason: Reason = "",
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Put a document in force; answers when every worker acts on it.

    Without --if-match the generation in force is looked up first; when somebody else is faster, nothing is changed and
    the difference is shown.
    """
    text = text_of(file)
    name = name_of(text, file)
    url = url_of(admin, SECTION, name)
    try:
        done = put(url, text, if_match, force, reason, reset=reset)
    except Refused as refused:
        raise _explained(refused, text, file) from refused
    if as_json:
        print_json(done)
        return
    print(
        f"{name}: generation {done['generation']}, revision {done['revision']}"
        + ("" if done["changed"] else ", nothing has changed")
        + ("; in force on every worker" if done["in_force_everywhere"] else f"; {not_yet(done)}")
    )
    for warning in done["warnings"]:
        print(f"warning: {warning}")


def _explained(refused: Refused, text: str, file: str) -> Failure:
    """The refusal, with the lines of the file, or with what somebody else has put in force."""
    if refused.status == 400 and (problems := problems_of(text)):
        return Failure(refused_text(file, [one["text"] for one in problems]))
    current = refused.body.get("current")
    if refused.status != 412 or not current:
        return refused
    from gateway.control.reading import read_policy

    return stale(refused, current, read_policy(text).document, file)


@app.command("plan")
def plan(file: File, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Show what applying a document would do: who moves, and how long the evidence takes; exit 3 when it cannot be."""
    text = text_of(file)
    found = _plan(text, file, admin)
    if as_json:
        print_json(found)
    else:
        _print_plan(found)
    if found["problems"]:
        raise Failure(f"{file} cannot be applied: {len(found['problems'])} problems", 3)


def _plan(text: str, file: str, admin: str | None) -> dict[str, Any]:
    name = name_of(text, file)
    try:
        found: dict[str, Any] = call("POST", url_of(admin, SECTION, name, "plan"), timeout_s=SLOW_S, text=text).json()
    except Refused as refused:
        if refused.status != 400:
            raise
        problems = problems_of(text)
        raise Failure(
            refused_text(file, [one["text"] for one in problems]) if problems else f"{file}: {refused.message}", 3
        ) from refused
    return found


def _print_plan(found: dict[str, Any]) -> None:
    print(f"{found['name']}: what applying it would do")
    for line in found["lines"]:
        print(f"  {line}")
    print(f"  slots: {found['slots']}")
    for line in found["problems"]:
        print(f"  PROBLEM: {line}")
    for line in found.get("signals", ()):
        print(f"  signal {line}")
    if not found["steps"]:
        return
    live = found["live"]
    rate = f"bad rate of stable {percent(live['bad_rate'])} ({_counted(live)})"
    print(f"\nlive: {live['requests_per_second']:.4g} requests/s, {rate}")
    columns = [
        "step",
        "weight",
        "guardrail",
        *(f"finds {ratio}" for ratio in found["steps"][0]["detect_seconds"]),
        "promotes",
    ]
    print_table("time to find harm of that ratio, and to promote an equal canary", columns, map(_times, found["steps"]))
    if not live["requests_per_second"]:
        print("no requests were seen in the last half minute: counts are canary requests, times are not known")
    if live["units"]["sticky"]:
        print_table("distinct units that takes; of canary + stable", columns, map(_needs, found["steps"]))
        print(live["units"]["text"])


def _counted(live: dict[str, Any]) -> str:
    """Where stable's bad rate comes from."""
    if live["bad_rate_assumed"]:
        return f"assumed: {live['stable_requests']:,} counted requests are too few to know it"
    seconds = live["bad_rate_seconds"]
    when = "since this node's start" if seconds is None else f"in the last {seconds:.0f} s, on this node"
    where = {
        "rollout": "of the rollout in force",
        "policy": f"of the policy in force, {when}",
        "requests": f"to its version, {when}",
    }
    counts = f"{live['stable_bad']:,} of {live['stable_requests']:,} requests"
    return f"counted: {counts} {where[live['bad_rate_from']]}; and one to be safe"


def _place(one: dict[str, Any]) -> list[object]:
    return [one["step"], percent(one["weight"]), one["guardrail"]]


def _times(one: dict[str, Any]) -> list[object]:
    """A row of the plan: how long it takes."""
    seconds = [*one["detect_seconds"].values(), one["promote_seconds"]]
    requests = [*one["detect_canary_requests"].values(), one["promote_canary_requests"]]
    return [*_place(one), *map(after, seconds, requests, _units_of(one))]


def _needs(one: dict[str, Any]) -> list[object]:
    """A row of the plan: how many units it takes."""
    return [*_place(one), *map(_units_text, _units_of(one))]


def _units_text(needed: dict[str, Any] | None) -> str:
    if needed is None:
        return "never"
    return f"{needed['erring']:,} that err" if "erring" in needed else f"{needed['canary']:,} + {needed['stable']:,}"


def _units_of(one: dict[str, Any]) -> list[dict[str, Any] | None]:
    return [*one["detect_units"].values(), one["promote_units"]]


def after(seconds: float | None, requests: int | None, units: dict[str, Any] | None = None) -> str:
    """A time until something, or where no requests come what it takes of them; `never` where it never is.

    Args:
        units: that it takes, and whether so many come.
    """
    from router.rollout.words import duration

    if requests is None:
        return "never"
    if units is not None and units["enough"] is False:
        return "too few units"
    return f"{requests:,} requests" if seconds is None else duration(round(seconds * 1000))


@app.command("diff")
def diff(file: File, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Show how a document differs from the one in force, and what that means."""
    text = text_of(file)
    found = _plan(text, file, admin)
    from gateway.control.reading import read_policy

    try:
        view = call("GET", url_of(admin, SECTION, found["name"])).json()
    except Refused as refused:
        if refused.status != 404:
            raise
        view = {"document": None, "generation": 0}
    lines = difference(view["document"], read_policy(text).document, f"generation {view['generation']}", file)
    if as_json:
        print_json({"name": found["name"], "generation": view["generation"], "diff": lines, "lines": found["lines"]})
        return
    for line in lines or ["the documents say the same"]:
        print(line)
    print("")
    for line in found["lines"]:
        print(f"  {line}")


@app.command("delete")
def delete(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also during a rollout or experiment, or for another version.")
    ] = False,
    reason: Reason = "",
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Remove a policy: the model's default version answers again."""
    url = with_query(url_of(admin, SECTION, name), force="1" if force else "", reason=reason)
    found = call("DELETE", url).json()
    if as_json:
        print_json(found)
    else:
        version = found["answers"]
        print(f"{name} has no policy any more; " + (f"version {version} answers" if version else "no version answers"))


@app.command("rollback")
def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option("--to", metavar="N", help="A generation [the one before].")] = None,
    reason: Reason = "",
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Put an earlier document in force again, in one step."""
    body = {"reason": reason} | ({} if to is None else {"to": to})
    _changed(call("POST", url_of(admin, SECTION, name, "rollback"), body, SLOW_S).json(), "is rolled back", as_json)


@app.command("kill")
def kill(
    name: Name,
    variant: Annotated[str, typer.Argument(metavar="VARIANT")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it back in.")] = False,
    reason: Reason = "",
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Take a variant out at once, whatever the document says; its users get stable."""
    body = {"variant": variant, "killed": not undo, "reason": reason}
    done = f"{variant} is let back in" if undo else f"{variant} gets nothing"
    _changed(call("POST", url_of(admin, SECTION, name, "kill"), body).json(), done, as_json)


def _changed(view: dict[str, Any], done: str, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    acted = "on every worker" if view["in_force_everywhere"] else f"but {not_yet(view)}"
    print(f"{view['name']}: {done}, {acted}; generation {view['generation']}, revision {view['revision']}")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of policy documents, for editors."""
    from router.schema import schema as schema_of

    print_json(schema_of())
