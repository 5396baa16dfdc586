"""`tidegate data ...`: what is held about people."""

from typing import Annotated

import typer

from gateway.cli.client import AdminUrl, admin_url, call
from gateway.cli.output import Json, print, print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_FORGET_S = 600.0


@app.callback()
def data() -> None:
    """A group, though it has one command."""


@app.command("forget")
def forget(
    unit: Annotated[str, typer.Option(help="A user's id, as the policy reads it.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="Of which model.")],
    admin: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Erase what is held about a unit: feedback, rewards, lines of the decision log."""
    body = {"unit": unit, "model": model}
    found = call("POST", f"{admin_url(admin)}/admin/v1/data/forget", body, timeout_s=_FORGET_S).json()
    if as_json:
        print_json(found)
        return
    for what, count in found["erased"].items():
        print(f"{what.replace('_', ' ')} erased: {count}")
    print("not erased:")
    for line in found["not_erased"]:
        print(f"  {line}")
