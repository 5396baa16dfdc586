"""Aliases are changed in place and nothing else is; a version appears whole or not at all, and never changes."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.errors import Conflict, UnknownModel
from runtimes.registry.aliases import push, with_alias, write_alias
from runtimes.registry.digest import FilesRefused
from runtimes.registry.names import ALIAS, NameRefused
from runtimes.registry.strictyaml import DocumentError, load
from tests import models
from tests.registry.places import Clock, source, tree

COMMENTED = """\
# Fraud, by the risk team.
batching:
  max_batch_size: 16   # measured
aliases:
  # what pays the bills
  stable: 3   # since May
  candidate: 4

deadline_ms: 50
"""

ALIASES = st.from_regex(ALIAS, fullmatch=True)
VERSIONS = st.integers(1, 10**18 - 1)


# ---- the text ----


def test_set_changes_one_number() -> None:
    assert with_alias(COMMENTED, "stable", 7) == COMMENTED.replace("stable: 3", "stable: 7")


def test_a_new_alias_is_one_new_line() -> None:
    assert with_alias(COMMENTED, "shadow", 5) == COMMENTED.replace("candidate: 4\n", "candidate: 4\n  shadow: 5\n")


def test_remove_takes_one_line_away() -> None:
    assert with_alias(COMMENTED, "candidate", None) == COMMENTED.replace("  candidate: 4\n", "")


def test_the_last_alias_leaves_an_empty_section() -> None:
    left = with_alias(with_alias(COMMENTED, "candidate", None), "stable", None)
    assert "aliases: {}\n  # what pays the bills\n" in left
    assert load(left, "x") == {"batching": {"max_batch_size": 16}, "aliases": {}, "deadline_ms": 50}


@pytest.mark.parametrize(
    ("before", "alias", "version", "after"),
    [
        (None, "a", 1, "aliases:\n  a: 1\n"),
        ("", "a", 1, "aliases:\n  a: 1\n"),
        ("# mine\n", "a", 1, "# mine\naliases:\n  a: 1\n"),
        ("---\n", "a", 1, "---\naliases:\n  a: 1\n"),
        ("{}\n", "a", 1, "{aliases: {a: 1}}\n"),
        ("~\n", "a", 1, "aliases:\n  a: 1\n"),
        ("finite: true", "a", 1, "finite: true\naliases:\n  a: 1\n"),
        ("finite: true\n", "null", 1, 'finite: true\naliases:\n  "null": 1\n'),
        ("  finite: true\n", "a", 1, "  finite: true\n  aliases:\n    a: 1\n"),
        ("{finite: true}\n", "a", 1, "{aliases: {a: 1}, finite: true}\n"),
        ("{aliases: {a: 1}, finite: true}\n", "a", 2, "{aliases: {a: 2}, finite: true}\n"),
        ("aliases: {a: 1, b: 2} # c\nfinite: true\n", "b", 3, "aliases: {a: 1, b: 3} # c\nfinite: true\n"),
        ("aliases: {a: 1, b: 2} # c\n", "a", None, "aliases: {b: 2} # c\n"),
        ("aliases:\nfinite: true\n", "a", 1, "aliases: {a: 1}\nfinite: true\n"),
        ("aliases: ~ # none\n", "a", 1, "aliases: {a: 1} # none\n"),
        ("aliases:\n  a: 1", "b", 2, "aliases:\n  a: 1\n  b: 2\n"),
        ("aliases:\n    a: 1\nfinite: true\n", "b", 2, "aliases:\n    a: 1\n    b: 2\nfinite: true\n"),
        ("aliases:\n  a: 1 # only\n# end\n", "a", None, "aliases: {}\n# end\n"),
        ("aliases:\r\n  a: 1\r\n", "b", 2, "aliases:\r\n  a: 1\r\n  b: 2\r\n"),
        ("aliases:\n  ? a\n  : 1\n", "b", 2, "aliases:\n  ? a\n  : 1\n  b: 2\n"),
        ("aliases:\n  ? a\n  : 1\n  b: 2\n", "a", None, "aliases:\n  b: 2\n"),
        ("aliases:\n  ? a\n  : 1\n", "a", None, "aliases: {}\n"),
        ("aliases: {\n  a: 1,\n}\n", "b", 2, "aliases: {a: 1, b: 2}\n"),
        ("aliases: {a: 1}\n", "b", None, "aliases: {a: 1}\n"),
        (None, "b", None, ""),
        ("'aliases': {'a': 1}\n", "a", 2, "'aliases': {a: 2}\n"),
    ],
)
def test_forms(before: str | None, alias: str, version: int | None, after: str) -> None:
    assert with_alias(before, alias, version) == after


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("aliases: [1]", "aliases: a mapping from alias to version is expected"),
        ("- 1", "a mapping is expected"),
        ("a: &x 1", "line 1: anchors"),
        ("a: [", "line"),
        ("a: 1\na: 2", "stands twice"),
        ("a: 1\n...\n", "edit it by hand"),
    ],
)
def test_texts_that_are_not_edited(text: str, says: str) -> None:
    with pytest.raises(DocumentError) as refused:
        with_alias(text, "stable", 1)
    assert says in str(refused.value)


@pytest.mark.parametrize("alias", ["", "3", "-a", "a b", "a: 1\nb", "é", "a" * 65])
def test_what_is_no_alias(alias: str) -> None:
    with pytest.raises(NameRefused, match="is no alias: expected"):
        with_alias(None, alias, 1)


SCALARS = st.sampled_from(["1", "true", "text", "'quoted # text'", "1.10", '"a: b"', "~"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """model.yaml as people write it: sections in any order, comments and blank lines between, aliases in any style."""
    sections = [f"key{i}: {draw(SCALARS)}" for i in range(draw(st.integers(0, 3)))]
    sections += ["nested:\n  inner: [1, 2]\n  more:\n  - x\n  - y"] * draw(st.integers(0, 1))
    aliases = draw(st.dictionaries(ALIASES, VERSIONS, max_size=4))
    style = draw(st.sampled_from(["block", "flow", "wide", "none"]))
    pairs = [f'"{alias}": {version}' for alias, version in aliases.items()]
    if style == "flow" or (style != "none" and not pairs):
        sections.append("aliases: {" + ", ".join(pairs) + "}")
    elif style != "none":
        indent = "\n      # why\n      " if style == "wide" else "\n  "
        sections.append("aliases:" + "".join(f"{indent}{pair} # here" for pair in pairs))
    lines = [part for text in draw(st.permutations(sections)) for part in (draw(st.sampled_from(["", "# note"])), text)]
    return "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n# end\n"]))


@given(documents(), ALIASES, st.none() | VERSIONS, st.data())
def test_any_change_changes_just_the_alias(text: str, new: str, version: int | None, data: st.DataObject) -> None:
    before = load(text, "x") or {}
    assert isinstance(before, dict)
    aliases = before.get("aliases") or {}
    alias = data.draw(st.sampled_from([new, *aliases]))
    after = with_alias(text, alias, version)
    read = load(after, "x") or {}
    assert isinstance(read, dict)
    expected = {key: value for key, value in aliases.items() if key != alias}
    if version is not None:
        expected[alias] = version
    assert (read.get("aliases") or {}) == expected
    assert [(k, v) for k, v in read.items() if k != "aliases"] == [(k, v) for k, v in before.items() if k != "aliases"]
    assert after.count("# note") == text.count("# note")
    assert after.count("# end") == text.count("# end")
    assert with_alias(after, alias, version) == after


# ---- the file ----


def test_write_alias(tmp_path: Path) -> None:
    models.write(tmp_path, "m", b"x", config=COMMENTED)
    path = tmp_path / "m" / "model.yaml"
    path.chmod(0o640)
    write_alias(tmp_path, "m", "stable", 9)
    assert path.read_text() == COMMENTED.replace("stable: 3", "stable: 9")
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path / "m")) == ["1", "model.yaml"]
    inode = path.stat().st_ino
    write_alias(tmp_path, "m", "stable", 9)
    assert path.stat().st_ino == inode
    write_alias(tmp_path, "m", "stable", None)
    assert "stable" not in path.read_text()


def test_write_alias_without_settings_and_in_a_root_that_is_a_model(tmp_path: Path) -> None:
    models.write(tmp_path, "m", b"x")
    write_alias(tmp_path, "m", "gone", None)
    assert not (tmp_path / "m" / "model.yaml").exists()
    write_alias(tmp_path, "m", "stable", 1)
    assert (tmp_path / "m" / "model.yaml").read_text() == "aliases:\n  stable: 1\n"
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.onnx").write_bytes(b"x")
    write_alias(tmp_path / "bare", "bare", "stable", 1)
    assert (tmp_path / "bare" / "model.yaml").exists()


def test_write_alias_refuses(tmp_path: Path) -> None:
    models.write(tmp_path, "m", b"x")
    with pytest.raises(UnknownModel, match="no folder for model 'other'") as unknown:
        write_alias(tmp_path, "other", "stable", 1)
    assert str(tmp_path) not in str(unknown.value)
    assert not (tmp_path / "other").exists()
    with pytest.raises(UnknownModel):
        write_alias(tmp_path / "away", "m", "stable", 1)
    for name in ("..", "m/1", ""):
        with pytest.raises(NameRefused):
            write_alias(tmp_path, name, "stable", 1)
    (tmp_path / "link").symlink_to("m")
    with pytest.raises(FilesRefused, match="'link' is a link"):
        write_alias(tmp_path, "link", "stable", 1)
    (tmp_path / "outside").write_text("finite: true\n")
    (tmp_path / "m" / "model.yaml").symlink_to("../outside")
    with pytest.raises(FilesRefused):
        write_alias(tmp_path, "m", "stable", 1)
    (tmp_path / "m" / "model.yaml").unlink()
    (tmp_path / "m" / "model.yaml").write_bytes(b"\xff")
    with pytest.raises(DocumentError, match="not UTF-8"):
        write_alias(tmp_path, "m", "stable", 1)
    assert (tmp_path / "outside").read_text() == "finite: true\n"
    assert sorted(os.listdir(tmp_path / "m")) == ["1", "model.yaml"]


# ---- push ----


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    folder = tmp_path / "upload"
    (folder / "data").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "data" / "w.bin").write_bytes(b"weights")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


def test_push(root: Path, upload: Path) -> None:
    digest = push(root, "m", 3, upload)
    assert digest.startswith("sha256:")
    assert tree(root) == {"m/3/model.onnx": b"graph", "m/3/data/w.bin": b"weights"}
    assert (root / "m" / "3").stat().st_mode & 0o777 == 0o755
    assert (root / "m" / "3" / "model.onnx").stat().st_mode & 0o777 == 0o644
    seen = source(root, Clock(), quiet_ns=0).scan_model("m")
    assert seen is not None
    assert [version.version for version in seen.versions if version.offered] == [3]


def test_a_version_never_changes(root: Path, upload: Path) -> None:
    digest = push(root, "m", 1, upload)
    inode = (root / "m" / "1").stat().st_ino
    assert push(root, "m", 1, upload) == digest
    assert (root / "m" / "1").stat().st_ino == inode
    (upload / "data" / "w.bin").write_bytes(b"swapped")
    with pytest.raises(Conflict, match="m:1 is there with other bytes"):
        push(root, "m", 1, upload)
    assert (root / "m" / "1" / "data" / "w.bin").read_bytes() == b"weights"
    assert push(root, "m", 2, upload) != digest
    assert sorted(os.listdir(root / "m")) == ["1", "2"]


def test_push_refuses(root: Path, upload: Path, tmp_path: Path) -> None:
    with pytest.raises(NameRefused):
        push(root, "../m", 1, upload)
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FilesRefused, match="'link' is a link"):
        push(root, "link", 1, upload)
    assert os.listdir(tmp_path / "elsewhere") == []
    with pytest.raises(FileNotFoundError):
        push(root, "m", 1, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        push(tmp_path / "away", "m", 1, upload)
    (upload / "key").symlink_to("/etc/passwd")
    with pytest.raises(FilesRefused, match="'key' is a symbolic link"):
        push(root, "m", 1, upload)
    (upload / "key").unlink()
    (upload / "model.onnx").unlink()
    with pytest.raises(FilesRefused, match=r"no model\.onnx in it"):
        push(root, "m", 1, upload)
    assert os.listdir(root) == ["link"]
