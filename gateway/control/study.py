"""What an experiment is, and what was in force while it ran: read from its policy, kept beyond it. Pure.

An epoch is a span in which everything was randomised alike: same variants, shares, rules and salt. Values are compared
within an epoch and never pooled over two: a ramp mixes early days with a small arm (Simpson's paradox). Another unit,
salt, control, set of goals or variants is another experiment, and begins anew.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from gateway.control.documents import killed_in
from gateway.control.record import PolicyRecord
from router import slots as tables
from router.compiled import compile_policy
from router.policy import TrafficPolicy
from router.rollout_document import Goal

MOST_REVISIONS: Final = 1_024
MOST_EPOCHS: Final = 64
"""What came before is not compared any more."""


class StudyGoal(Struct, frozen=True, kw_only=True):
    """As `router.rollout_document.Goal`, its name without `reward.`."""

    name: str
    type: str
    direction: str
    mde: float | None = None
    primary: bool = False


class Lane(Struct, frozen=True, kw_only=True):
    """One split of an epoch.

    Attributes:
        rule: "" = the default split.
        randomised: its requests are evidence.
        shares: slots per variant.
    """

    rule: str
    randomised: bool
    shares: tuple[int, ...]


class Epoch(Struct, frozen=True, kw_only=True):
    """A span in which everything was randomised alike.

    Attributes:
        lanes: by stratum index, as signed ids and notes count them.
        first_revision, last_revision: of the policy's routing; others may lie between.
        began_ms: Unix time at which it was in force for the first time.
    """

    key: str
    digests: tuple[str, ...]
    lanes: tuple[Lane, ...]
    first_revision: int
    last_revision: int
    began_ms: int


class Study(Struct, frozen=True, kw_only=True):
    """An experiment.

    Attributes:
        identity: another one is another experiment.
        variants: names, as signed ids count them.
        control: index of the variant that the others are compared with.
        sticky: several requests may come from one unit.
        epochs: by key.
        revisions: routing revision -> key of its epoch.
        ended_ms: when the policy stopped to name it; 0 = it runs.
    """

    name: str
    identity: str
    variants: tuple[str, ...]
    versions: tuple[int, ...]
    goals: tuple[StudyGoal, ...]
    control: int
    alpha: float
    expected_units: int
    hypothesis: str
    owner: str
    salt: str
    unit: str
    sticky: bool
    began_ms: int
    ended_ms: int = 0
    epochs: dict[str, Epoch] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def epoch_of(self, revision: int) -> Epoch | None:
        """The epoch of a revision, also by its lower 24 or 32 bits; None = not known."""
        key = self.revisions.get(str(revision))
        return self.epochs.get(key) if key is not None else None


def study_of(record: PolicyRecord, policy: TrafficPolicy, before: Study | None, now_ms: int) -> Study | None:
    """The experiment after a change of its policy; `before` itself when nothing has changed.

    None: the policy never named one.
    """
    experiment = policy.spec.experiment
    if experiment is None:
        if before is None or before.ended_ms:
            return before
        return msgspec.structs.replace(before, ended_ms=now_ms)
    epoch = _epoch(record, policy, now_ms)
    fresh = _study(record, policy, now_ms)
    if before is None or before.identity != fresh.identity:
        return _with(fresh, epoch, record.revision)
    known = before.epochs.get(epoch.key)
    kept = msgspec.structs.replace(
        fresh, began_ms=before.began_ms, epochs=before.epochs, revisions=before.revisions, versions=before.versions
    )
    if known is not None:
        if before.revisions.get(str(record.revision)) == epoch.key and kept == before:
            return before
        epoch = msgspec.structs.replace(known, last_revision=max(known.last_revision, record.revision))
    return _with(kept, epoch, record.revision)


def _with(study: Study, epoch: Epoch, revision: int) -> Study:
    epochs = {**study.epochs, epoch.key: epoch}
    revisions = {**study.revisions, str(revision): epoch.key}
    while len(epochs) > MOST_EPOCHS:
        del epochs[next(iter(epochs))]
    revisions = {number: key for number, key in list(revisions.items())[-MOST_REVISIONS:] if key in epochs}
    return msgspec.structs.replace(study, epochs=epochs, revisions=revisions)


def _epoch(record: PolicyRecord, policy: TrafficPolicy, now_ms: int) -> Epoch:
    table = tables.from_text(record.slots, policy.names)
    compiled = compile_policy(policy, table, killed=frozenset({*record.killed}) - {""})
    lanes = tuple(Lane(rule=one.rule, randomised=one.randomised, shares=one.shares) for one in compiled.strata)
    digests = tuple(pin.digest for pin in record.variants)
    spec = policy.spec
    killed = sorted(killed_in(record, policy))
    text = msgspec.json.encode([record.slots, digests, lanes, spec.rules, killed, policy.salt], order="deterministic")
    key = hashlib.sha256(text).hexdigest()[:12]
    revision = record.revision
    return Epoch(
        key=key, digests=digests, lanes=lanes, first_revision=revision, last_revision=revision, began_ms=now_ms
    )


def _study(record: PolicyRecord, policy: TrafficPolicy, now_ms: int) -> Study:
    spec, experiment = policy.spec, policy.spec.experiment
    assert experiment is not None, "asked before"
    goals = tuple(
        StudyGoal(
            name=_name_of(goal),
            type=goal.type,
            direction=goal.direction,
            mde=goal.mde,
            primary=goal.primary or len(experiment.goals) == 1,
        )
        for goal in experiment.goals
    )
    sources = [one.header or one.cookie or one.input or "" for one in spec.unit.from_]
    return Study(
        name=policy.metadata.name,
        identity=identity_of(policy, [pin.digest for pin in record.variants]),
        variants=policy.names,
        versions=tuple(pin.version for pin in record.variants),
        goals=goals,
        control=policy.names.index(spec.stable),
        alpha=experiment.alpha,
        expected_units=experiment.expected_units,
        hypothesis=experiment.hypothesis,
        owner=experiment.owner,
        salt=policy.salt,
        unit=", ".join(sources) or "each request",
        sticky=bool(spec.unit.from_),
        began_ms=now_ms,
    )


def parts_of(policy: TrafficPolicy, digests: Sequence[str]) -> dict[str, Any]:
    """What makes an experiment this one and not another; {} = the policy names none.

    Args:
        digests: by variant.
    """
    spec, experiment = policy.spec, policy.spec.experiment
    if experiment is None:
        return {}
    return {
        "goals": [(_name_of(goal), goal.type) for goal in experiment.goals],
        "variants": policy.names,
        "models": tuple(digests),
        "stable": spec.stable,
        "unit": spec.unit,
        "salt": policy.salt,
    }


def identity_of(policy: TrafficPolicy, digests: Sequence[str]) -> str:
    """Of the experiment that a policy names. Arguments as above."""
    asked = list(parts_of(policy, digests).values())
    return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()[:16]


def _name_of(goal: Goal) -> str:
    return goal.metric.removeprefix("reward.")


def shares_of(study: Study, group: tuple[str, int]) -> tuple[int, ...]:
    """Slots per variant of a group; all 0 = unknown."""
    epoch, stratum = study.epochs.get(group[0]), group[1]
    if epoch is None or stratum >= len(epoch.lanes):
        return (0,) * len(study.variants)
    return epoch.lanes[stratum].shares


def place_of(study: Study, facts: Mapping[str, Any]) -> tuple[str, int] | None:
    """Group of a prediction that is evidence; None = it was not randomised, or nobody knows any more how.

    Args:
        facts: `revision`, `stratum`, `variant` and `digest` of a signed id.
    """
    stratum, variant = facts["stratum"], facts["variant"]
    epoch = study.epoch_of(facts["revision"])
    if stratum is None or epoch is None or stratum >= len(epoch.lanes) or variant >= len(epoch.digests):
        return None
    if not epoch.lanes[stratum].randomised or not same_digest(epoch.digests[variant], facts["digest"]):
        return None
    return epoch.key, stratum


def same_digest(digest: str, prefix: str) -> bool:
    """Whether a version's digest begins as a signed id says."""
    return digest.removeprefix("sha256:").startswith(prefix)
