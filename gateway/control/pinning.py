"""What a variant of a policy refers to: a version that is here, copied and probed, with its digest and its contract."""

from gateway.control.service import Service
from runtimes.errors import Conflict
from runtimes.registry.directory import SeenModel

Contract = tuple[tuple[str, ...], tuple[str, ...]]
"""Inputs and outputs, each such as "x FP32 [-1,24]"."""


class Pinning:
    """References to models, resolved in this node's repository."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def pin(self, name: str, reference: str) -> tuple[int, str]:
        """Version and digest that a reference names now.

        Args:
            reference: NAME, NAME:VERSION, NAME@ALIAS or NAME@sha256:HEX.

        Raises:
            Conflict: there is no such version, or it cannot be served, with the reason.
            LoadFailed: the repository is away.
        """
        seen = await self.look_at(name)
        wanted = _digest_in(reference)
        for version in self._candidates(name, seen, reference):
            digest, reason = await self._service.fetched_now(name, version)
            if not wanted and not digest:
                raise Conflict(f"not_ready: version {version} of {name!r}: {reason}")
            if digest and digest == (wanted or digest):
                return version, digest
        raise Conflict(f"not_ready: no version of {name!r} has the digest {wanted}")

    async def look_at(self, name: str) -> SeenModel:
        """A model as it is in the repository now.

        Raises:
            Conflict: it is not there.
            LoadFailed: the repository is away.
        """
        seen = await self._service.look_at(name)
        if seen is None:
            raise Conflict(f"not_ready: {name!r} is not in the repository")
        return seen

    def _candidates(self, name: str, seen: SeenModel, reference: str) -> list[int]:
        """Versions that a reference may mean. Raises Conflict."""
        offered = [version.version for version in seen.versions]
        base, _, alias = reference.partition("@")
        number = base.partition(":")[2]
        if _digest_in(reference):
            return sorted(offered, reverse=True)
        if alias:
            aliases = seen.config.aliases if seen.config else {}
            if alias not in aliases:
                known = ", ".join(sorted(aliases)) or "none"
                raise Conflict(f"not_ready: {name!r} has no alias {alias!r}; known aliases: {known}")
            return [aliases[alias]]
        if number:
            if int(number) not in offered:
                known = ", ".join(map(str, sorted(offered))) or "none"
                raise Conflict(f"not_ready: {name!r} has no version {number}; in the repository: {known}")
            return [int(number)]
        route = self._service.snapshot.routes.get(name)
        if route is None or route.default is None:
            raise Conflict(f"not_ready: no version of {name!r} is ready")
        # Not a version that is only here because a policy names it.
        own = self._service.catalogue.by_itself(name)
        return [own if own in route.versions else route.default]

    def contract(self, digest: str) -> Contract | None:
        """Inputs and outputs of a version, as its first load told them."""
        return self._service.catalogue.contract(digest)


def _digest_in(reference: str) -> str:
    """`sha256:HEX` of a reference that names one; else ""."""
    found = reference.partition("@")[2]
    return found if found.startswith("sha256:") else ""
