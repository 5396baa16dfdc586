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
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", help="Data folder [data.dir of the configuration].")
    ] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="An empty Redis [store.url].")] = None,
    config: Annotated[str | None, typer.Option("--config", help="Configuration file [TIDEGATE_CONFIG].")] = None,
    as_json: Json = False,
) -> None:
    """Fill an empty store from a copy; the server that uses the data folder must be stopped."""
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
        asyncio.run(_fill(settings.store.url, folder.path, source))
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


async def _fill(url: str | None, data_dir: Path, source: Path) -> Any:
    from gateway.store.opening import open_store

    store = await open_store(url, data_dir)
    try:
        await store.restore(source)
    finally:
        await store.close()
