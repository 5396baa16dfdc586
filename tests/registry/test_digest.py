"""Files are named by their bytes, and only plain files are read."""

import hashlib
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.registry import digest
from runtimes.registry.digest import (
    FilesRefused,
    FoundFile,
    HashedFile,
    copy_hashed,
    found_file,
    opened_folder,
    read_small,
    shown,
    version_digest,
    walk,
)

FILES = st.lists(
    st.builds(
        HashedFile,
        st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1),
        st.integers(0, 99),
        st.sampled_from(["a" * 64, "b" * 64]),
    ),
    unique_by=lambda file: file.path,
)


def walked(folder: Path) -> tuple[FoundFile, ...]:
    with opened_folder(str(folder), "") as opened:
        return walk(opened)


@given(FILES, st.randoms())
def test_the_order_of_files_does_not_matter(files: list[HashedFile], random) -> None:
    mixed = list(files)
    random.shuffle(mixed)
    assert version_digest(mixed) == version_digest(files)


@given(FILES, FILES)
def test_other_files_have_another_digest(left: list[HashedFile], right: list[HashedFile]) -> None:
    assert (version_digest(left) == version_digest(right)) == (set(left) == set(right))


def test_walk_and_copy(tmp_path: Path) -> None:
    (tmp_path / "v" / "data").mkdir(parents=True)
    (tmp_path / "v" / "model.onnx").write_bytes(b"graph")
    (tmp_path / "v" / "data" / "weights.bin").write_bytes(b"w" * 3_000_000)
    files = walked(tmp_path / "v")
    assert [(file.path, file.size) for file in files] == [("data/weights.bin", 3_000_000), ("model.onnx", 5)]
    with opened_folder(str(tmp_path), "v") as opened:
        copied = copy_hashed(opened, files[0], str(tmp_path / "copy"))
        only_hashed = copy_hashed(opened, files[0], None)
    assert copied == only_hashed
    assert copied.sha256 == hashlib.sha256(b"w" * 3_000_000).hexdigest()
    assert (tmp_path / "copy").read_bytes() == b"w" * 3_000_000
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o400


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def make_hardlink(path: Path) -> None:
    (path.parent.parent / "other").write_bytes(b"secret")
    path.hardlink_to(path.parent.parent / "other")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_link, "is a symbolic link"),
        (os.mkfifo, "is a FIFO"),
        (make_socket, "is a socket"),
        (make_hardlink, "has 2 names"),
    ],
)
def test_only_plain_files_with_one_name(tmp_path: Path, make, says: str) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    make(folder / "x")
    with pytest.raises(FilesRefused, match=f"'x' {says}"):
        walked(folder)
    with opened_folder(str(folder), "") as opened:
        with pytest.raises(FilesRefused):
            found_file(opened, "x")
        with pytest.raises(FilesRefused):  # and does not block
            read_small(opened, "x", 10)


def test_a_device_is_refused() -> None:
    with opened_folder("/dev", "") as opened, pytest.raises(FilesRefused, match="'null' is a device"):
        found_file(opened, "null")


def test_no_folder_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "1").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "root").symlink_to(".")
    with pytest.raises(FilesRefused, match="'link' is a link"), opened_folder(str(tmp_path), "link/1"):
        pass
    with opened_folder(str(tmp_path / "root"), "real/1"):
        pass  # links on the way to the repository are the operator's
    with pytest.raises(FilesRefused, match="'link' is a symbolic link"):
        walked(tmp_path)


@pytest.mark.parametrize("name", [b"a\nb", b"a\x1bb", b"\xff\xfe"])
def test_names_are_printable_utf8(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).touch()
    with pytest.raises(FilesRefused, match="must be printable UTF-8") as refused:
        walked(tmp_path)
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()


def test_the_longest_name_is_fine_and_shown_short(tmp_path: Path) -> None:
    (tmp_path / ("n" * 255)).touch()
    assert walked(tmp_path)[0].path == "n" * 255
    assert len(shown("n" * 255)) == 82


def test_bounds(tmp_path: Path) -> None:
    (tmp_path / "deep" / "/".join("abcdefghi")).mkdir(parents=True)
    with pytest.raises(FilesRefused, match="nested deeper than 8"):
        walked(tmp_path / "deep")
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "sparse").open("wb") as file:
        file.truncate(digest.MAX_BYTES + 1)
    with pytest.raises(FilesRefused, match="bytes in all; at most"):
        walked(tmp_path / "large")
    (tmp_path / "many").mkdir()
    for i in range(digest.MAX_FILES + 1):
        (tmp_path / "many" / str(i)).touch()
    with pytest.raises(FilesRefused, match="more than 1000 files"):
        walked(tmp_path / "many")


def test_a_file_that_is_not_the_one_that_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"12345")
    (file,) = walked(tmp_path)
    with opened_folder(str(tmp_path), "") as opened:
        for other in (replace(file, size=4), replace(file, ctime_ns=1), replace(file, inode=1)):
            with pytest.raises(FilesRefused, match="changed while it was read"):
                copy_hashed(opened, other, None)
        # Same size and same mtime: the kernel's ctime tells.
        path.write_bytes(b"54321")
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
        with pytest.raises(FilesRefused, match="changed"):
            copy_hashed(opened, file, None)
        path.unlink()
        with pytest.raises(FilesRefused, match="cannot be opened"):
            copy_hashed(opened, file, None)


def test_small_files_have_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    with opened_folder(str(tmp_path), "") as opened:
        assert read_small(opened, "x", 5) == b"12345"
        with pytest.raises(FilesRefused, match="longer than 4 bytes"):
            read_small(opened, "x", 4)
