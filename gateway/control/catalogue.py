"""What the repository offers, turned into what is wanted: selected, copied, probed, or refused with a reason.

Holds what earlier looks found. Its blocking parts (`look`, `fetch`) run in the repository's thread, one at a time;
everything else runs on the loop and is quick.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from gateway.control.messages import Snapshot, WantedModel
from gateway.control.reconcile import Desired
from runtimes.errors import LoadFailed
from runtimes.registry.cache import CachedVersion, ModelCache
from runtimes.registry.digest import FilesRefused, FoundFile
from runtimes.registry.directory import DirectorySource, Observation, SeenModel, SeenVersion
from runtimes.registry.modelconfig import ModelConfig
from runtimes.registry.probe import ProbeResult
from runtimes.registry.versions import missing, selected

Place = tuple[str, int]
_NOT_YET: Final = frozenset({0})
EVERYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class Fetched:
    """Files of a version as copied, or why they were refused."""

    files: tuple[FoundFile, ...]
    copy: CachedVersion | None
    reason: str = ""


class Catalogue:
    """The repository as this node wants it.

    Args:
        probe: first load of unknown files in a process of its own: (directory, file) -> result.
        explicit: names that are wanted in mode explicit; None = all names are wanted.

    Attributes:
        pins: versions that are wanted whatever the version policy says, by name.
    """

    def __init__(
        self,
        source: DirectorySource,
        cache: ModelCache,
        probe: Callable[[str, str], ProbeResult],
        explicit: set[str] | None,
    ) -> None:
        self._source = source
        self._cache = cache
        self._probe = probe
        self._seen: dict[str, SeenModel] = {}
        self._fetched: dict[Place, Fetched] = {}
        self._generations: dict[Place, int] = {}
        self._restored: dict[Place, WantedModel] = {}
        self._frozen: dict[str, Desired] | None = None
        self.explicit = explicit
        self.pins: dict[str, set[int]] = {}
        self.settled = False
        self.problems: tuple[str, ...] = ()

    # ---- in the repository's thread ----

    def look(self) -> Observation:
        """Scan the repository. Raises SourceAway."""
        return self._source.scan()

    def look_at(self, name: str) -> SeenModel | None:
        """Scan one model now, trusting that nobody writes to it: an operator has said so. Raises SourceAway."""
        return self._source.scan_model(name)

    def fetch(self, seen: SeenVersion) -> Fetched:
        """Copy and probe one version; never raises for what is wrong with the files."""
        try:
            copy = self._cache.store(seen)
            result = self._cache.verdict(copy.digest)
            if result is None:
                result = self._probe(copy.directory, copy.file)
                self._cache.remember(copy.digest, result)
        except LoadFailed as error:
            return Fetched(seen.files, None, error.message)
        except FilesRefused as error:
            return Fetched(seen.files, None, f"fetch: {error}")
        except OSError as error:
            return Fetched(seen.files, None, f"fetch: {error.strerror}")
        if not result.ok:
            return Fetched(seen.files, None, f"{result.stage}: {result.reason}")
        return Fetched(seen.files, copy)

    def evict(self, keep: set[str]) -> None:
        """Bring the cache below its bound; digests in `keep` stay."""
        self._cache.evict(keep)

    # ---- on the loop ----

    def observed(self, observation: Observation) -> None:
        """Take over what a scan saw."""
        self._seen = observation.models
        self.settled = observation.settled
        self.problems = observation.problems

    def observed_one(self, name: str, seen: SeenModel | None) -> None:
        """Take over what a look at one model saw."""
        if seen is None:
            self._seen.pop(name, None)
        else:
            self._seen = {**self._seen, name: seen}

    def seen(self, name: str) -> SeenModel | None:
        """What the last look saw of a name."""
        return self._seen.get(name)

    @property
    def names(self) -> list[str]:
        """Every name in the repository."""
        return sorted(self._seen)

    @property
    def wanted_names(self) -> list[str]:
        """Those that should be served."""
        if self._frozen is not None:
            return sorted(self._frozen)
        if self.explicit is None or EVERYTHING in self.explicit:
            return self.names
        return sorted(self.explicit | set(self.pins))

    def copy_of(self, name: str, version: int) -> tuple[str, str]:
        """Digest of a version's copy, and why there is none; one of the two is empty."""
        done = self._fetched.get((name, version))
        if done is None:
            return "", "it is not in the repository, or its files are still being written"
        return (done.copy.digest, "") if done.copy is not None else ("", done.reason)

    def contract(self, digest: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Inputs and outputs that the first load of these files told; None = it is not known."""
        result = self._cache.verdict(digest)
        return None if result is None else (result.inputs, result.outputs)

    def to_fetch(self) -> Iterator[SeenVersion]:
        """Selected versions that have not been fetched as they are now."""
        for name in self.wanted_names:
            for seen in self._selected(name):
                done = self._fetched.get((name, seen.version))
                if seen.offered and (done is None or (done.files != seen.files and done.copy is None)):
                    yield seen

    def fetched(self, seen: SeenVersion, result: Fetched) -> None:
        """Take over the result of `fetch`; what an earlier control chose stays, whatever the files are now."""
        place = (seen.name, seen.version)
        held = self._restored.pop(place, None)
        if held is not None and (result.copy is None or result.copy.digest != held.digest):
            result = Fetched((), CachedVersion(held.digest, held.directory, held.file, 0))
        self._fetched[place] = result

    def restore(self, models: Iterable[WantedModel]) -> None:
        """Go on from what an earlier control had decided to serve or to hold back."""
        self._restored = {(model.name, model.version): model for model in models}
        self._generations = {place: model.generation for place, model in self._restored.items()}

    def freeze(self, snapshot: Snapshot) -> None:
        """Want what this snapshot wants and what was held back, and never look again."""
        wanted = {(model.name, model.version): model for model in snapshot.models} | self._restored
        self._frozen = {}
        for name, route in snapshot.routes.items():
            targets = tuple(model for place, model in sorted(wanted.items()) if place[0] == name)
            config = targets[0].config if targets else ModelConfig(aliases=route.aliases)
            states = [state for state in snapshot.states if state.name == name]
            failed = {state.version: state.reason for state in states if state.reason and not state.digest}
            failed = {version: reason for version, reason in failed.items() if (name, version) not in wanted}
            self._frozen[name] = Desired(config, targets, frozenset(), failed, frozenset(t.version for t in targets))
        self.settled = True

    def forget(self, name: str) -> None:
        """The name is unloaded: its versions may have other bytes when they come back."""
        self._fetched = {place: done for place, done in self._fetched.items() if place[0] != name}

    def renew(self, name: str) -> None:
        """An operator asks for a load: what failed is tried again."""
        for place, done in list(self._fetched.items()):
            if place[0] == name and done.copy is None:
                del self._fetched[place]

    def load_again(self, place: Place) -> None:
        """The workers failed to load it: the next wish is a new one."""
        self._generations[place] = self._generations.get(place, 0) + 1

    def desired(self) -> dict[str, Desired]:
        """What is wanted now, by name."""
        if self._frozen is not None:
            return {name: self._with_pins(name, desired) for name, desired in self._frozen.items()}
        found: dict[str, Desired] = {}
        for name in self.wanted_names:
            seen = self._seen.get(name)
            if seen is not None:
                found[name] = self._desired(seen)
            elif self.explicit is not None:
                found[name] = Desired(ModelConfig(), failed={})
        # A version that is gone from the repository may come back with other bytes.
        present = {(name, seen.version) for name, model in self._seen.items() for seen in model.versions}
        self._fetched = {place: done for place, done in self._fetched.items() if place in present}
        return found

    def _with_pins(self, name: str, desired: Desired) -> Desired:
        """What was wanted at the start, and what policies want beside it."""
        model, known = self._seen.get(name), {target.version for target in desired.targets}
        if model is None or model.config is None or not self.pins.get(name, set()) - known:
            return desired
        more = [
            self._wanted(seen, done.copy, model.config)
            for seen in model.versions
            if seen.version in self.pins[name] - known
            and (done := self._fetched.get((name, seen.version))) is not None
            and done.copy is not None
        ]
        targets = (*desired.targets, *more)
        return replace(desired, targets=targets, offered=frozenset(target.version for target in targets))

    def by_itself(self, name: str) -> int | None:
        """The version that would answer for a name without its policy; None = it is not known, or there is none."""
        if self._frozen is not None:
            frozen = self._frozen.get(name)
            return max((one.version for one in frozen.targets), default=None) if frozen is not None else None
        model = self._seen.get(name)
        if model is None or model.config is None:
            return None
        return max(selected(model.config.version_policy, [seen.version for seen in model.versions]), default=None)

    def _selected(self, name: str) -> list[SeenVersion]:
        model = self._seen.get(name)
        if model is None or model.config is None:
            return []
        # What is refused at sight keeps its number: a broken version 3 must not be replaced by 2 in silence.
        chosen = set(selected(model.config.version_policy, [seen.version for seen in model.versions]))
        chosen |= self.pins.get(name, set())
        return [seen for seen in model.versions if seen.version in chosen]

    def _desired(self, model: SeenModel) -> Desired:
        config = model.config
        if config is None:
            reason = "; ".join(model.problems)
            # Without a reason its files are still being written.
            return Desired(ModelConfig(), failed={0: reason}) if reason else Desired(ModelConfig(), pending=_NOT_YET)
        targets: list[WantedModel] = []
        pending: set[int] = set()
        failed: dict[int, str] = {}
        for seen in self._selected(model.name):
            done = self._fetched.get((model.name, seen.version))
            if done is not None and done.copy is not None:
                targets.append(self._wanted(seen, done.copy, config))
                if done.files != seen.files and seen.settled:
                    failed[seen.version] = _conflict(seen)
            elif seen.problem and seen.settled:
                failed[seen.version] = f"check: {seen.problem}"
            elif done is not None and done.files == seen.files:
                failed[seen.version] = done.reason
            else:
                pending.add(seen.version)
        offered = frozenset(seen.version for seen in model.versions)
        for version in missing(config.version_policy, sorted(offered)):
            failed.setdefault(version, "check: the version policy names it, but it is not in the repository")
        if not model.versions:
            failed[0] = "; ".join(model.problems) or "no version in it"
        return Desired(config, tuple(targets), frozenset(pending), failed, offered)

    def _wanted(self, seen: SeenVersion, copy: CachedVersion, config: ModelConfig) -> WantedModel:
        generation = self._generations.get((seen.name, seen.version), 0)
        return WantedModel(seen.name, seen.version, copy.digest, copy.directory, copy.file, config, generation)


def _conflict(seen: SeenVersion) -> str:
    return f"conflict: the files of version {seen.version} changed; what serves is unchanged, use a new version number"
