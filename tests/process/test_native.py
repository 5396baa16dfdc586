"""Whether a server runs compiled is said, and is true."""

import json
import os
from pathlib import Path

import pytest

from tests import models
from tests.tree import Tree, serve

pytestmark = pytest.mark.process


def expected() -> bool:
    """`make test` puts a package on the path whose hot path is compiled."""
    folders = [Path(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    return any(folder.glob("gateway/exchange.*.so") for folder in folders)


@pytest.fixture
def tree(tmp_path: Path):
    models.write(tmp_path / "models", "affine", models.affine())
    with serve(tmp_path / "models", "--workers", "1") as tree:
        yield tree


def test_a_server_says_what_its_workers_have_loaded(tree: Tree):
    _, body = tree.get("/admin/v1/server", admin=True)
    (worker,) = tree.workers()
    loaded = Path(f"/proc/{worker['pid']}/maps").read_text()
    assert json.loads(body)["compiled"] is expected() is ("gateway/exchange." in loaded)
    _, page = tree.get("/metrics")
    assert b'hot_path="%s"' % (b"compiled" if expected() else b"interpreted") in page
