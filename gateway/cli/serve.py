"""`tidegate serve`: check everything that can be refused, say what will run, run it."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import Failure, print
from gateway.config import (
    Config,
    ConfigError,
    asks_for_keys,
    keys_in_words,
    threads_per_execution,
    usable_cpus,
    worker_count,
)
from gateway.configfile import load_config


def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL.onnx | DIR]", help="A model file or a folder of models.")
    ] = None,
    model_repository: Annotated[str | None, typer.Option(help="Folder of models: NAME/VERSION/model.onnx.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Data port [8080].")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Admin port [8081].")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; 0 = all in one process [usable CPUs].")] = None,
    model_control_mode: Annotated[str | None, typer.Option(help="none | poll | explicit [none].")] = None,
    load: Annotated[list[str] | None, typer.Option(help="Model to load at start in mode explicit; repeatable.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder for state [XDG data folder].")] = None,
    store: Annotated[
        str | None, typer.Option(metavar="URL", help="redis:// of several nodes [a file in the data folder].")
    ] = None,
    policy_dir: Annotated[
        str | None, typer.Option(help="Folder of policies and monitors that is followed [none].")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration file [TIDEGATE_CONFIG].")] = None,
    auth: Annotated[str | None, typer.Option(help="none | keys: whether both ports ask for a key [none].")] = None,
    trusted_network: Annotated[
        bool | None, typer.Option("--trusted-network", help="Nobody is asked for a key.")
    ] = None,
    ephemeral: Annotated[bool | None, typer.Option("--ephemeral", help="Allow a temporary data folder.")] = None,
    allow_degraded_start: Annotated[
        bool | None, typer.Option("--allow-degraded-start", help="Ready although models failed.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug | info | warning | error [info].")] = None,
) -> None:
    """Serve models until SIGTERM or Ctrl-C."""
    if model is not None and model_repository is not None:
        raise Failure("give the models once: as an argument or with --model-repository", 2)
    flags: dict[str, object] = {
        "models.repository": model or model_repository,
        "server.host": host,
        "server.port": port,
        "server.admin_port": admin_port,
        "server.workers": workers,
        "models.control_mode": model_control_mode,
        "models.load": load or None,
        "data.dir": data_dir,
        "store.url": store,
        "policies.folder": policy_dir,
        "server.auth": auth,
        "server.trusted_network": trusted_network,
        "data.ephemeral": ephemeral,
        "models.allow_degraded_start": allow_degraded_start,
        "logs.level": log_level,
    }
    if model is not None and Path(model).is_file():
        # A file named on the command line is complete: nothing to wait for.
        flags["models.quiet_period_ms"] = 0
    sys.exit(_run(flags, config))


def _run(flags: dict[str, object], path: str | None) -> int:
    from gateway.main import Prepared, serve

    try:
        config = load_config(flags, os.environ, path).config
        prepared = Prepared(config)
    except ConfigError as error:
        raise Failure(str(error), 2) from error
    for line in _opening(config, prepared):
        print(line)
    return serve(prepared)


def _opening(config: Config, prepared: Any) -> list[str]:
    """What people read first."""
    host = config.server.host
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    workers, threads = worker_count(config), threads_per_execution(config)
    lines = [f"tidegate serves {config.models.repository} at http://{shown}:{prepared.port}"]
    if prepared.admin_port is not None:
        lines.append(f"admin and metrics at http://{shown}:{prepared.admin_port}/metrics")
    cpus = config.execution.threads or usable_cpus()
    what = "one process for everything" if workers == 0 else f"{workers} workers"
    lines.append(f"plan: {cpus} CPUs, {what}, {threads} threads per execution, mode {config.models.control_mode}")
    if prepared.data_dir.ephemeral:
        lines.append(f"state is ephemeral: {prepared.data_dir.path} is removed at the stop")
    if config.policies.folder is not None:
        lines.append(f"policies and monitors are those in {config.policies.folder}, and what else the store has")
    lines.append(keys_in_words(config) + _how_many(config, prepared.keys))
    if _is_empty(Path(config.models.repository).expanduser()):
        lines.append(
            f"{config.models.repository} holds no model yet: copy one to {config.models.repository}/NAME/1/model.onnx "
            + (
                "(it is picked up by itself)"
                if config.models.control_mode == "poll"
                else "and start again, or serve with --model-control-mode poll"
            )
        )
    return lines


def _how_many(config: Config, keys: int) -> str:
    if not asks_for_keys(config):
        return ""
    return f"; {keys} in force" if keys else "; there is none yet: tidegate keys create NAME --scope infer"


def _is_empty(repository: Path) -> bool:
    return repository.is_dir() and not any(not entry.name.startswith(".") for entry in repository.iterdir())
