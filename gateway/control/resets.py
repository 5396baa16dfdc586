"""What a document drops of an experiment: one of another identity begins with nothing. Pure."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.control.documents import Kept
from gateway.control.study import identity_of, parts_of
from router.policy import TrafficPolicy
from runtimes.errors import Conflict

_NOUNS: Final = {"models": "version of a variant", "stable": "control"}


class ExperimentData(Struct, frozen=True, kw_only=True):
    """How much there is of an experiment.

    Attributes:
        rewards: that are kept.
        units: that it met, or has rewards of; estimated where some of them were dropped.
        requests: of those that were randomised.
    """

    identity: str
    rewards: int
    units: int
    requests: int


async def no_data(name: str) -> ExperimentData | None:
    """Of any experiment, where there are none."""
    return None


class Reset(Struct, frozen=True, kw_only=True):
    """That another experiment begins, and what is dropped of the one before.

    Attributes:
        changed: what makes it another one; empty where the one before is in no document any more.
        running: the one before is named by the policy in force: to drop it takes a word.
    """

    changed: tuple[str, ...]
    rewards: int
    units: int
    requests: int
    running: bool

    def line(self) -> str:
        """The same for people."""
        begins = f"the experiment begins anew{self.why}" if self.running else "another experiment begins"
        of = "" if self.running else " of the one before"
        return (
            f"{begins}; {self.rewards:,} rewards{of} are dropped, "
            f"with {self.units:,} units and {self.requests:,} counted requests"
        )

    @property
    def why(self) -> str:
        """What makes it another one, in brackets."""
        return f" ({', '.join(f'another {part}' for part in self.changed)})"

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class ResetNeeded(Conflict):
    """An experiment with data would begin anew, and nobody has said that it shall.

    Attributes:
        in_file: the same for a file of the policy folder, which says it otherwise; without counts, which move on.
    """

    def __init__(self, reset: Reset) -> None:
        super().__init__(
            f"{reset.line()}. Say reset (--reset, or ?reset=true), or end it first, by a document without "
            "spec.experiment, and keep its report"
        )
        self.in_file = (
            f"the experiment would begin anew{reset.why}, and has data: end it first, by a document without "
            "spec.experiment, and keep its report"
        )


def reset_of(
    kept: Kept | None, policy: TrafficPolicy, digests: Sequence[str], data: ExperimentData | None
) -> Reset | None:
    """What a document drops; None = nothing.

    Args:
        kept: what is in force.
        digests: by variant of the document.
        data: of the experiment that runs, or was the last one; None = it has none.
    """
    if data is None or policy.spec.experiment is None or data.identity == identity_of(policy, digests):
        return None
    running = kept is not None and kept.policy.spec.experiment is not None
    return Reset(
        changed=_changed(kept, policy, digests) if kept is not None and running else (),
        rewards=data.rewards,
        units=data.units,
        requests=data.requests,
        running=running,
    )


def check_ended(data: ExperimentData | None) -> None:
    """Raises Conflict when a policy is to be deleted whose experiment runs and has data."""
    if data is not None:
        raise Conflict(
            f"an experiment with {data.rewards:,} rewards, {data.units:,} units and {data.requests:,} counted requests "
            "is running: end it first, by a document without spec.experiment, or say force"
        )


def same_experiment(kept: Kept | None, policy: TrafficPolicy, digests: Sequence[str]) -> bool:
    """Whether a document names the experiment of the policy in force, or none at all."""
    if policy.spec.experiment is None:
        return True
    if kept is None or kept.policy.spec.experiment is None:
        return False
    return identity_of(kept.policy, _digests(kept)) == identity_of(policy, digests)


def _changed(kept: Kept, policy: TrafficPolicy, digests: Sequence[str]) -> tuple[str, ...]:
    before, after = _compared(kept.policy, _digests(kept)), _compared(policy, digests)
    changed = [part for part in before if before[part] != after[part]]
    if "variants" in changed:
        changed = [part for part in changed if part != "models"]  # other variants have other versions
    return tuple(_NOUNS.get(part, f"set of {part}" if part in ("goals", "variants") else part) for part in changed)


def _compared(policy: TrafficPolicy, digests: Sequence[str]) -> dict[str, Any]:
    parts = parts_of(policy, digests)
    return {**parts, "unit": msgspec.structs.replace(parts["unit"], salt=None)}  # which is a part of its own


def _digests(kept: Kept) -> list[str]:
    return [pin.digest for pin in kept.record.variants]
