"""What a directory of models holds right now: `<root>/<model>/<version>/model.onnx`, and simpler forms of it.

A bare `<root>/<model>/model.onnx` is version 1 of its folder's name; the root may itself be such a folder, or a file.
A scan only looks and never loads. It offers a version when its files have not changed for the quiet period, so that a
half-written upload is never taken: by their mtimes *and* between two scans (copying tools restore old mtimes). Only
the very first scan trusts mtimes alone, so that a start need not wait.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from runtimes.registry.configfile import PBTXT_FILE, YAML_FILE, read_config
from runtimes.registry.digest import (
    MAX_MODEL_BYTES,
    FilesRefused,
    FoundFile,
    found_file,
    opened_folder,
    read_small,
    shown,
    walk,
)
from runtimes.registry.modelconfig import ModelConfig
from runtimes.registry.names import NAME_RULE, VERSION_RULE, is_name, version_of
from runtimes.registry.strictyaml import MAX_DOCUMENT_BYTES, DocumentError

MODEL_FILE: Final = "model.onnx"
STAGING_PREFIX: Final = ".tidegate-"
"""Folders of an unfinished push begin so; they are passed over in silence."""
MAX_MODELS: Final = 10_000
MAX_VERSIONS: Final = 1_000
_CONFIG_FILES: Final = (YAML_FILE, PBTXT_FILE)


class SourceAway(Exception):
    """The repository cannot be read now; that says nothing about the models in it."""


@dataclass(frozen=True, slots=True)
class SeenVersion:
    """One version as a scan saw it.

    Attributes:
        base, folder: real path of the repository and the version's place below it.
        model_file: which of `files` is the graph.
        settled: unchanged for the quiet period.
        problem: why it cannot be served; "" otherwise.
    """

    name: str
    version: int
    base: str
    folder: str
    model_file: str
    files: tuple[FoundFile, ...]
    settled: bool
    problem: str = ""

    @property
    def offered(self) -> bool:
        """Whether it may be loaded."""
        return self.settled and not self.problem

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class SeenModel:
    """One model name as a scan saw it.

    Attributes:
        config: what its files say; the last good one while they are wrong; None = never good, serve nothing.
        versions: ascending.
        problems: what keeps it, or its newest settings, from being served.
        warnings: what is passed over.
        settled: its settings have been unchanged for the quiet period.
    """

    name: str
    config: ModelConfig | None
    versions: tuple[SeenVersion, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Observation:
    """The whole repository at one moment.

    Attributes:
        problems: what is in the repository but is no model.
    """

    models: dict[str, SeenModel]
    problems: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether nothing is waiting for the quiet period: another scan would show the same."""
        return all(
            model.settled and all(version.settled for version in model.versions) for model in self.models.values()
        )


@dataclass(frozen=True, slots=True)
class _Settings:
    """A model's settings as last read from `files`; config is the last good one."""

    files: tuple[FoundFile, ...]
    config: ModelConfig | None
    problem: str = ""
    warnings: tuple[str, ...] = ()


class _Quiet:
    """Remembers since when each group of files has looked as it does."""

    def __init__(self, period_ns: int, monotonic_ns: Callable[[], int], wall_ns: Callable[[], int]) -> None:
        self._period_ns = period_ns
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._seen: dict[str, tuple[tuple[FoundFile, ...], int]] = {}
        self.trusts_mtimes = True
        self.asks = True

    def settled(self, place: str, files: tuple[FoundFile, ...]) -> bool:
        """Whether the files at a place have been unchanged for the period."""
        if not self.asks:
            return True
        now, wall = self._monotonic_ns(), self._wall_ns()
        ages = [wall - file.mtime_ns for file in files]
        seen, since = self._seen.get(place, (None, now))
        if seen != files:
            since = now - self._period_ns if self.trusts_mtimes and all(a >= self._period_ns for a in ages) else now
            self._seen[place] = (files, since)
        # An mtime in the future says nothing; then the scans alone decide.
        fresh = any(0 <= age < self._period_ns for age in ages)
        return now - since >= self._period_ns and not fresh


class DirectorySource:
    """A repository in a directory, or a single model file. Not thread-safe; it remembers what earlier scans saw.

    Args:
        root: the directory or file; links in its own path are the operator's choice and are followed.
        quiet_period_ns: how long files must have been unchanged.
        monotonic_ns, wall_ns: clocks.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        quiet_period_ns: int,
        *,
        monotonic_ns: Callable[[], int],
        wall_ns: Callable[[], int],
    ) -> None:
        self.root = os.path.realpath(root)
        self._quiet = _Quiet(quiet_period_ns, monotonic_ns, wall_ns)
        self._settings: dict[str, _Settings] = {}
        self._last: dict[str, SeenModel] = {}

    def scan(self) -> Observation:
        """Look at every file's name, size and time; read only settings that changed. Blocks: call it in a thread.

        Raises:
            SourceAway: the root cannot be read; what was known stays true.
        """
        try:
            observation = self._scan_file() if os.path.isfile(self.root) else self._scan_root()
        except (OSError, FilesRefused) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise SourceAway(f"the model repository cannot be read: {reason}") from error
        self._quiet.trusts_mtimes = False
        self._last = observation.models
        # A model that comes back later is another one: the settings of its namesake are not its last good ones.
        self._settings = {name: held for name, held in self._settings.items() if name in observation.models}
        return observation

    def scan_model(self, name: str) -> SeenModel | None:
        """Look at one model without waiting for the quiet period: its operator says that it is complete.

        Raises:
            SourceAway: the root cannot be read.
        """
        self._quiet.asks = False
        try:
            if os.path.isfile(self.root):
                return self._scan_file().models.get(name)
            if _holds_model(self.root):
                return self._model(name, "") if Path(self.root).name == name else None
            found = is_name(name) and os.path.lexists(os.path.join(self.root, name))
            return self._model(name, name) if found else None
        except (OSError, FilesRefused) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise SourceAway(f"the model repository cannot be read: {reason}") from error
        finally:
            self._quiet.asks = True

    # ---- the three shapes of a repository ----

    def _scan_root(self) -> Observation:
        with opened_folder(self.root, "") as root:
            names = sorted(os.listdir(root))
            folders = [name for name in names if not name.startswith(".") and not _is_file(root, name)]
        if _holds_model(self.root):
            name = Path(self.root).name
            if not is_name(name):
                return Observation({}, (f"{shown(name)} is no model name: expected {NAME_RULE}",))
            return Observation({name: self._model(name, "")})
        models: dict[str, SeenModel] = {}
        problems = [
            f"{shown(name)} is not looked at: place it as {shown(Path(name).stem)}/1/{MODEL_FILE}"
            for name in names
            if name.endswith(".onnx") and not name.startswith(".") and name not in folders
        ]
        for name in folders[:MAX_MODELS]:
            if is_name(name):
                models[name] = self._model(name, name)
            else:
                problems.append(f"{shown(name)} is no model name: expected {NAME_RULE}")
        if len(folders) > MAX_MODELS:
            problems.append(f"{len(folders)} models; only the first {MAX_MODELS} are looked at")
        return Observation(models, tuple(problems))

    def _scan_file(self) -> Observation:
        """A file given directly: itself and what lies beside it under its own name (external data)."""
        path = Path(self.root)
        name, version = _named_after(path)
        if not is_name(name):
            return Observation({}, (f"{shown(name)} is no model name: expected {NAME_RULE}",))
        with opened_folder(str(path.parent), "") as folder:
            beside = [other for other in os.listdir(folder) if _belongs(other, path)]
            files = tuple(found_file(folder, other) for other in sorted(beside))
        seen = self._version(name, version, str(path.parent), "", path.name, files)
        return Observation({name: SeenModel(name, ModelConfig(), (seen,))})

    def _model(self, name: str, folder: str) -> SeenModel:
        try:
            with opened_folder(self.root, folder) as opened:
                return self._model_in(opened, name, folder)
        except FilesRefused as error:
            return SeenModel(name, None, problems=(str(error),))
        except OSError as error:
            # Trouble with the disk is no sign that the versions are gone.
            before = self._last.get(name, SeenModel(name, None))
            return replace(before, problems=(f"cannot be read: {error.strerror}",))

    def _model_in(self, opened: int, name: str, folder: str) -> SeenModel:
        settings, settled = self._read_settings(opened, name)
        warnings = list(settings.warnings)
        problems = [settings.problem] if settings.problem else []
        names = sorted(os.listdir(opened))
        versions = [self._version_folder(opened, name, folder, v) for v in _version_names(opened, names, warnings)]
        if MODEL_FILE in names and versions:
            warnings.append(f"{MODEL_FILE} beside version folders is passed over")
        elif MODEL_FILE in names:
            versions = [self._bare(opened, name, folder)]
        if not versions:
            problems.append(f"no version in it: expected {name}/1/{MODEL_FILE}")
        ordered = tuple(sorted(versions, key=lambda seen: seen.version))
        return SeenModel(name, settings.config, ordered, tuple(problems), tuple(warnings), settled)

    # ---- versions ----

    def _version_folder(self, opened: int, name: str, folder: str, version: str) -> SeenVersion:
        place = f"{folder}/{version}" if folder else version
        problem = ""
        files: tuple[FoundFile, ...] = ()
        try:
            with opened_folder(self.root, place) as inner:
                files = walk(inner)
        except FilesRefused as error:
            problem = str(error)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        return self._version(name, int(version), self.root, place, MODEL_FILE, files, problem)

    def _bare(self, opened: int, name: str, folder: str) -> SeenVersion:
        problem = ""
        files: tuple[FoundFile, ...] = ()
        try:
            files = tuple(file for file in walk(opened, deep=False) if _is_of_version(file.path))
        except FilesRefused as error:
            problem = str(error)
        return self._version(name, 1, self.root, folder, MODEL_FILE, files, problem)

    def _version(
        self,
        name: str,
        version: int,
        base: str,
        folder: str,
        model_file: str,
        files: tuple[FoundFile, ...],
        problem: str = "",
    ) -> SeenVersion:
        settled = self._quiet.settled(f"{base}/{folder}:{version}", files)
        problem = problem or _model_file_problem(model_file, files)
        return SeenVersion(name, version, base, folder, model_file, files, settled, problem)

    # ---- settings ----

    def _read_settings(self, opened: int, name: str) -> tuple[_Settings, bool]:
        """The settings in force, and whether the files have settled."""
        held = self._settings.get(name, _Settings((), None))
        try:
            files = tuple(found_file(opened, file) for file in _CONFIG_FILES if _exists(opened, file))
            if not self._quiet.settled(f"{name}:settings", files):
                return held, False
            if name not in self._settings or held.files != files:
                held = self._fresh_settings(opened, name, files, held)
        except (DocumentError, FilesRefused) as error:
            return replace(held, problem=str(error)), True
        self._settings[name] = held
        return held, True

    @staticmethod
    def _fresh_settings(opened: int, name: str, files: tuple[FoundFile, ...], held: _Settings) -> _Settings:
        texts: dict[str, str] = {}
        try:
            for file in files:
                texts[file.path] = read_small(opened, file.path, MAX_DOCUMENT_BYTES).decode()
            read = read_config(name, texts.get(YAML_FILE), texts.get(PBTXT_FILE))
        except (DocumentError, UnicodeDecodeError) as error:
            reason = "the settings are not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            return _Settings(files, held.config, problem=reason)
        return _Settings(files, read.config, warnings=read.warnings)


def _version_names(opened: int, names: list[str], warnings: list[str]) -> Iterator[str]:
    """Names of the version folders; a warning for every other folder."""
    count = 0
    for name in names:
        if name.startswith(STAGING_PREFIX) or _is_file(opened, name):
            continue
        if version_of(name) is None:
            warnings.append(f"folder {shown(name)} is passed over: a version is {VERSION_RULE}")
            continue
        count += 1
        if count <= MAX_VERSIONS:
            yield name
    if count > MAX_VERSIONS:
        warnings.append(f"{count} versions; only {MAX_VERSIONS} of them are looked at")


def _model_file_problem(model_file: str, files: tuple[FoundFile, ...]) -> str:
    for file in files:
        if file.path == model_file:
            too_large = file.size > MAX_MODEL_BYTES
            return f"{model_file} is larger than {MAX_MODEL_BYTES} bytes: use external data" if too_large else ""
        if file.path.startswith(f"{model_file}/"):
            return f"{model_file} is a folder; a file is expected"
    return f"no {model_file} in it"


def _named_after(path: Path) -> tuple[str, int]:
    """Name and version of a file given directly: its stem; for `model.onnx` its folder's, NAME/VERSION if it is so."""
    if path.name != MODEL_FILE:
        return path.stem, 1
    version = version_of(path.parent.name)
    return (path.parent.name, 1) if version is None else (path.parent.parent.name, version)


def _belongs(other: str, model: Path) -> bool:
    """Whether a file is the model, or its external data by the names that exporters give: m.onnx.data, m.onnx_data."""
    return other == model.name or other in {f"{model.name}.data", f"{model.name}_data", f"{model.stem}.data"}


def _holds_model(root: str) -> bool:
    """Whether the root is itself the folder of one model; a folder named model.onnx is a model of that name."""
    with opened_folder(root, "") as folder:
        try:
            return not stat.S_ISDIR(os.stat(MODEL_FILE, dir_fd=folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False


def _is_of_version(name: str) -> bool:
    """Whether a file beside a bare model is a part of it: not its settings, and not those being written."""
    return name not in _CONFIG_FILES and not name.startswith(STAGING_PREFIX)


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_file(folder: int, name: str) -> bool:
    """Whether the entry is no folder; a link counts as one, so that it is named in a refusal."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return True
    return not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
