"""Changes to a repository, each in one step that readers see whole or not at all: an alias, a new version.

An alias is changed in the text of `model.yaml`, so that comments and order stay as their author wrote them; the result
is parsed and compared before it is written.
"""

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from runtimes.errors import Conflict, UnknownModel
from runtimes.registry.cache import copy_files, sync_folder
from runtimes.registry.configfile import YAML_FILE
from runtimes.registry.digest import FilesRefused, copy_hashed, opened_folder, read_small, version_digest, walk
from runtimes.registry.directory import MODEL_FILE, STAGING_PREFIX
from runtimes.registry.names import ALIAS_RULE, NAME_RULE, NameRefused, is_alias, is_name
from runtimes.registry.strictyaml import MAX_DOCUMENT_BYTES, DocumentError, load

_SECTION: Final = "aliases"
_YAML_1_1_WORDS: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
"""Quoted as keys: other tools, and for null this one too, would not read text."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text that is replaced: from `start` to before `end`, in characters."""

    start: int
    end: int
    text: str

    def applied(self, text: str) -> str:
        """The text after the replacement."""
        return text[: self.start] + self.text + text[self.end :]


# ---- the text of model.yaml: pure ----


def with_alias(yaml_text: str | None, alias: str, version: int | None) -> str:
    """The text of a model.yaml with one alias set, or with None removed; everything else means what it meant.

    Args:
        yaml_text: None = there is no file yet.

    Raises:
        NameRefused: `alias` is none.
        DocumentError: the text is not as model.yaml must be, or the change cannot be made in it safely.
    """
    if not is_alias(alias):
        raise NameRefused(f"{alias[:80]!r} is no alias: expected {ALIAS_RULE}")
    assert version is None or version >= 1, "a version is a number from 1"
    text = yaml_text or ""
    before = _document(text)
    aliases = _aliases(before)
    wanted = {key: value for key, value in aliases.items() if key != alias or version is not None}
    if version is not None:
        wanted[alias] = version
    if repr(wanted) == repr(aliases):
        return text
    for candidate in _candidates(text, alias, version, wanted):
        if _means(candidate, before, wanted):
            return candidate
    raise DocumentError("the alias cannot be changed without changing more: edit it by hand", what=YAML_FILE)


def _document(text: str) -> dict[str, Any]:
    document = load(text, YAML_FILE)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise DocumentError("a mapping is expected", what=YAML_FILE)
    return document


def _aliases(document: dict[str, Any]) -> dict[str, Any]:
    aliases = document.get(_SECTION)
    if aliases is None:
        return {}
    if not isinstance(aliases, dict):
        raise DocumentError("a mapping from alias to version is expected", what=YAML_FILE, path=_SECTION)
    return aliases


def _means(text: str, before: dict[str, Any], aliases: dict[str, Any]) -> bool:
    """Whether a text says what was said before, in the same order, and just these aliases."""
    try:
        after = _document(text)
        same_aliases = _aliases(after) == aliases
    except DocumentError:
        return False
    # As text, where 1 is not True and nan is nan.
    rest = [[(key, value) for key, value in document.items() if key != _SECTION] for document in (before, after)]
    return same_aliases and repr(rest[0]) == repr(rest[1])


def _candidates(text: str, alias: str, version: int | None, wanted: dict[str, Any]) -> Iterator[str]:
    """Ways to make the change, the one that touches least first. None of them is trusted."""
    newline = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        # Nothing but comments, or an explicit null.
        yield _ended(text, newline) + _block(alias, version, "", newline)
        yield _block(alias, version, "", newline)
        return
    if root.flow_style and not root.value:
        yield Span(root.start_mark.index, root.end_mark.index, f"{{{_SECTION}: {_flow(wanted)}}}").applied(text)
        return
    section: tuple[Any, Any] | None = next((pair for pair in root.value if pair[0].value == _SECTION), None)
    if section is None and root.flow_style:
        yield Span(root.start_mark.index + 1, root.start_mark.index + 1, f"{_SECTION}: {_flow(wanted)}, ").applied(text)
    elif section is None:
        yield _ended(text, newline) + _block(alias, version, " " * root.start_mark.column, newline)
    else:
        key, value = section
        spans = _in_section(text, key, value, alias, version, wanted, newline)
        yield from (span.applied(text) for span in spans)


def _in_section(
    text: str, key: Any, value: Any, alias: str, version: int | None, wanted: dict[str, Any], newline: str
) -> Iterator[Span]:
    flow = _flow(wanted)
    colon = re.compile(r"\s*:").match(text, key.end_mark.index)
    after_key = colon.end() if colon else key.end_mark.index
    if not isinstance(value, yaml.MappingNode):
        yield Span(after_key, value.end_mark.index, f" {flow}")
        return
    if value.flow_style:
        yield Span(value.start_mark.index, value.end_mark.index, flow)
        return
    pairs: dict[str, tuple[Any, Any]] = {inner[0].value: inner for inner in value.value}
    last = value.value[-1][1]
    if version is None:
        line = _whole_line(text, *pairs[alias])
        # Without its last entry the section would mean null.
        yield line if len(pairs) > 1 else Span(after_key, line.end, f" {{}}{text[after_key : line.start]}")
    elif alias in pairs:
        number = pairs[alias][1]
        yield Span(number.start_mark.index, number.end_mark.index, str(version))
    else:
        end = _line_end(text, last.end_mark.index)
        start = newline if not text[:end].endswith("\n") else ""
        indent = " " * value.start_mark.column
        yield Span(end, end, f"{start}{indent}{_key(alias)}: {version}{newline}")
    yield Span(value.start_mark.index, last.end_mark.index, flow)


def _whole_line(text: str, key: Any, value: Any) -> Span:
    start = text.rfind("\n", 0, key.start_mark.index) + 1
    return Span(start, _line_end(text, value.end_mark.index), "")


def _line_end(text: str, index: int) -> int:
    newline = text.find("\n", index)
    return len(text) if newline < 0 else newline + 1


def _ended(text: str, newline: str) -> str:
    return text if not text or text.endswith("\n") else text + newline


def _block(alias: str, version: int | None, indent: str, newline: str) -> str:
    return f"{indent}{_SECTION}:{newline}{indent}  {_key(alias)}: {version}{newline}"


def _flow(aliases: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{_key(alias)}: {version}" for alias, version in aliases.items()) + "}"


def _key(alias: str) -> str:
    return f'"{alias}"' if alias.lower() in _YAML_1_1_WORDS else alias


# ---- the files ----


def write_alias(root: str | os.PathLike[str], name: str, alias: str, version: int | None) -> None:
    """Set an alias in a model's `model.yaml`, or with None remove it.

    Raises:
        NameRefused, DocumentError: see `with_alias`.
        UnknownModel: the repository has no such folder.
        FilesRefused: the folder or the file is a link, or the file is too long.
        OSError
    """
    with _model_folder(root, name) as folder:
        before = _read(folder)
        after = with_alias(before, alias, version)
        if after != (before or ""):
            _replace(folder, YAML_FILE, after.encode())


def push(root: str | os.PathLike[str], name: str, version: int, source_dir: str | os.PathLike[str]) -> str:
    """Copy a folder with `model.onnx` into a repository as `<root>/<name>/<version>`; give back its digest.

    The same bytes under the same version again: nothing to do. The version appears whole, by a rename.

    Raises:
        NameRefused: `name` is none.
        Conflict: the version is there with other bytes.
        FilesRefused: what lies in the source is not to be served.
        OSError
    """
    _require_name(name)
    assert version >= 1, "a version is a number from 1"
    source = os.path.realpath(source_dir)
    with opened_folder(source, "") as opened:
        seen = walk(opened)
    if not any(file.path == MODEL_FILE for file in seen):
        raise FilesRefused(f"no {MODEL_FILE} in it")
    model = Path(os.path.realpath(root)) / name
    model.mkdir(exist_ok=True)
    with opened_folder(os.path.realpath(root), name):
        pass  # a link is refused before anything is written behind it
    staging = model / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    try:
        staging.mkdir()
        digest = version_digest(copy_files(source, "", seen, staging))
        _make_readable(staging)
        _publish(os.path.realpath(root), name, version, staging, digest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return digest


def _publish(root: str, name: str, version: int, staging: Path, digest: str) -> None:
    with opened_folder(root, name) as folder, _alone(folder):
        try:
            existing = _digest_of(root, f"{name}/{version}")
        except FileNotFoundError:
            os.rename(staging, str(version), dst_dir_fd=folder)
            os.fsync(folder)
            return
    if existing != digest:
        raise Conflict(f"{name}:{version} is there with other bytes; a version never changes, so push the next one")


def _digest_of(base: str, folder: str) -> str:
    with opened_folder(base, folder) as opened:
        return version_digest(copy_hashed(opened, file, None) for file in walk(opened))


def _make_readable(folder: Path) -> None:
    """A repository is shared: its files are read by servers under other users. Private copies are not."""
    for at, _, names in os.walk(folder):
        os.chmod(at, 0o755)
        for name in names:
            os.chmod(os.path.join(at, name), 0o644)
    sync_folder(folder)


@contextmanager
def _model_folder(root: str | os.PathLike[str], name: str) -> Iterator[int]:
    """The folder of a model, held against other writers; the root itself when it is the folder of a single model."""
    _require_name(name)
    base = os.path.realpath(root)
    single = os.path.basename(base) == name and os.path.isfile(os.path.join(base, MODEL_FILE))
    try:
        with opened_folder(base, "" if single else name) as folder, _alone(folder):
            yield folder
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnknownModel(f"the repository has no folder for model {name!r}") from error


@contextmanager
def _alone(folder: int) -> Iterator[None]:
    """Among those of us who write to this folder. Some network file systems cannot lock; then the last one wins."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
    except OSError:
        pass
    yield  # closing the folder gives it back


def _read(folder: int) -> str | None:
    try:
        os.stat(YAML_FILE, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    try:
        return read_small(folder, YAML_FILE, MAX_DOCUMENT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise DocumentError("not UTF-8", what=YAML_FILE) from error


def _replace(folder: int, name: str, content: bytes) -> None:
    temporary = f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o644, dir_fd=folder)
    try:
        with open(file, "wb") as out:
            _keep_mode(folder, name, file)
            out.write(content)
            out.flush()
            os.fsync(file)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def _keep_mode(folder: int, name: str, file: int) -> None:
    try:
        os.fchmod(file, stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode))
    except FileNotFoundError:
        pass


def _require_name(name: str) -> None:
    if not is_name(name):
        raise NameRefused(f"{name[:80]!r} is no model name: expected {NAME_RULE}")
