"""`tidegate store ...`: a copy of the store, a look at everything in it, and back from a copy."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.client import AdminUrl, admin_url, call
from gateway.cli.output import Failure, Json, bytes_text, print, print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Copy = Annotated[str, typer.Argument(metavar="PATH", help="The file of the copy.")]
_LONG_S = 600.0


@app.command("backup")
def backup(path: Copy, admin: AdminUrl = None, as_json: Json = False) -> None:
    """Write a copy to a new file on the server's machine, while everything goes on."""
    whole = os.path.abspath(Path(path).expanduser())
    found = call("POST", f"{admin_url(admin)}/admin/v1/store/backup", {"path": whole}, _LONG_S).json()
    if as_json:
        print_json(found)
    else:
        print(f"{found['path']} on the server's machine, {bytes_text(found['bytes'])}")


@app.command("check")
def check(admin: AdminUrl = None, as_json: Json = False) -> None:
    """Read everything in the store of a running server, and every audit chain; exit 3 when something is wrong."""
    found = call("GET", f"{admin_url(admin)}/admin/v1/store/check", timeout_s=_LONG_S).json()
    if as_json:
        print_json(found)
    else:
        for line in [*found["problems"], *found["notes"]]:
            print(line)
        # The trail is read up to the first record that is not sound.
        sound = "sound audit records, then" if found["problems"] else "audit records,"
        wrong = len(found["problems"])
        print(f"{found['records']:,} {sound} {wrong} problem{'s' if wrong != 1 else ''}")
    if found["problems"]:
        raise Failure("the store is not sound", 3)


@app.command("restore")
def restore(
    path: Copy,
    admin: AdminUrl = None,
    reason: Annotated[str, typer.Option("--reason", help="For the audit trail.")] = "",
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", help="Fill the empty store of this data folder; its server is stopped.")
    ] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="Fill this empty Redis.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Fill the empty store that this configuration names.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the store of a running server what a copy says; what was there is kept in a file on the server's machine."""
    if data_dir or store or config:
        _fill(path, data_dir, store, config, as_json)
        return
    asked = {"path": os.path.abspath(Path(path).expanduser()), "reason": reason}
    found = call("POST", f"{admin_url(admin)}/admin/v1/store/restore", asked, _LONG_S).json()
    if as_json:
        print_json(found)
        return
    print(f"{found['restored']} is restored; what was there before is in {found['aside']} on the server's machine")
    print("every node takes it over within seconds; requests are answered meanwhile")
    print("whether its audit trail is whole: tidegate store check")


def _fill(path: str, data_dir: str | None, store: str | None, config: str | None, as_json: bool) -> None:
    """An empty store, without a server."""
    import asyncio

    from gateway.config import ConfigError
    from gateway.configfile import load_config
    from gateway.datadir import open_data_dir
    from gateway.store.base import StoreUnusable
    from runtimes.errors import ServingError

    source = Path(path).expanduser()
    if not source.is_file():
        raise Failure(f"{path}: there is no such file", 2)
    try:
        settings = load_config({"data.dir": data_dir, "store.url": store}, os.environ, config).config
        folder = open_data_dir(settings.data)
    except ConfigError as error:
        raise Failure(str(error), 2) from error
    try:
        asyncio.run(_restored(settings.store.url, folder.path, source))
    except ConfigError as error:
        raise Failure(str(error), 2) from error
    except StoreUnusable as error:
        raise Failure(f"nothing was restored: {error.message}") from error
    except ServingError as error:
        raise Failure(error.message) from error
    finally:
        folder.close()
    if as_json:
        print_json({"restored": str(source)})
    else:
        print(f"{source} is restored; start the server")


async def _restored(url: str | None, data_dir: Path, source: Path) -> Any:
    from gateway.store.opening import open_store

    store = await open_store(url, data_dir)
    try:
        await store.restore(source)
    finally:
        await store.close()
