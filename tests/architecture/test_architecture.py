"""The packages keep the rules of the house, and each rule would notice a breach."""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.rules import Module, module

ROOT = Path(__file__).parents[2]
MODULES = rules.read(ROOT)
Rule = Callable[[Sequence[Module]], list[str]]

RULES: list[Rule] = [
    rules.layers,
    rules.cycles,
    rules.homes,
    rules.bare,
    rules.pure_router,
    rules.compiled,
    rules.sizes,
    rules.described,
    rules.banned,
    rules.kept_tasks,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_packages_keep_the_rule(rule: Rule):
    assert "\n".join(rule(MODULES)) == ""


def test_the_modules_of_the_lists_exist():
    names = {one.name for one in MODULES}
    assert rules.COMPILED
    listed = {*rules.BARE, *rules.COMPILED, *(home.rstrip(".") for homes in rules.HOMES.values() for home in homes)}
    assert listed <= names


def test_there_is_no_fourth_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(pattern.rstrip("*") for pattern in found) == sorted(rules.PACKAGES)


_DOC = '"""Doc."""\n'
_LONG = "def f() -> None:\n" + "    x = 1\n" * 70

BREACHES: list[tuple[Rule, str, str]] = [
    (rules.layers, "runtimes.a", "import gateway.errors"),
    (rules.layers, "runtimes.a", "from router import table"),
    (rules.layers, "router.a", "def f():\n    from runtimes.tensors import Array"),
    (rules.layers, "gateway.a", "from . import errors"),
    (rules.homes, "gateway.dataplane", "from starlette.requests import Request"),
    (rules.homes, "gateway.httpx", "import uvicorn"),
    (rules.homes, "runtimes.runtime", "import onnxruntime as ort"),
    (rules.homes, "gateway.control.counts", "from prometheus_client.core import Metric"),
    (rules.homes, "gateway.store.steps", "import sqlite3"),
    (rules.homes, "gateway.store.redisstore", "from redis.asyncio import Redis"),
    (rules.bare, "gateway.supervisor", "import msgspec"),
    (rules.bare, "gateway.slots", "from gateway.config import Config"),
    (rules.pure_router, "router.table", "import time"),
    (rules.pure_router, "router.table", "import yaml"),
    (rules.compiled, "gateway.a", "from gateway.exchange import Exchange\nclass A(Exchange):\n    pass"),
    (rules.compiled, "gateway.served", "async def f(): ..."),
    (rules.compiled, "runtimes.wide", "import threading\nclass A(threading.local):\n    pass"),
    (rules.sizes, "gateway.a", "x = 1\n" * 501),
    (rules.sizes, "gateway.supervisor", "x = 1\n" * 200),
    (rules.sizes, "gateway.a", _LONG),
    (rules.described, "gateway.a", "x = 1"),
    (rules.described, "gateway.a", _DOC + "def f() -> None:\n    pass"),
    (rules.described, "gateway.a", _DOC + "class A:\n    pass"),
    (rules.described, "gateway.a", _DOC + 'class A:\n    """Doc."""\n    def f(self) -> None:\n        pass'),
    (rules.described, "gateway.a", _DOC + 'def f(x) -> None:\n    """Doc."""'),
    (rules.described, "gateway.a", _DOC + 'def f(*, x: int):\n    """Doc."""'),
    (rules.described, "gateway.a", _DOC + "def _f(x: int, **more) -> None:\n    pass"),
    (rules.banned, "runtimes.a", "import time\ntime.sleep(1)"),
    (rules.banned, "runtimes.a", "from time import sleep"),
    (rules.banned, "gateway.a", "print('x')"),
    (rules.banned, "gateway.logs", "def line():\n    print('x')"),
    (rules.banned, "gateway.cli.a", "eval('1')"),
    (rules.banned, "gateway.a", "import pickle"),
    (rules.banned, "gateway.a", "from requests import get"),
    (rules.banned, "gateway.a", "import asyncio\nasyncio.get_event_loop()"),
    (rules.kept_tasks, "gateway.a", "async def f():\n    asyncio.create_task(g())"),
    (rules.kept_tasks, "gateway.a", "def f(loop):\n    loop.create_task(g())"),
    (rules.kept_tasks, "gateway.a", "def f():\n    asyncio.ensure_future(g())"),
]


@pytest.mark.parametrize(("rule", "name", "text"), BREACHES, ids=lambda value: getattr(value, "__name__", None))
def test_a_breach_is_noticed(rule: Rule, name: str, text: str):
    assert len(rule([module(name, text)])) == 1


def test_a_cycle_is_noticed():
    circle = [module("gateway.a", "from gateway import b"), module("gateway.b", "def f():\n    import gateway.a")]
    assert rules.cycles(circle) == ["gateway.a -> gateway.b -> gateway.a"]


KEPT: list[tuple[Rule, str, str]] = [
    (rules.layers, "gateway.a", "from runtimes.tensors import Array\nimport router.table"),
    (rules.homes, "gateway.http.app", "from starlette.routing import Route\nimport uvicorn"),
    (rules.homes, "gateway.worker", "from uvicorn import Server"),
    (rules.homes, "gateway.cli.doctor", "from importlib.metadata import version\nversion('onnxruntime')"),
    (rules.bare, "gateway.supervisor", "import os\nfrom gateway import lifeline\nfrom gateway.slots import Slots"),
    (rules.pure_router, "router.policy", "import msgspec\nfrom router.document import Section"),
    (rules.compiled, "gateway.shadow", "from gateway.exchange import Exchange\nclass A(Exchange):\n    pass"),
    (rules.compiled, "gateway.a", "from gateway.exchange import Exchange\nasync def f(x: Exchange): ..."),
    (rules.sizes, "gateway.supervisor", "x = 1\n" * 199),
    (rules.described, "gateway.empty", ""),
    (rules.described, "gateway.a", _DOC + "class _A:\n    def f(self) -> None:\n        pass"),
    (rules.banned, "gateway.logs", "def write():\n    print('x')"),
    (rules.banned, "gateway.cli.output", "print('x')"),
    (
        rules.kept_tasks,
        "gateway.a",
        "def f():\n    task = asyncio.create_task(g())\n    tasks.append(h.create_task(g()))",
    ),
]


@pytest.mark.parametrize(("rule", "name", "text"), KEPT, ids=lambda value: getattr(value, "__name__", None))
def test_what_is_right_passes(rule: Rule, name: str, text: str):
    assert rule([module(name, text)]) == []


def test_an_import_for_type_checkers_makes_no_cycle():
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gateway import b"
    assert rules.cycles([module("gateway.a", text), module("gateway.b", "import gateway.a")]) == []
