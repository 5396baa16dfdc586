"""The command line: `tidegate`. One file per group; heavy imports stand inside the commands.

Exit codes: 0 done, 1 failed while running, 2 used wrongly, 3 a gate was not passed.
"""

import os
import sys

import typer

from gateway.cli import (
    audit,
    bench,
    config,
    data,
    doctor,
    documents,
    experiment,
    feedback,
    infer,
    keys,
    models,
    monitoronline,
    policy,
    rollout,
    serve,
    store,
)
from gateway.cli.output import Failure, fail

app = typer.Typer(
    name="tidegate",
    help="Serve ONNX models over HTTP, decide by evidence which version deserves the traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("infer")(infer.infer)
app.command("bench")(bench.bench)
app.command("validate")(documents.validate)
app.command("doctor")(doctor.doctor)
app.command("version")(doctor.show_version)
app.add_typer(models.app, name="models", help="Models of a running server: list, inspect, load, unload, alias.")
app.add_typer(policy.app, name="policy", help="Traffic policies: list, get, apply, plan, diff, roll back, kill.")
app.add_typer(rollout.app, name="rollout", help="Rollouts: follow one, approve, pause, resume, abort, promote, retry.")
app.add_typer(store.app, name="store", help="The store: backup, check, restore.")
app.add_typer(experiment.app, name="experiment", help="Experiments of a running server: list, report.")
app.add_typer(experiment.shadow_app, name="shadow", help="Shadows of a running server: report.")
app.add_typer(monitoronline.app, name="monitor", help="Drift monitors: make a reference, follow, explain, settings.")
app.add_typer(feedback.app, name="feedback", help="Send rewards and labels for predictions.")
app.add_typer(keys.app, name="keys", help="Keys of a data folder: create, list, revoke; a running server follows.")
app.add_typer(audit.app, name="audit", help="Who changed what and why: list, find, verify, replay, export.")
app.add_typer(data.app, name="data", help="What is held about people: forget a unit.")
app.add_typer(config.app, name="config", help="Check, show and describe the configuration.")


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except Failure as failure:
        sys.exit(fail(failure))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has gone (| head): no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
