"""`tidegate config ...`: is it right, what is in force and why, what there is."""

import os
from typing import Annotated, Any

import typer

from gateway.cli.output import Failure, Json, print, print_json, print_table
from gateway.config import Config, ConfigError, keys_in_words
from gateway.configfile import Loaded, load_config

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
File = Annotated[str | None, typer.Argument(metavar="[FILE]", help="Configuration file [TIDEGATE_CONFIG].")]


@app.command("check")
def check(file: File = None) -> None:
    """Check a file together with the environment; exit 2 with one line when it is wrong."""
    _load(file)
    print("ok")


@app.command("show")
def show(file: File = None, as_json: Json = False) -> None:
    """Show every key, its value and where that came from."""
    import msgspec

    loaded = _load(file)
    sections: dict[str, Any] = msgspec.to_builtins(loaded.config)
    if as_json:
        print_json(sections)
        return
    rows = [
        (f"{section}.{key}", value, loaded.sources.get(f"{section}.{key}", "default"))
        for section, keys in sections.items()
        for key, value in keys.items()
    ]
    print_table("configuration", ["key", "value", "from"], rows)
    print(f"keys: {keys_in_words(loaded.config)}")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    import msgspec

    print_json(msgspec.json.schema(Config))


def _load(file: str | None) -> Loaded:
    try:
        return load_config({}, os.environ, file)
    except ConfigError as error:
        raise Failure(str(error), 2) from error
