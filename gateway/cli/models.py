"""`tidegate models ...`: what a running server holds, by its admin port."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli.client import AdminUrl, admin_url, call
from gateway.cli.output import Failure, Json, print, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Reference = Annotated[str, typer.Argument(metavar="MODEL", help="NAME, NAME:VERSION or NAME@ALIAS.")]
Name = Annotated[str, typer.Argument(metavar="NAME")]
_LOAD_S = 600.0


@app.command("ls")
def ls(admin: AdminUrl = None, as_json: Json = False) -> None:
    """List models and their versions."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/models").json()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            model["name"],
            version["version"] or None,
            version["state"],
            _marks(model, version["version"]),
            version["reason"],
        )
        for model in found
        for version in model["versions"] or [{"version": None, "state": "not loaded", "reason": ""}]
    ]
    if not rows:
        print("no models: copy one to NAME/1/model.onnx in the repository")
        return
    print_table("models", ["model", "version", "state", "default, aliases", "reason"], rows)


def _marks(model: dict[str, Any], version: int | None) -> str:
    marks = ["default"] if version is not None and version == model["default_version"] else []
    return ", ".join(
        [*marks, *(f"@{alias}" for alias, number in sorted(model["aliases"].items()) if number == version)]
    )


@app.command("inspect")
def inspect(model: Reference, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Show all there is to know about a model."""
    from runtimes.registry.names import NameRefused, parse_reference

    try:
        reference = parse_reference(model)
    except NameRefused as error:
        raise Failure(str(error), 2) from error
    if reference.digest:
        raise Failure("a server is asked by version or alias, not by digest", 2)
    found = call("GET", f"{admin_url(admin)}/admin/v1/models/{quote(reference.name)}").json()
    version = reference.version or (found["aliases"].get(reference.alias) if reference.alias else None)
    if reference.alias and version is None:
        known = ", ".join(sorted(found["aliases"])) or "none"
        raise Failure(f"model {reference.name!r} has no alias {reference.alias!r}; known aliases: {known}")
    if version is not None:
        found["versions"] = [state for state in found["versions"] if state["version"] == version]
        if not found["versions"]:
            raise Failure(f"model {reference.name!r} has no version {version} loaded")
    if as_json:
        print_json(found)
        return
    default = found["default_version"]
    answers = "nothing answers" if default is None else f"default version {default}"
    offered = ", ".join(map(str, found["in_repository"])) or "none"
    print(f"{found['name']}: {answers}; versions in the repository: {offered}")
    rows = [
        (v["version"], v["state"], _marks(found, v["version"]), v["digest"], v["load_ms"], v["reason"])
        for v in found["versions"]
    ]
    print_table("versions", ["version", "state", "default, aliases", "digest", "load ms", "reason"], rows)
    for line in [*found["problems"], *found["warnings"]]:
        print(f"  {line}")


@app.command("load")
def load(name: Name, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Load a model, or load it anew (mode explicit); returns when every worker has it."""
    _change("POST", f"{admin_url(admin)}/admin/v1/models/{quote(name)}/load", None, f"{name} is loaded", as_json)


@app.command("unload")
def unload(name: Name, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Unload a model (mode explicit); returns when no worker has it."""
    _change("POST", f"{admin_url(admin)}/admin/v1/models/{quote(name)}/unload", None, f"{name} is unloaded", as_json)


@app.command("alias")
def alias(
    model: Annotated[str, typer.Argument(metavar="NAME@ALIAS")],
    version: Annotated[int | None, typer.Argument(help="The version it shall mean.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Take the alias away.")] = False,
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Point an alias to a version; returns when every worker acts on it."""
    name, at, text = model.partition("@")
    if not at or not text or (version is None) != delete:
        raise Failure("give NAME@ALIAS and a version, or NAME@ALIAS --delete", 2)
    url = f"{admin_url(admin)}/admin/v1/models/{quote(name)}/aliases/{quote(text)}"
    if delete:
        _change("DELETE", url, None, f"{model} is gone", as_json)
    else:
        _change("PUT", url, {"version": version}, f"{model} is version {version}", as_json)


def _change(method: str, url: str, body: object, done: str, as_json: bool) -> None:
    found = call(method, url, body, _LOAD_S).json()
    if as_json:
        print_json(found)
    else:
        print(done)
