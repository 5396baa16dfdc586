"""A policy ready to decide: immutable, made once per revision, a few dictionary look-ups and one hash per request.

Status that people and rollouts add to the document (slot tables, the shadow's share in force, variants taken out) are
arguments of `compile_policy`; nothing here changes afterwards.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from router import slots as tables
from router.decision import REFUSED, Decision
from router.hashing import SLOTS, placer
from router.policy import Rule, TrafficPolicy
from router.rules import Matcher, Unit, matcher, unit_of
from router.view import View

NO_SHADOW: Final = -1
_WITHOUT_UNIT: Final = 0x40
_OVERRIDDEN: Final = 0x80
_REFUSED_CODE: Final = 0xFF
_OWNERS: Final = bytes(code & 0x1F for code in range(256))
_MARKED: Final = bytes((code & 0x1F) | _WITHOUT_UNIT for code in range(256))
"""Translations of whole tables: code -> owner's index, and -> the same for a request without a unit."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """A split that randomises, or a rule that pins: one line of the evidence counters.

    Attributes:
        rule: its name; "" = the default split.
        randomised: its requests may be evidence.
        shares: slots per variant in force, after overrides.
        canary_weight: canary slots / slots that could go to canary or stable; 0 without a rollout or evidence.
    """

    index: int
    rule: str
    randomised: bool
    shares: tuple[int, ...]
    canary_weight: float


@dataclass(frozen=True, slots=True)
class _Lane:
    """What `decide` reads of a stratum: tables of codes, and what each code means."""

    stratum: int
    rule: str
    table: bytes
    without_unit: bytes
    outcomes: tuple[tuple[int, str, bool, bool], ...]


class CompiledPolicy:
    """One revision of a policy.

    Attributes:
        names: variants, as `Decision.variant` counts them.
        models: their references as the document writes them.
        stable, canary: indices; canary is -1 without a rollout.
        header_names: lower-case names that a view must carry.
        needs_body: a unit or rule reads an input, so the body is decoded first.
        reads_query: a rule reads the URL's query.
        digest: 64 bits; equal documents, tables and shadow shares give equal digests in every process. What was taken
            out (`killed`) is not in it: that may be local.
    """

    __slots__ = (
        "_lanes", "_place", "_rules", "_shadow", "_shadow_slots", "_unit", "canary", "digest", "header_names",
        "models", "names", "needs_body", "policy", "reads_query", "revision", "stable", "strata",
    )  # fmt: skip

    def __init__(
        self,
        policy: TrafficPolicy,
        lanes: list[_Lane],
        rules: list[tuple[Matcher, _Lane]],
        strata: tuple[Stratum, ...],
        *,
        shadow: tuple[int, int],
        digest: int,
        revision: int,
    ) -> None:
        unit = policy.spec.unit
        self.policy = policy
        self.names = policy.names
        self.models = tuple(variant.model for variant in policy.spec.variants)
        self.stable, self.canary = roles(policy)
        self.strata = strata
        self.digest = digest
        self.revision = revision
        self.header_names, self.needs_body, self.reads_query = _reads(policy)
        self._unit: Unit = unit_of(unit.from_)
        self._place = placer(unit.hash, policy.salt)
        self._lanes = lanes
        self._rules = tuple(rules)
        self._shadow, self._shadow_slots = shadow

    def decide(self, view: View) -> Decision:
        """Which variant answers a request that names no version. Total: never raises, whatever the request carries."""
        unit = self._unit(view)
        slot, unit_hash = self._place(view.request_id if unit is None else unit)
        lane = self._lanes[0]
        for matches, routed in self._rules:
            if matches(view):
                lane = routed
                break
        code = lane.without_unit[slot] if unit is None else lane.table[slot]
        variant, name, counted, override = lane.outcomes[code]
        shadow = NO_SHADOW
        if self._shadow_slots and ((unit_hash >> 32) * SLOTS) >> 32 < self._shadow_slots and variant >= 0:
            shadow = self._shadow if variant != self._shadow else NO_SHADOW
        return Decision(
            variant, name, lane.stratum, lane.rule, slot, unit_hash, unit is not None, counted, override, shadow
        )


def roles(policy: TrafficPolicy) -> tuple[int, int]:
    """Indices of stable and canary; canary is -1 without a rollout."""
    rollout = policy.spec.rollout
    canary = -1 if rollout is None else policy.names.index(rollout.to)
    return policy.names.index(policy.spec.stable), canary


def compile_policy(
    policy: TrafficPolicy,
    slots: bytes,
    *,
    revision: int = 0,
    rule_slots: Mapping[str, bytes] | None = None,
    killed: frozenset[str] = frozenset(),
    shadow_slots: int | None = None,
) -> CompiledPolicy:
    """Make a policy ready to decide.

    Args:
        slots: owner of each slot of the default split, as the rollout has it now.
        rule_slots: the same for rules with a split, by rule name; without one a table is made from its shares.
        killed: variants taken out by kill, abort, an open breaker or a missing runtime, beside the document's `kill`.
            Their slots go to stable, rules that pin them do not match, their shadow is off. Stable stays: nothing
            would be left to serve.
        shadow_slots: the share of requests that are shadowed now; None = as the document says. During a rollout
            without `shadow` in the document the shadow is the canary.

    Raises:
        ValueError: a table that is not 10,000 slots of this policy's variants.
    """
    names = policy.names
    stable, canary = roles(policy)
    out = frozenset(
        index for index, name in enumerate(names) if index != stable and (name in killed or policy.spec.kill.get(name))
    )
    split_tables = {"": slots, **_rule_tables(policy, rule_slots or {})}
    for name, table in split_tables.items():
        _check_table(name, table, len(names))
    maker = _Maker(policy, out, stable, canary)
    lanes = [maker.split("", slots, counts=True)]
    rules: list[tuple[Matcher, _Lane]] = []
    for rule in policy.spec.rules:
        pins = rule.route.split is None
        lane = maker.pinned(rule) if pins else maker.split(rule.name, split_tables[rule.name], counts=rule.counts)
        lanes.append(lane)
        if rule.route.variant is None or names.index(rule.route.variant) not in out:
            rules.append((matcher(rule), lane))
    shadow = _shadow(policy, shadow_slots, out)
    digest = _digest(policy, split_tables, shadow_slots)
    return CompiledPolicy(policy, lanes, rules, tuple(maker.strata), shadow=shadow, digest=digest, revision=revision)


class _Maker:
    """Strata in the order of the document, with their tables of codes."""

    def __init__(self, policy: TrafficPolicy, out: frozenset[int], stable: int, canary: int) -> None:
        self.strata: list[Stratum] = []
        self._names = policy.names
        self._missing = policy.spec.unit.missing
        self._out = out
        self._stable = stable
        self._spoiled = canary in out
        self._canary = canary

    def split(self, rule: str, table: bytes, *, counts: bool) -> _Lane:
        heirs = bytes(self._stable | _OVERRIDDEN if index in self._out else index for index in range(256))
        codes = table.translate(heirs)
        owners = codes.translate(_OWNERS)
        shares = tables.counts_of(owners, len(self._names))
        pair = shares[self._canary] + shares[self._stable] if self._canary >= 0 else 0
        weight = shares[self._canary] / pair if pair and counts else 0.0
        self._add(rule, counts, shares, weight)
        return self._lane(rule, codes, self._unknown(owners), counts)

    def pinned(self, rule: Rule) -> _Lane:
        variant = self._names.index(rule.route.variant or "")
        table = bytes([variant]) * SLOTS
        self._add(rule.name, False, tables.counts_of(table, len(self._names)), 0.0)
        return self._lane(rule.name, table, table, False)

    def _add(self, rule: str, counts: bool, shares: list[int], weight: float) -> None:
        self.strata.append(Stratum(len(self.strata), rule, counts, tuple(shares), weight))

    def _unknown(self, owners: bytes) -> bytes:
        """Codes for requests without a unit."""
        if self._missing == "reject":
            return bytes([_REFUSED_CODE]) * SLOTS
        if self._missing == "stable":
            return bytes([self._stable | _WITHOUT_UNIT]) * SLOTS
        return owners.translate(_MARKED)

    def _lane(self, rule: str, table: bytes, without_unit: bytes, counts: bool) -> _Lane:
        outcomes = [(REFUSED, "", False, False)] * 256
        for index, name in enumerate(self._names):
            outcomes[index] = (index, name, counts and not self._spoiled, self._spoiled)
            outcomes[index | _WITHOUT_UNIT] = (index, name, False, self._spoiled)
            outcomes[index | _OVERRIDDEN] = (index, name, False, True)
        return _Lane(len(self.strata) - 1, rule, table, without_unit, tuple(outcomes))


def _rule_tables(policy: TrafficPolicy, given: Mapping[str, bytes]) -> dict[str, bytes]:
    found = {}
    for rule in policy.spec.rules:
        if rule.route.split is not None:
            known = given.get(rule.name)
            found[rule.name] = tables.fresh(policy.counts(rule.route.split)) if known is None else known
    return found


def _check_table(rule: str, table: bytes, variants: int) -> None:
    what = f"the table of rule {rule!r}" if rule else "the table"
    if len(table) != SLOTS:
        raise ValueError(f"{what}: expected {SLOTS} slots, got {len(table)}")
    if max(table) >= variants:
        raise ValueError(f"{what}: expected owners below {variants}, got {max(table)}")


def _shadow(policy: TrafficPolicy, in_force: int | None, out: frozenset[int]) -> tuple[int, int]:
    """(variant's index, slots of 10,000) of the shadow in force."""
    wanted = policy.spec.shadow
    rollout = policy.spec.rollout
    name = wanted.variant if wanted is not None else rollout.to if rollout is not None else None
    if name is None or policy.names.index(name) in out:
        return NO_SHADOW, 0
    documented = wanted.percent_slots if wanted is not None else 0
    return policy.names.index(name), documented if in_force is None else in_force


def _digest(policy: TrafficPolicy, split_tables: Mapping[str, bytes], shadow_slots: int | None) -> int:
    text = msgspec.json.encode([policy.metadata.name, policy.spec, shadow_slots], order="deterministic")
    found = hashlib.blake2b(text, digest_size=8)
    for name in sorted(split_tables):
        found.update(b"\0" + name.encode() + b"\0" + split_tables[name])
    return int.from_bytes(found.digest(), "big")


def _reads(policy: TrafficPolicy) -> tuple[frozenset[bytes], bool, bool]:
    """(header names, whether inputs are read, whether the query is) of units and rules."""
    matches = [match for rule in policy.spec.rules for match in rule.match]
    sources = policy.spec.unit.from_
    names = {source.header.lower().encode() for source in sources if source.header is not None}
    names |= {name.lower().encode() for match in matches for name in match.headers}
    if any(source.cookie is not None for source in sources) or any(match.cookies for match in matches):
        names.add(b"cookie")
    needs_body = any(source.input is not None for source in sources) or any(match.input for match in matches)
    return frozenset(names), needs_body, any(match.query for match in matches)
