"""What changes when one policy replaces another: for `policy plan`, the audit, and people who decide. Pure.

It answers three questions: who moves to another variant, which rules differ, and whether evidence begins anew.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from router import slots as tables
from router.hashing import SLOTS
from router.policy import Match, Rule, TrafficPolicy
from router.quantities import percent_text
from router.rollout_document import Metrics


class Share(Struct, frozen=True):
    """Slots of one variant before and after."""

    variant: str
    before: int
    after: int


class PolicyDiff(Struct, frozen=True):
    """The difference of two policies.

    Attributes:
        first: the model had no policy before.
        shares: every variant of either, in document order, those of the new policy first; empty where a rollout that
            goes on keeps them.
        models: sentences on variants that are new, gone, or answer with another model.
        moved_slots: slots of the default split that get another owner; a variant that is renamed with its model, as a
            promoted canary is, keeps its units.
        moved_share: share of units that get another variant by the default split: moved_slots / 10,000, or, where
            all units are shared out anew, the share that is expected to change.
        rerandomised: why all units are shared out anew; "" = they are not.
        slots: the new table in run-length form.
        rules: sentences on rules that are added, removed, changed or in another order.
        new_rollout: why evidence begins anew; empty = a running rollout goes on.
        other: top-level parts of the document that differ.
        warnings: rules that can never decide, and what the caller adds.
    """

    first: bool
    shares: tuple[Share, ...]
    models: tuple[str, ...]
    moved_slots: int
    moved_share: float
    rerandomised: str
    slots: str
    rules: tuple[str, ...]
    new_rollout: tuple[str, ...]
    other: tuple[str, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The same in sentences."""
        found = [
            f"{share.variant}: {percent_text(share.before)} -> {percent_text(share.after)}"
            for share in self.shares
            if share.before != share.after
        ]
        if self.first:
            found.append("the model had no policy before")
        elif self.rerandomised:
            found.append(f"all units are shared out anew ({self.rerandomised}): {self.moved_share:.2%} change variant")
        else:
            found.append(f"units that move: {percent_text(self.moved_slots)}")
        found += [*self.models, *self.rules]
        found += [f"a new rollout begins: {reason}" for reason in self.new_rollout]
        found += [f"{part} differs" for part in self.other]
        return found + [f"warning: {warning}" for warning in self.warnings]


def compare(
    old: TrafficPolicy | None,
    old_slots: bytes | None,
    new: TrafficPolicy,
    *,
    digests: Mapping[str, str] | None = None,
) -> PolicyDiff:
    """What `new` changes.

    Args:
        old, old_slots: the policy in force and its table of the default split; None = there is none.
        digests: model reference -> content digest; a reference that is not in it stands for itself.

    Raises:
        ValueError: one of `old` and `old_slots` without the other.
    """
    if (old is None) != (old_slots is None):
        raise ValueError("expected a policy and its table, or neither")
    after = next_slots(old, old_slots, new, digests=digests)
    before_by_name = {} if old is None or old_slots is None else _shares(old, old_slots)
    after_by_name = _shares(new, after)
    names = list(dict.fromkeys([*after_by_name, *before_by_name]))
    shares = tuple(Share(name, before_by_name.get(name, 0), after_by_name.get(name, 0)) for name in names)
    anew = "" if old is None else _rerandomised(old, new)
    moved_slots = 0
    if old is not None and old_slots is not None:
        moved_slots = tables.moved(_carried(old, old_slots, new, digests or {}), after)
    moved_share = moved_slots / SLOTS
    if anew:
        moved_share = tables.rerandomised([share.before for share in shares], [share.after for share in shares])
    return PolicyDiff(
        first=old is None,
        shares=shares,
        models=() if old is None else tuple(_model_changes(old, new)),
        moved_slots=moved_slots,
        moved_share=moved_share,
        rerandomised=anew,
        slots=tables.to_text(after, new.names),
        rules=tuple(_rule_changes(() if old is None else old.spec.rules, new.spec.rules)),
        new_rollout=() if old is None else tuple(new_rollout_reasons(old, new, digests or {})),
        other=() if old is None else tuple(_other_parts(old, new)),
        warnings=tuple(unreachable(new.spec.rules)),
    )


def next_slots(
    old: TrafficPolicy | None, old_slots: bytes | None, new: TrafficPolicy, *, digests: Mapping[str, str] | None = None
) -> bytes:
    """The table of the default split that a new document leads to: the fewest units move from the one in force.

    A rollout that goes on keeps the table that its steps have made. Arguments as in `compare`.
    """
    counts = new.counts()
    if old is None or old_slots is None:
        return tables.fresh(counts)
    kept = _carried(old, old_slots, new, digests or {})
    goes_on = new.spec.rollout is not None and not new_rollout_reasons(old, new, digests or {})
    if goes_on and tables.GONE not in kept:
        return kept
    return tables.rebalance(kept, counts)


def next_rule_slots(
    old: TrafficPolicy | None,
    old_rule_slots: Mapping[str, bytes],
    new: TrafficPolicy,
    *,
    digests: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """The tables of rules with a split, by rule name: a rule that stays moves the fewest units.

    Args:
        old_rule_slots: tables in force; a rule that is not among them begins with its shares in order.
    """
    found = {}
    for rule in new.spec.rules:
        if rule.route.split is None:
            continue
        counts = new.counts(rule.route.split)
        table = old_rule_slots.get(rule.name)
        if old is None or table is None:
            found[rule.name] = tables.fresh(counts)
        else:
            found[rule.name] = tables.rebalance(_carried(old, table, new, digests or {}), counts)
    return found


def _carried(old: TrafficPolicy, table: bytes, new: TrafficPolicy, digests: Mapping[str, str]) -> bytes:
    """The old table in the new policy's terms: slots follow their model, else their variant's name, else are GONE."""
    had = {_digest_of(old, name, digests): name for name in old.names}
    now = {_digest_of(new, name, digests): name for name in new.names}
    heirs = []
    for name in old.names:
        same_model = now.get(_digest_of(old, name, digests))
        same_name = name if name in new.names and _digest_of(new, name, digests) not in had else ""
        heirs.append(same_model or same_name)
    return tables.translate(table, heirs, new.names)


def _model_changes(old: TrafficPolicy, new: TrafficPolicy) -> list[str]:
    before = {variant.name: variant.model for variant in old.spec.variants}
    after = {variant.name: variant.model for variant in new.spec.variants}
    found = [f"variant {name} is new: {model}" for name, model in after.items() if name not in before]
    found += [f"variant {name} is gone" for name in before if name not in after]
    return found + [
        f"variant {name}: {before[name]} -> {model}"
        for name, model in after.items()
        if before.get(name, model) != model
    ]


def _shares(policy: TrafficPolicy, table: bytes) -> dict[str, int]:
    return dict(zip(policy.names, tables.counts_of(table, len(policy.names)), strict=True))


def _rerandomised(old: TrafficPolicy, new: TrafficPolicy) -> str:
    """Why every unit gets a new slot; "" = it keeps its own."""
    reasons = []
    if old.salt != new.salt:
        reasons.append("another salt")
    if old.spec.unit.hash != new.spec.unit.hash:
        reasons.append("another hash")
    if old.spec.unit.from_ != new.spec.unit.from_:
        reasons.append("another unit")
    return ", ".join(reasons)


def new_rollout_reasons(old: TrafficPolicy, new: TrafficPolicy, digests: Mapping[str, str]) -> list[str]:
    """Why evidence of a running rollout is no evidence for the new document: other edits keep it."""
    before, after = old.spec.rollout, new.spec.rollout
    if before is None or after is None:
        return [] if after is None else ["there was none"]
    reasons = [f"{what}" for what in _rerandomised(old, new).split(", ") if what]
    for role, was, now in (("stable", old.spec.stable, new.spec.stable), ("canary", before.to, after.to)):
        if _digest_of(old, was, digests) != _digest_of(new, now, digests):
            reasons.append(f"another {role} model")
    if before.analysis.alpha != after.analysis.alpha:
        reasons.append(f"alpha {before.analysis.alpha:g} -> {after.analysis.alpha:g}")
    was_guarded = {guardrail.label: _measure(guardrail) for guardrail in before.analysis.guardrails}
    is_guarded = {guardrail.label: _measure(guardrail) for guardrail in after.analysis.guardrails}
    reasons += [f"guardrail {name} is new" for name in is_guarded if name not in was_guarded]
    reasons += [f"guardrail {name} is gone" for name in was_guarded if name not in is_guarded]
    reasons += [
        f"guardrail {name} has another margin or quantile"
        for name, measure in is_guarded.items()
        if was_guarded.get(name, measure) != measure
    ]
    return reasons


def _measure(guardrail: Metrics) -> tuple[object, ...]:
    """What a guardrail's statistic is made of, defaults filled in."""
    return (guardrail.metric, guardrail.quantile, guardrail.ratio, guardrail.absolute, guardrail.max)


def _digest_of(policy: TrafficPolicy, variant: str, digests: Mapping[str, str]) -> str:
    model = policy.spec.variants[policy.names.index(variant)].model
    return digests.get(model, model.rpartition("@")[2] if "@sha256:" in model else model)


def _rule_changes(old: Sequence[Rule], new: Sequence[Rule]) -> list[str]:
    before = {rule.name: rule for rule in old}
    after = {rule.name: rule for rule in new}
    found = [f"rule {name} is new" for name in after if name not in before]
    found += [f"rule {name} is gone" for name in before if name not in after]
    for name, rule in after.items():
        was = before.get(name)
        if was is not None and was != rule:
            parts = [part for part in ("match", "route", "analysed") if getattr(was, part) != getattr(rule, part)]
            found.append(f"rule {name}: {' and '.join(parts)} changed")
    if [name for name in before if name in after] != [name for name in after if name in before]:
        found.append("rules stand in another order")
    return found


def _other_parts(old: TrafficPolicy, new: TrafficPolicy) -> list[str]:
    skipped = ("split", "rules", "variants")
    parts = [
        f"spec.{field.encode_name}"
        for field in msgspec.structs.fields(old.spec)
        if field.name not in skipped and getattr(old.spec, field.name) != getattr(new.spec, field.name)
    ]
    return parts + (["metadata.labels"] if old.metadata.labels != new.metadata.labels else [])


def unreachable(rules: Sequence[Rule]) -> list[str]:
    """Sentences on rules that can never decide, because an earlier one takes all that they match.

    Only what is plain to see: each alternative holds all conditions of an alternative before it.
    """
    found = []
    seen: list[tuple[str, frozenset[bytes]]] = []
    for rule in rules:
        alternatives = [_conditions(match) for match in rule.match]
        takers = [next((name for name, before in seen if before <= conditions), None) for conditions in alternatives]
        if all(taker is not None for taker in takers):
            found.append(f"rule {rule.name} never decides: rule {takers[0]} before it takes all that it matches")
        seen += [(rule.name, conditions) for conditions in alternatives]
    return found


def _conditions(match: Match) -> frozenset[bytes]:
    found = []
    for kind in match.__struct_fields__:
        for name, test in getattr(match, kind).items():
            key = name.lower() if kind == "headers" else name
            found.append(msgspec.json.encode([kind, key, test]))
    return frozenset(found)
