"""Names what of the package is compiled where TIDEGATE_COMPILE=1 asks for it (docs/adr/013-compiled.md).

Everything else about the package stands in pyproject.toml.
"""

import os

from setuptools import setup

HOT_PATH = [
    "gateway/dataplane.py",
    "gateway/exchange.py",
    "gateway/http/door.py",
    "gateway/http/edge.py",
    "gateway/http/fast_lane.py",
    "gateway/http/limits.py",
    "gateway/http/meanings.py",
    "gateway/http/slow_lane.py",
    "gateway/meter.py",
    "gateway/monitor/kept.py",
    "gateway/monitor/placing.py",
    "gateway/monitor/tap.py",
    "gateway/policyroute.py",
    "gateway/predictions.py",
    "gateway/served.py",
    "gateway/shadow.py",
    "gateway/signing.py",
    "gateway/tally.py",
    "gateway/unitkeys.py",
    "gateway/wire/encode.py",
    "gateway/wire/fast_json.py",
    "gateway/wire/request.py",
    "router/compiled.py",
    "router/hashing.py",
    "router/rules.py",
    "router/view.py",
    "runtimes/batching/batcher.py",
    "runtimes/batching/gather.py",
    "runtimes/batching/job.py",
    "runtimes/batching/linger.py",
    "runtimes/batching/plan.py",
    "runtimes/batching/queue.py",
    "runtimes/batching/turns.py",
    "runtimes/execution/session.py",
    "runtimes/readiness.py",
    "runtimes/tensors.py",
    "runtimes/wide.py",
]
"""Modules that every request passes through. Compiled classes have no subclasses but compiled ones."""


def extensions() -> list[object]:
    """None, unless they are asked for: mypy and a C compiler have to be there."""
    if os.environ.get("TIDEGATE_COMPILE") != "1":
        return []
    from mypyc.build import mypycify  # noqa: PLC0415  # of the extra `compile`

    return list(mypycify(HOT_PATH, opt_level="3", debug_level="1"))


if __name__ == "__main__":
    setup(ext_modules=extensions())
