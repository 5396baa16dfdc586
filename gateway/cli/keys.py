"""`tidegate keys ...`: the keys of a data folder. They change the file itself, with a server running or not."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import Failure, Json, print, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: the actor in logs and audit.")]
Folder = Annotated[str | None, typer.Option("--data-dir", help="Data folder [data.dir of the configuration].")]
File = Annotated[str | None, typer.Option("--config", help="Configuration file [TIDEGATE_CONFIG].")]


@app.command("create")
def create(
    name: Name,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="infer | feedback | metrics | view | route | admin | audit; repeatable, none implies another."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only for these models; repeatable [all].")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="For approvals, such as release; repeatable.")] = None,
    expires: Annotated[str | None, typer.Option(help="90d, 12h, 30m or a date such as 2030-01-31 [never].")] = None,
    data_dir: Folder = None,
    config: File = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it; nobody can print it again."""
    from gateway.keys import Wish, expiry, shown

    now_s = time.time()

    def make(file: Any) -> tuple[str, Any]:
        expires_s = None if expires is None else expiry(expires, now_s)
        made: tuple[str, Any] = file.create(
            Wish(name, _once(scope), _once(model), _once(label), expires_s),
        )
        return made

    text, key = _with_file(data_dir, config, make)
    if as_json:
        print_json({"key": text, **shown(key, now_s)})
    else:
        print(text)


@app.command("ls")
def ls(data_dir: Folder = None, config: File = None, as_json: Json = False) -> None:
    """List every key that was made; none of them can be read from it."""
    from gateway.keys import shown

    now_s = time.time()
    found: list[dict[str, Any]] = [shown(key, now_s) for key in _with_file(data_dir, config, lambda file: file.read())]
    if as_json:
        print_json(found)
        return
    if not found:
        print("no keys: make one with `tidegate keys create NAME --scope infer`")
        return
    columns = ["name", "state", "scopes", "models", "labels", "created", "expires", "revoked"]
    rows = [
        [", ".join(key[column]) if isinstance(key[column], list) else key[column] for column in columns]
        for key in found
    ]
    print_table("keys", columns, rows)


@app.command("revoke")
def revoke(name: Name, data_dir: Folder = None, config: File = None, as_json: Json = False) -> None:
    """Revoke a key for good; a running server knows within a second."""
    from gateway.keys import shown

    key = _with_file(data_dir, config, lambda file: file.revoke(name))
    if as_json:
        print_json(shown(key, time.time()))
    else:
        print(f"{name} is revoked")


def _once(values: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values or ()))


def _with_file(data_dir: str | None, path: str | None, work: Any) -> Any:
    """What `work` makes of the file; its refusals as exit codes."""
    from gateway.config import ConfigError
    from gateway.configfile import load_config
    from gateway.datadir import default_path
    from gateway.keyfile import KeyFile, KeysUnusable
    from runtimes.errors import InvalidInput, ServingError

    try:
        found = data_dir or load_config({}, os.environ, path).config.data.dir
    except ConfigError as error:
        raise Failure(str(error), 2) from error
    folder = Path(found).expanduser() if found else default_path()
    try:
        return work(KeyFile(folder))
    except InvalidInput as error:
        raise Failure(error.message, 2) from error
    except KeysUnusable as error:
        raise Failure(f"{folder}: {error.message}", 2) from error
    except ServingError as error:
        raise Failure(error.message) from error
