"""The watched folder: each *.yaml in it is a policy or a Monitor document, and what is in force belongs to the file.

`scan` reads the files, in a thread; `decide` is pure: from what is there to what is to be done; `DocumentFolder` does
it. What is wrong with a file leaves what is in force as it is. A file is tried again when it changes; one that was
refused for something outside it, such as a version that is not there yet, every few seconds. What a rollout or a
monitor does is never written to the file, and a file that was applied once is not applied again before it changes: a
rollback stays one.
"""

import asyncio
import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.control.keepers import Keeper
from gateway.control.reading import Read, read_policy
from runtimes.errors import ServingError

LOOK_S: Final = 1.0
AGAIN_S: Final = 5.0
MOST_FILES: Final = 1_000
POLICY: Final = "TrafficPolicy"
MONITOR: Final = "Monitor"
FILE_BYTES: Final = 64 * 1024
"""As much as the admin port takes of one document."""
_SUFFIXES: Final = (".yaml", ".yml")
_STATE_FILE: Final = "folder.state"
_log: Final = logging.getLogger(__name__)
Signature = tuple[int, int, int]
"""Modified (ns), size, inode."""
InThread = Callable[..., Awaitable[Any]]
Place = tuple[str, str]
"""Kind and model name: where a document is kept."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file as one look saw it.

    Attributes:
        text: "" where it could not be read.
        problem: why not.
    """

    signature: Signature
    text: str = ""
    problem: str = ""


@dataclass(slots=True)
class Known:
    """What is remembered of a file.

    Attributes:
        signature: at the last look.
        digest: of the text that `read` was made of.
        read: None while it cannot be read, has not stopped changing since it came, or is not known yet who keeps it.
        place: of the document that it is; "" for a kind that nobody keeps, or a name that it does not say.
        tried: the text was given to its keeper.
        doubted: before somebody restored a backup, which may not know of it.
        again_s: when a text that was refused may be tried again; None = when it changes.
        unreadable, wrong, refused: what is wrong with the file, with what it says, with putting it in force.
        warnings: what is most likely a slip in what is in force; None = nobody has looked yet.
        told: what was logged last.
    """

    signature: Signature
    digest: str = ""
    read: Read[Any] | None = None
    place: Place = ("", "")
    tried: bool = False
    doubted: bool = False
    again_s: float | None = None
    unreadable: str = ""
    wrong: str = ""
    refused: str = ""
    warnings: list[str] | None = None
    told: str = ""

    @property
    def problem(self) -> str:
        """What is wrong, in words; "" = nothing."""
        return self.unreadable or self.wrong or self.refused


@dataclass(frozen=True, slots=True)
class Todo:
    """What follows from a look.

    Attributes:
        apply: files.
        problems: file -> what is wrong, beside what the keeper says of it.
        orphans: documents whose file is gone -> their owner.
    """

    apply: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    orphans: dict[Place, str] = field(default_factory=dict)


def scan(folder: Path) -> dict[str, Found]:
    """Every document file of a folder. Blocking.

    Raises:
        OSError: the folder cannot be read, or is far too large: that says nothing about its files.
    """
    root = os.path.realpath(folder, strict=True)
    names = sorted(entry for entry in os.listdir(root) if entry.endswith(_SUFFIXES) and not entry.startswith("."))
    if len(names) > 2 * MOST_FILES:
        # Not even their names are kept; and a file that is not looked at has not left.
        raise OSError(errno.EFBIG, f"it has more than {2 * MOST_FILES:,} files")
    # A name goes into logs, the audit and answers, so it has to be text.
    odd = {ascii(name)[1:-1] for name in names if not name.isprintable()}
    names = [name for name in names if name.isprintable()]
    found = {name: _read(root, name) for name in names[:MOST_FILES]}
    found |= {name: Found((0, 0, 0), problem="its name is not printable text") for name in odd}
    for name in names[MOST_FILES:]:
        found[name] = Found((0, 0, 0), problem=f"the folder has more than {MOST_FILES:,} files")
    return found


def _read(root: str, name: str) -> Found:
    # Mounted volumes are links inside the folder (..data); a link that leaves it could show any file of the machine.
    real = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath((root, real)) != root:
        return Found((0, 0, 0), problem="a link that leads out of the folder")
    try:
        with open(os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            facts = os.fstat(file.fileno())
            signature = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if not stat.S_ISREG(facts.st_mode):
                return Found(signature, problem="not a file")
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        return Found((0, 0, 0), problem=f"cannot be read: {error.strerror}")
    if len(content) > FILE_BYTES:
        return Found(signature, problem=f"longer than {FILE_BYTES:,} bytes")
    try:
        return Found(signature, content.decode())
    except UnicodeDecodeError:
        return Found(signature, problem="not UTF-8")


def decide(known: Mapping[str, Known], owners: Mapping[Place, str], applied: Container[str], now_s: float) -> Todo:
    """What is to be done. Pure.

    Args:
        known: every file that is there.
        owners: document -> its owner.
        applied: files that this node has ever applied: only these can be missed, those of other nodes' folders cannot.
    """
    ours = {at: owner.removeprefix("file:") for at, owner in owners.items() if owner.startswith("file:")}
    gone = [at for at, file in ours.items() if file in applied and _has_left(file, at, known)]
    todo = Todo(orphans={at: owners[at] for at in gone})
    by_place: dict[Place, list[str]] = {}
    for file, one in known.items():
        if all(one.place):
            by_place.setdefault(one.place, []).append(file)
    for file, one in known.items():
        read = one.read
        if read is None:
            continue
        others = [other for other in by_place.get(one.place, []) if other != file]
        if others:
            todo.problems[file] = (
                f"{', '.join(sorted(others))} is about {read.name!r} too: one file for each model name and kind"
            )
        elif read.problems:
            todo.problems[file] = "; ".join(str(problem) for problem in read.problems)
        elif not one.tried or (one.again_s is not None and now_s >= one.again_s):
            todo.apply.append(file)
    return todo


def _has_left(file: str, place: Place, known: Mapping[str, Known]) -> bool:
    one = known.get(file)
    if one is None:
        return True
    # A file that is broken now still owns its document; one that is about another model, or of another kind, does not.
    return all(one.place) and one.place != place


class DocumentFolder:
    """Follows the folder.

    Args:
        state_dir: where it is remembered which text of a file was applied.
        in_thread: runs blocking work.
        restored: whether somebody has restored a backup into the store since this node began before.

    Attributes:
        keepers: by kind; None = there will be one, and its files wait.
        known: by file.
        away: why the folder cannot be read; "" = it can.
    """

    def __init__(
        self,
        folder: Path,
        keepers: Mapping[str, Keeper | None],
        state_dir: Path,
        *,
        in_thread: InThread,
        restored: Callable[[], bool],
        now_s: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.folder = folder
        self.keepers = dict(keepers)
        self.known: dict[str, Known] = {}
        self.away = ""
        self._in_thread = in_thread
        self._restored = restored
        self._now_s = now_s
        self._wall_ns = wall_ns
        self._looked = False
        self._state = state_dir / _STATE_FILE
        self._applied: dict[str, str] = self._recall()

    async def run(self) -> None:
        """Look at it for ever. Cancel: a look ends in its thread."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """One look, and what follows from it."""
        try:
            found = await self._in_thread(scan, self.folder)
        except OSError as error:
            self._tell_away(f"the policy folder cannot be read: {error.strerror}")
            return
        self._tell_away("")
        self._take(found)
        for file, one in self.known.items():
            if one.doubted:
                await self._ask_trail(file, one)
        todo = decide(self.known, self._owners(), self._applied, self._now_s())
        for file, one in self.known.items():
            one.wrong = todo.problems.get(file, "")
        for place, owner in todo.orphans.items():
            await self._orphan(place, owner)
        for file in todo.apply:
            await self._apply(file)
        for file, one in self.known.items():
            if one.tried and one.warnings is None and not one.problem:
                await self._warn(file, one)
            if one.problem and one.problem != one.told:
                _log.error("policy_file_refused", extra={"facts": {"file": file, "reason": one.problem[:2000]}})
            one.told = one.problem

    def problem_of(self, kind: str, name: str) -> str:
        """What is wrong with the files that are about a document; "" = nothing."""
        owner = self._owners().get((kind, name), "")
        found = [
            f"{file}: {one.problem}"
            for file, one in sorted(self.known.items())
            if one.problem and (owner == f"file:{file}" or one.place in ((kind, name), ("", name)))
        ]
        return "; ".join(found)

    @property
    def refused(self) -> int:
        """How many files have a problem; the folder itself counts as one."""
        return bool(self.away) + sum(1 for one in self.known.values() if one.problem)

    def shown(self) -> dict[str, Any]:
        """The folder for people and programs."""
        files = [
            {
                "file": file,
                "kind": one.place[0],
                "name": one.place[1],
                "problem": one.problem,
                "warnings": one.warnings or [],
            }
            for file, one in sorted(self.known.items())
        ]
        return {"problem": self.away, "files": files}

    # ---- inside ----

    def _keeper(self, kind: str) -> Keeper | None:
        """Who keeps a kind; None = it is not known yet what is kept."""
        keeper = self.keepers[kind]
        return keeper if keeper is not None and keeper.loaded else None

    def _owners(self) -> dict[Place, str]:
        return {
            (kind, name): owner
            for kind in self.keepers
            if (keeper := self._keeper(kind)) is not None
            for name, owner in keeper.owners().items()
        }

    def _take(self, found: Mapping[str, Found]) -> None:
        """Note what is there; a file is read once it has stopped changing."""
        self.known = {file: one for file, one in self.known.items() if file in found}
        for file, seen in found.items():
            one = self.known.get(file)
            if one is None:
                one = self.known[file] = Known(seen.signature)
                if self._looked or self._wall_ns() - seen.signature[0] < LOOK_S * 1e9:
                    continue
            elif one.signature != seen.signature:
                one.signature = seen.signature
                continue
            self._settled(file, one, seen)
        self._looked = True

    def _settled(self, file: str, one: Known, seen: Found) -> None:
        one.unreadable = seen.problem
        if seen.problem:
            one.read, one.place, one.digest = None, ("", ""), ""
            return
        digest = hashlib.sha256(seen.text.encode()).hexdigest()
        if digest == one.digest:
            return
        one.read, one.place, one.digest = None, ("", ""), ""
        read = read_policy(seen.text)
        kind = read.kind if read.kind in self.keepers else ""
        if kind:
            keeper = self._keeper(kind)
            if keeper is None:
                return  # at the next look
            read = keeper.read(seen.text)
        one.digest, one.read, one.place, one.again_s, one.refused = digest, read, (kind, read.name), None, ""
        one.warnings = None
        one.tried = self._applied.get(file) == digest and self._owners().get(one.place) == f"file:{file}"
        one.doubted = one.tried and self._restored()

    async def _ask_trail(self, file: str, one: Known) -> None:
        """Whether what is in the store now knows of the text: what was rolled back since is not applied again."""
        keeper = self._keeper(one.place[0])
        if keeper is None or one.read is None:
            return
        try:
            one.tried = await keeper.applied(one.place[1], f"file:{file}") == one.read.document
        except ServingError:
            return  # at the next look
        one.doubted = False

    async def _apply(self, file: str) -> None:
        one = self.known[file]
        kind, name = one.place
        keeper = self._keeper(kind)
        assert one.read is not None, "decided by what it says"
        assert keeper is not None, "it has read the text"
        one.tried = True
        try:
            generation, changed = await keeper.put(one.read.document, f"file:{file}")
        except ServingError as error:
            # It was read without a problem, so what is missing is elsewhere: a version, the store.
            one.again_s, one.refused = self._now_s() + AGAIN_S, error.message
            return
        one.again_s, one.refused = None, ""
        self._applied[file] = one.digest
        await self._in_thread(self._remember)
        if changed:
            facts = {"file": file, keeper.noun: name, "generation": generation}
            _log.info(f"{keeper.noun}_applied", extra={"facts": facts})

    async def _warn(self, file: str, one: Known) -> None:
        """Once for each text, and again after a start."""
        keeper = self._keeper(one.place[0])
        if keeper is None or one.read is None:
            return
        one.warnings = await keeper.warnings_of(one.read.document)
        if one.warnings:
            _log.warning(f"{keeper.noun}_file_warns", extra={"facts": {"file": file, "warnings": one.warnings}})

    async def _orphan(self, place: Place, owner: str) -> None:
        """The file is gone: the document stays, and belongs to nobody."""
        kind, name = place
        keeper = self._keeper(kind)
        assert keeper is not None, "it has told the owner"
        file = owner.removeprefix("file:")
        try:
            done = await keeper.orphan(name, owner)
        except ServingError as error:
            _log.warning(f"{keeper.noun}_not_orphaned", extra={"facts": {keeper.noun: name, "reason": error.message}})
            return
        if done:  # otherwise somebody else has written: at the next look
            self._applied.pop(file, None)
            _log.warning(f"{keeper.noun}_orphaned", extra={"facts": {keeper.noun: name, "file": file}})

    def _tell_away(self, problem: str) -> None:
        if problem and problem != self.away:
            _log.error("policy_folder_away", extra={"facts": {"reason": problem}})
        self.away = problem

    def _recall(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return {}

    def _remember(self) -> None:
        temporary = self._state.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(self._applied))
            temporary.replace(self._state)
        except OSError as error:
            _log.error("state_not_written", extra={"facts": {"reason": error.strerror}})
