"""Which of the offered versions a policy selects. Pure: no files, no clock."""

from collections.abc import Sequence
from typing import Final

from runtimes.registry.modelconfig import VersionPolicy

_DEFAULT_LATEST: Final = 1


def selected(policy: VersionPolicy, offered: Sequence[int]) -> tuple[int, ...]:
    """The versions to serve, ascending. A specific version that is not offered is left out; see `missing`."""
    versions = sorted(set(offered))
    if policy.all:
        return tuple(versions)
    if policy.specific:
        return tuple(version for version in versions if version in policy.specific)
    return tuple(versions[-(policy.latest or _DEFAULT_LATEST) :])


def missing(policy: VersionPolicy, offered: Sequence[int]) -> tuple[int, ...]:
    """The versions that the policy names and nobody offers, ascending."""
    # `all` stands above `specific` in `selected`, so nothing can be missing then.
    return () if policy.all else tuple(sorted(set(policy.specific) - set(offered)))
