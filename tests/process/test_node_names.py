"""A data folder that was copied with its node.id: both gateways say so, where somebody will look."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import models
from tests.store.places import RedisServer
from tests.tree import TIDEGATE, Tree, serve

pytestmark = pytest.mark.process


def warnings(tree: Tree) -> list[str]:
    found: list[str] = json.loads(tree.get("/admin/v1/server", admin=True)[1])["warnings"]
    return found


def test_two_gateways_of_one_name_say_so(tmp_path: Path, redis: RedisServer) -> None:
    models.write(tmp_path / "models", "table", models.lookup(1000), 1)
    folders = [tmp_path / name for name in ("one", "copy")]
    for folder in folders:
        folder.mkdir(mode=0o700)
        (folder / "node.id").write_text("same\n")
    first, second = (serve(tmp_path / "models", "--data-dir", str(folder), store__url=redis.url) for folder in folders)
    with first as one:
        one.until("it is alone", lambda: warnings(one) == [])
        with second as copy:
            one.until("both know", lambda: all("remove `node.id`" in str(warnings(tree)) for tree in (one, copy)))
            assert one.logged("node_name_twice")
            asked = [TIDEGATE, "doctor", "--admin-url", f"http://127.0.0.1:{copy.admin_port}"]
            told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
            assert "another gateway speaks under this node's name" in told.stdout, told
