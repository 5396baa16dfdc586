"""What a directory offers: its layouts, the quiet period, what is refused, and what trouble must not do."""

import os
import shutil
from pathlib import Path

import pytest

from runtimes.registry.directory import DirectorySource, Observation, SeenModel, SourceAway
from tests import models
from tests.registry.places import QUIET_NS, SECOND, Clock, age, source


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


def put(path: Path, content: bytes = b"graph") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def scanned(root: Path, clock: Clock) -> Observation:
    """The first scan, of files that have lain there for long."""
    age(root, clock, 3600)
    return source(root, clock).scan()


def offered(model: SeenModel) -> list[int]:
    return [version.version for version in model.versions if version.offered]


# ---- layouts ----


def test_versions_of_models(root: Path, clock: Clock) -> None:
    models.write(root, "fraud", b"one", 1)
    models.write(root, "fraud", b"three", 3, "aliases: {stable: 1}\n")
    models.write(root, "churn", b"c", 10)
    put(root / "churn" / "10" / "data" / "weights.bin", b"12345")
    seen = scanned(root, clock)
    assert sorted(seen.models) == ["churn", "fraud"]
    assert offered(seen.models["fraud"]) == [1, 3]
    assert seen.models["fraud"].config is not None
    assert seen.models["fraud"].config.aliases == {"stable": 1}
    (ten,) = seen.models["churn"].versions
    assert (ten.folder, ten.model_file, ten.size_bytes) == ("churn/10", "model.onnx", 6)
    assert [file.path for file in ten.files] == ["data/weights.bin", "model.onnx"]
    assert seen.settled
    assert seen.problems == ()


def test_a_bare_model_is_version_1_of_its_folder(root: Path, clock: Clock) -> None:
    put(root / "bare" / "model.onnx")
    put(root / "bare" / "model.onnx.data")
    put(root / "bare" / "model.yaml", b"deadline_ms: 5\n")
    put(root / "bare" / ".tidegate-12ab", b"settings being written")
    (version,) = scanned(root, clock).models["bare"].versions
    assert version.version == 1
    assert [file.path for file in version.files] == ["model.onnx", "model.onnx.data"]


def test_version_folders_win_over_a_bare_model(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x", 2)
    put(root / "m" / "model.onnx")
    model = scanned(root, clock).models["m"]
    assert offered(model) == [2]
    assert "passed over" in model.warnings[0]


def test_the_root_may_be_a_model(root: Path, clock: Clock) -> None:
    put(root / "model.onnx")
    put(root / "model.yaml", b"finite: true\n")
    seen = scanned(root, clock)
    assert offered(seen.models["repository"]) == [1]
    assert seen.models["repository"].config is not None
    assert seen.models["repository"].config.finite


def test_a_folder_named_model_onnx_is_a_model_among_others(root: Path, clock: Clock) -> None:
    models.write(root, "model.onnx", b"x")
    models.write(root, "other", b"x")
    seen = scanned(root, clock)
    assert {name: offered(model) for name, model in seen.models.items()} == {"model.onnx": [1], "other": [1]}
    assert seen.problems == ()


@pytest.mark.parametrize(
    ("place", "name", "version"),
    [("fraud.onnx", "fraud", 1), ("fraud/model.onnx", "fraud", 1), ("fraud/7/model.onnx", "fraud", 7)],
)
def test_the_root_may_be_a_file(root: Path, clock: Clock, place: str, name: str, version: int) -> None:
    path = put(root / place)
    put(Path(f"{path}.data"), b"external")
    put(path.parent / "unrelated.bin")
    age(root, clock, 3600)
    seen = source(path, clock).scan().models[name]
    assert offered(seen) == [version]
    assert [file.path for file in seen.versions[0].files] == [path.name, f"{path.name}.data"]


def test_a_file_whose_name_is_no_model_name(root: Path, clock: Clock) -> None:
    path = put(root / "-x.onnx")
    seen = source(path, clock).scan()
    assert not seen.models
    assert "'-x' is no model name" in seen.problems[0]


def test_a_model_file_in_the_root_is_told_where_to_go(root: Path, clock: Clock) -> None:
    put(root / "fraud.onnx")
    put(root / ".fraud.onnx.part")
    put(root / "README.md")
    assert scanned(root, clock).problems == ("'fraud.onnx' is not looked at: place it as 'fraud'/1/model.onnx",)


# ---- names ----


@pytest.mark.parametrize("name", [b"-x", b"a b", b"\xff", b"a\nb", b"lost+found", b"n" * 129])
def test_bad_names_of_models_are_reported(root: Path, clock: Clock, name: bytes) -> None:
    models.write(root, "good", b"x")
    Path(os.fsdecode(bytes(root) + b"/" + name)).mkdir()
    seen = scanned(root, clock)
    assert list(seen.models) == ["good"]
    (problem,) = seen.problems
    assert "is no model name: expected 1 to 128" in problem
    assert problem.isascii()
    assert problem.isprintable()


@pytest.mark.parametrize("name", ["01", "-1", "1a", ".1", "1~", "0", "1" + "0" * 20, "latest"])
def test_bad_versions_are_passed_over_with_a_warning(root: Path, clock: Clock, name: str) -> None:
    models.write(root, "m", b"x", 2)
    put(root / "m" / name / "model.onnx")
    model = scanned(root, clock).models["m"]
    assert offered(model) == [2]
    assert model.warnings == (
        f"folder '{name}' is passed over: a version is a number from 1, of at most 18 digits, without leading zeros",
    )


def test_hidden_folders_and_unfinished_pushes_are_silent(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x")
    put(root / "m" / ".tidegate-00ff" / "model.onnx")
    put(root / ".git" / "config")
    seen = scanned(root, clock)
    assert list(seen.models) == ["m"]
    assert seen.models["m"].warnings == ()
    assert seen.problems == ()


# ---- what is refused ----


def plain(folder: Path) -> None:
    put(folder / "model.onnx")


def hardlinked_weights(folder: Path) -> None:
    plain(folder)
    (folder / "weights.bin").hardlink_to(put(folder.parent.parent.parent / "outside"))


def linked_folder(folder: Path) -> None:
    plain(folder)
    (folder / "data").symlink_to("/etc")


def linked_device(folder: Path) -> None:
    plain(folder)
    (folder / "weights.bin").symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: (folder / "model.onnx").symlink_to("/etc/passwd"), "'model.onnx' is a symbolic link"),
        (lambda folder: os.mkfifo(folder / "model.onnx"), "'model.onnx' is a FIFO"),
        (lambda folder: (folder / "model.onnx").mkdir(), "no model.onnx in it"),
        (lambda folder: put(folder / "model.onnx" / "x"), "model.onnx is a folder"),
        (lambda folder: put(folder / "model.pt"), "no model.onnx in it"),
        (lambda folder: None, "no model.onnx in it"),
        (hardlinked_weights, "'weights.bin' has 2 names"),
        (linked_folder, "'data' is a symbolic link"),
        (linked_device, "'weights.bin' is a symbolic link"),
    ],
)
def test_what_is_not_offered(root: Path, clock: Clock, make, says: str) -> None:
    models.write(root, "m", b"good", 1)
    (root / "m" / "2").mkdir()
    make(root / "m" / "2")
    model = scanned(root, clock).models["m"]
    assert offered(model) == [1]
    assert says in model.versions[1].problem
    assert model.versions[1].settled


def test_linked_models_and_versions_are_refused(root: Path, clock: Clock, tmp_path: Path) -> None:
    models.write(tmp_path / "elsewhere", "m", b"x")
    (root / "whole").symlink_to(tmp_path / "elsewhere" / "m")
    models.write(root, "m", b"x", 1)
    (root / "m" / "2").symlink_to(tmp_path / "elsewhere" / "m" / "1")
    seen = scanned(root, clock)
    assert seen.models["whole"].problems == ("'whole' is a link or no folder",)
    assert offered(seen.models["m"]) == [1]
    assert "'2' is a link or no folder" in seen.models["m"].versions[1].problem


def test_a_graph_too_large_for_protobuf(root: Path, clock: Clock) -> None:
    path = put(root / "m" / "1" / "model.onnx")
    os.truncate(path, 2 * 1024**3 + 1)
    assert "use external data" in scanned(root, clock).models["m"].versions[0].problem


def test_a_model_without_versions(root: Path, clock: Clock) -> None:
    (root / "m").mkdir()
    assert scanned(root, clock).models["m"].problems == ("no version in it: expected m/1/model.onnx",)


# ---- the quiet period ----


def test_old_files_are_offered_by_the_first_scan(root: Path, clock: Clock) -> None:
    path = models.write(root, "m", b"x")
    os.utime(path, ns=(clock() - QUIET_NS, clock() - QUIET_NS))
    assert offered(source(root, clock).scan().models["m"]) == [1]


def test_a_young_file_waits(root: Path, clock: Clock) -> None:
    path = models.write(root, "m", b"x")
    os.utime(path, ns=(clock() - QUIET_NS + 1, clock() - QUIET_NS + 1))
    directory = source(root, clock)
    first = directory.scan()
    assert offered(first.models["m"]) == []
    assert not first.settled
    clock.tick(4)
    assert not directory.scan().settled
    clock.tick(1)
    assert offered(directory.scan().models["m"]) == [1]


def test_a_copy_that_restores_its_mtime_waits_too(root: Path, clock: Clock) -> None:
    directory = source(root, clock)
    directory.scan()
    models.write(root, "m", b"x")
    age(root, clock, 3600)
    assert offered(directory.scan().models["m"]) == []
    clock.tick(5)
    assert offered(directory.scan().models["m"]) == [1]


def test_a_half_written_upload_is_never_offered(root: Path, clock: Clock) -> None:
    directory = source(root, clock)
    directory.scan()
    path = root / "m" / "1" / "model.onnx"
    for size in range(1, 30):  # a slow upload: a piece every second
        put(path, b"x" * size)
        age(root, clock, 3600)
        assert offered(directory.scan().models["m"]) == []
        clock.tick(1)
    # It stands still, and external data begins to arrive.
    clock.tick(3)
    put(path.parent / "weights.bin", b"1")
    age(root, clock, 3600)
    assert offered(directory.scan().models["m"]) == []
    clock.tick(4.9)
    assert offered(directory.scan().models["m"]) == []
    clock.tick(0.1)
    assert offered(directory.scan().models["m"]) == [1]


def test_a_change_takes_an_offer_back(root: Path, clock: Clock) -> None:
    path = models.write(root, "m", b"x")
    age(root, clock, 3600)
    directory = source(root, clock)
    before = directory.scan().models["m"].versions[0]
    put(path, b"y")
    os.utime(path, ns=(before.files[0].mtime_ns,) * 2)
    after = directory.scan().models["m"].versions[0]
    assert before.offered
    assert not after.offered
    assert before.files != after.files


def test_an_mtime_in_the_future_delays_no_longer_than_the_period(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x")
    age(root, clock, -3600)
    directory = source(root, clock)
    assert offered(directory.scan().models["m"]) == []
    clock.tick(5)
    assert offered(directory.scan().models["m"]) == [1]


def test_an_operator_need_not_wait(root: Path, clock: Clock) -> None:
    directory = source(root, clock)
    directory.scan()
    models.write(root, "m", b"x")
    model = directory.scan_model("m")
    assert model is not None
    assert offered(model) == [1]
    assert directory.scan_model("nobody") is None
    assert directory.scan_model("../m") is None
    # And what was done for the operator is no precedent.
    assert offered(directory.scan().models["m"]) == []


# ---- settings ----


def settings(directory: DirectorySource, clock: Clock) -> tuple[int | None, tuple[str, ...]]:
    """The deadline in force after the quiet period, and the problems."""
    directory.scan()
    clock.tick(5)
    model = directory.scan().models["m"]
    return model.config.deadline_ms if model.config else None, model.problems


def test_broken_settings_leave_the_last_good_ones(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x", config="deadline_ms: 1\n")
    age(root, clock, 3600)
    directory = source(root, clock)
    yaml = root / "m" / "model.yaml"
    assert settings(directory, clock) == (1, ())
    yaml.write_text("deadline_ms: 2\ndeadlinems: 3\n")
    age(root, clock, 3600)
    deadline_ms, problems = settings(directory, clock)
    assert deadline_ms == 1
    assert "model.yaml, line 2: unknown key 'deadlinems'" in problems[0]
    assert directory.scan().models["m"].versions[0].offered
    yaml.write_bytes(b"\xff")
    age(root, clock, 3600)
    assert settings(directory, clock) == (1, ("the settings are not UTF-8",))
    yaml.unlink()
    yaml.symlink_to("/etc/passwd")
    assert settings(directory, clock)[0] == 1
    yaml.unlink()
    yaml.write_text("deadline_ms: 4\n")
    age(root, clock, 3600)
    assert settings(directory, clock) == (4, ())
    yaml.unlink()
    assert settings(directory, clock) == (None, ())


def test_settings_that_were_never_good_serve_nothing(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x", config="a: [\n")
    model = scanned(root, clock).models["m"]
    assert model.config is None
    assert "model.yaml, line" in model.problems[0]


def test_settings_being_written_are_not_read(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x", config="deadline_ms: 1\n")
    age(root, clock, 3600)
    directory = source(root, clock)
    directory.scan()
    (root / "m" / "model.yaml").write_text("deadline_ms: 2\n")
    age(root, clock, 3600)
    model = directory.scan().models["m"]
    assert model.config is not None
    assert model.config.deadline_ms == 1
    assert not model.settled


def test_a_namesake_does_not_inherit_settings(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x", config="deadline_ms: 1\n")
    age(root, clock, 3600)
    directory = source(root, clock)
    assert settings(directory, clock) == (1, ())
    shutil.rmtree(root / "m")
    assert directory.scan().models == {}
    models.write(root, "m", b"y", config="deadline_ms: wrong\n")
    age(root, clock, 3600)
    deadline_ms, problems = settings(directory, clock)
    assert deadline_ms is None
    assert problems


def test_warnings_of_config_pbtxt_are_shown(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x")
    put(root / "m" / "config.pbtxt", b"max_batch_size: 8\ninstance_group [ { count: 2 } ]\n")
    model = scanned(root, clock).models["m"]
    assert model.config is not None
    assert model.config.batching.max_batch_size == 8
    assert model.warnings == ("config.pbtxt, line 2: instance_group is ignored: the node plans its threads itself",)


# ---- trouble ----


@pytest.mark.parametrize("single", [False, True])
def test_a_root_that_is_away_says_nothing_about_its_models(root: Path, clock: Clock, *, single: bool) -> None:
    models.write(root, "m", b"x")
    age(root, clock, 3600)
    directory = source(root / "m" / "1" / "model.onnx" if single else root, clock)
    assert offered(directory.scan().models["m"]) == [1]
    root.rename(root.with_name("away"))
    for look in (directory.scan, lambda: directory.scan_model("m")):
        with pytest.raises(SourceAway, match="cannot be read: No such file or directory") as away:
            look()
        assert str(root) not in str(away.value)
    root.with_name("away").rename(root)
    assert offered(directory.scan().models["m"]) == [1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_keeps_its_versions(root: Path, clock: Clock) -> None:
    models.write(root, "m", b"x")
    age(root, clock, 3600)
    directory = source(root, clock)
    directory.scan()
    (root / "m").chmod(0)
    model = directory.scan().models["m"]
    (root / "m").chmod(0o755)
    assert offered(model) == [1]
    assert model.problems == ("cannot be read: Permission denied",)


def test_a_link_to_the_repository_is_followed_once(root: Path, clock: Clock, tmp_path: Path) -> None:
    models.write(root, "m", b"x")
    (tmp_path / "link").symlink_to(root)
    age(root, clock, 3600)
    directory = source(tmp_path / "link", clock)
    (tmp_path / "link").unlink()
    assert directory.scan().models["m"].versions[0].base == str(root)


def test_the_clock_of_the_tests() -> None:
    assert QUIET_NS == 5 * SECOND
