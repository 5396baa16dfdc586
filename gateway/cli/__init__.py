"""The command line: `tidegate`. One file per group, imported when it is asked for; heavy imports stand inside commands.

Exit codes: 0 done, 1 failed while running, 2 used wrongly, 3 a gate was not passed.
"""

import os
import sys
from collections.abc import Collection
from importlib import import_module
from typing import Final

import typer

from gateway.cli.output import Failure, fail

COMMANDS: Final = {
    "serve": "serve:serve",
    "infer": "infer:infer",
    "bench": "bench:bench",
    "validate": "documents:validate",
    "doctor": "doctor:doctor",
    "version": "doctor:show_version",
}
"""Name -> module and function."""
GROUPS: Final = {
    "models": ("models:app", "Models of a running server: list, inspect, load, unload, alias."),
    "policy": ("policy:app", "Traffic policies: list, get, apply, plan, diff, roll back, kill."),
    "rollout": ("rollout:app", "Rollouts: follow one, approve, pause, resume, abort, promote, retry."),
    "store": ("store:app", "The store: backup, check, restore."),
    "experiment": ("experiment:app", "Experiments of a running server: list, report."),
    "shadow": ("experiment:shadow_app", "Shadows of a running server: report."),
    "monitor": ("monitoronline:app", "Drift monitors: make a reference, follow, explain, settings."),
    "feedback": ("feedback:app", "Send rewards and labels for predictions."),
    "keys": ("keys:app", "Keys of a data folder: create, list, revoke; a running server follows."),
    "audit": ("audit:app", "Who changed what and why: list, find, verify, replay, export."),
    "data": ("data:app", "What is held about people: forget a unit."),
    "config": ("config:app", "Check, show and describe the configuration."),
}
"""Name -> module and Typer, and what it says of itself."""


def application(names: Collection[str] = (*COMMANDS, *GROUPS)) -> typer.Typer:
    """The command line with these commands and groups: each one left out is not imported."""
    app = typer.Typer(
        name="tidegate",
        help="Serve ONNX models over HTTP, decide by evidence which version deserves the traffic.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, place in COMMANDS.items():
        if name in names:
            app.command(name)(_found(place))
    for name, (place, words) in GROUPS.items():
        if name in names:
            app.add_typer(_found(place), name=name, help=words)
    return app


def _root() -> None:
    """A callback, for Typer takes an application of one command to be that command."""


def _found(place: str) -> typer.Typer:
    module, _, name = place.partition(":")
    found: typer.Typer = getattr(import_module(f"gateway.cli.{module}"), name)
    return found


def main() -> None:
    """Entry point of the console script."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        (application([first]) if first in COMMANDS or first in GROUPS else application())()
    except Failure as failure:
        sys.exit(fail(failure))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has gone (| head): no error of ours.
        _silence()
        sys.exit(0)
    except OSError as error:
        if _can_print():
            raise
        _silence()
        sys.exit(fail(Failure(f"standard output: {error.strerror}")))


def _can_print() -> bool:
    """Standard output takes one more line: so the error is another file's."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _silence() -> None:
    """What standard output still holds goes nowhere, or the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
