"""Monitor documents from the watched folder of a running server: followed, told, owned, left."""

import os
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.process import monitored
from tests.process.monitored import NAME, seen
from tests.tree import serve

pytestmark = pytest.mark.process

TEXT = f"""\
apiVersion: tidegate/v1
kind: Monitor
metadata: {{name: {NAME}}}
spec:
  window: {{rows: 1000}}
"""


def test_a_folder_of_monitors_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "loans.yaml").write_text(TEXT)
    arguments = ("--workers", "1", "--policy-dir", str(folder))
    with serve(monitored.repository(tmp_path), *arguments, models__quiet_period_ms=0) as tree:
        tree.until("the document", lambda: seen(tree).get("generation") == 1)
        assert seen(tree)["owner"] == "file:loans.yaml"
        assert "file:loans.yaml" in run("monitor", "ls", tree=tree).out
        told = "the monitor belongs to 'loans.yaml' in the policy folder"
        assert told in run("monitor", "apply", "-", tree=tree, stdin=TEXT).refused(1)
        assert told in run("monitor", "delete", NAME, "--yes", tree=tree).refused(1)
        assert "no request begins" in run("monitor", "approve", NAME, "x", tree=tree).refused(2), "that is not owned"

        (folder / "loans.yaml").write_text(TEXT.replace("window", "windw"))
        tree.until("the refusal", lambda: tree.logged("policy_file_refused") != [])
        why = "loans.yaml: line 5: spec.windw: unknown field"
        assert why in run("monitor", "ls", "--json", tree=tree).json()["monitors"][0]["file_problem"]
        assert why in run("monitor", "status", NAME, tree=tree).out
        assert "loans.yaml" not in run("policy", "ls", tree=tree).out, "it is no policy"
        assert tree.counter("tidegate_policy_files_refused") == 1
        assert (seen(tree)["generation"], seen(tree)["document"]["spec"]) == (1, {"window": {"rows": 1000}})

        os.kill(tree.control_pid(), 9)
        (folder / "loans.yaml").write_text(TEXT.replace("1000", "2000"))
        tree.until("the change", lambda: seen(tree).get("generation") == 2)
        assert seen(tree)["file_problem"] == ""
        (folder / "loans.yaml").unlink()
        tree.until("the orphan", lambda: tree.logged("monitor_orphaned") != [])
        assert run("monitor", "apply", "-", tree=tree, stdin=TEXT).out == f"{NAME}: generation 3; it is in force\n"

        (folder / "other.yaml").write_text(TEXT.replace(NAME, "nobody"))
        tree.until("the second refusal", lambda: len(tree.logged("policy_file_refused")) == 2)
        why = "other.yaml: not_ready: 'nobody' is not in the repository"
        assert why in run("monitor", "ls", tree=tree).out
