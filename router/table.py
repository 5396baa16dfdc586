"""Which version answers a request: an immutable table, swapped as one reference. Pure.

A selector is what stands where the version stands: "" (the model's default), digits (a version), or an alias.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.compiled import CompiledPolicy
from router.errors import UnknownRoute, nearest


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """How one model name answers.

    Attributes:
        default: version served when the caller names none; None = nothing is ready, for `reason`.
        versions: those that may be named.
        aliases: alias -> version.
        waiting: versions that are wanted and do not answer -> why.
    """

    default: int | None
    versions: tuple[int, ...]
    aliases: Mapping[str, int]
    reason: str = ""
    waiting: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """The decision.

    Attributes:
        version: None = the model exists, and what was asked for is not ready.
        explicit: the caller named the version or an alias, so no policy decided.
    """

    name: str
    version: int | None
    explicit: bool
    reason: str = ""


class RoutingTable:
    """Routes of one revision.

    Attributes:
        policies: model name -> its policy; it decides where the caller names no version.
    """

    __slots__ = ("policies", "revision", "routes")

    def __init__(
        self,
        routes: Mapping[str, ModelRoute],
        revision: int,
        policies: Mapping[str, CompiledPolicy] | None = None,
    ) -> None:
        self.routes = routes
        self.revision = revision
        self.policies: Mapping[str, CompiledPolicy] = policies or {}

    def policy_of(self, name: str, selector: str) -> CompiledPolicy | None:
        """The policy that decides a request; None = `decide` does: no policy, or the caller named a version."""
        return None if selector else self.policies.get(name)

    def decide(self, name: str, selector: str) -> Target:
        """Resolve a model name and selector.

        Raises:
            UnknownRoute: no such model, version or alias; the text names the nearest or the known ones.
        """
        route = self.routes.get(name)
        if route is None:
            raise UnknownRoute(
                f"Request for unknown model: {name[:128]!r} is not found{nearest(name, list(self.routes))}"
            )
        if not selector:
            return Target(name, route.default, False, route.reason)
        # Digits mean a version, in the one way that it is written: no leading zero.
        is_version = selector.isascii() and selector.isdigit() and len(selector) <= 18 and selector[0] != "0"
        version = int(selector) if is_version else None
        if version is None:
            version = route.aliases.get(selector)
            if version is None:
                known = ", ".join(sorted(route.aliases)[:20]) or "none"
                raise UnknownRoute(f"model {name!r} has no version or alias {selector[:64]!r}; known aliases: {known}")
        if version not in route.versions and version in route.waiting:
            return Target(name, None, True, f"version {version}: {route.waiting[version]}")
        if version not in route.versions:
            known = ", ".join(str(v) for v in sorted(route.versions)[:20]) or "none"
            raise UnknownRoute(f"model {name!r} has no version {version}; available versions: {known}")
        return Target(name, version, True, route.reason)

    def selectors(self) -> list[tuple[str, str]]:
        """Every (name, selector) that resolves: what a table of URLs is made from."""
        found: list[tuple[str, str]] = []
        for name, route in self.routes.items():
            named = [str(version) for version in route.versions]
            named += [alias for alias, version in route.aliases.items() if version in route.versions]
            found += [(name, selector) for selector in ["", *named]]
        return found
