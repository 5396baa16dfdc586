"""The TrafficPolicy: one document per model name that says who gets which version. Values and their reading.

`parse` takes what a YAML or JSON parser gives and returns frozen values in which shares are slots of 10,000 and times
are milliseconds. What a field means and its default: docs/policies.md. The parts on rollouts and experiments stand in
`router.rollout_document`.
"""

import hashlib
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, field

from router import patterns
from router.document import PolicyError, Reading, Section, reads
from router.quantities import TOKEN, duration_text, model_name
from router.rollout_document import Experiment, Name, Percent, Rollout
from router.slots import MAX_VARIANTS

MAX_RULES: Final = 64
MAX_SAMPLES_TTL_MS: Final = 30 * 86_400_000

Text = Annotated[str, Meta(max_length=256)]
Key = Annotated[str, Meta(min_length=1, max_length=128)]
Token = Annotated[str, reads("header")]
Split = Annotated[dict[str, int], reads("split")]
Scalar = Text | int | float | bool
Texts = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=256)]

REFUSALS: Final = {
    **dict.fromkeys(
        ("bandit", "bandits"),
        "bandits are not offered: shares that follow results would break the statistics of an experiment",
    ),
    **dict.fromkeys(("layer", "layers"), "layers are not offered yet"),
    **dict.fromkeys(("holdout", "holdouts"), "holdouts are not offered yet"),
    "cuped": "CUPED is not offered yet",
    "sticky": "a sticky store is not offered: the hash of a unit gives it the same variant at every request",
    "promoteWhen": "promotion is by non-inferiority, always: see beta and margin",
    "revision": "the revision is no part of the document: it is sent as If-Match",
    "status": "the status is no part of the document",
}


class Metadata(Section, frozen=True):
    """Whose policy it is.

    Attributes:
        name: the model name whose requests it decides.
        labels: for people; nothing reads them.
    """

    name: Annotated[str, reads("model name")]
    labels: Annotated[dict[str, Text], Meta(max_length=32)] = field(default_factory=dict)


class Variant(Section, frozen=True):
    """A named arm.

    Attributes:
        name: in shares, rules, metrics and answers.
        model: NAME, NAME:VERSION, NAME@ALIAS or NAME@sha256:HEX; resolved to a digest once, when applied.
    """

    name: Name
    model: Annotated[str, reads("model")]


class Source(Section, frozen=True):
    """Where a unit stands in a request: one of three.

    Attributes:
        header: a header's value.
        cookie: a cookie's value.
        input: an input tensor of one element per row, or a named feature column.
    """

    header: Token | None = None
    cookie: Token | None = None
    input: Key | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """Exactly one."""
        if sum(one is not None for one in (self.header, self.cookie, self.input)) != 1:
            yield "", "expected exactly one of header, cookie and input"


class Unit(Section, frozen=True):
    """What is randomised, and what counts as evidence.

    Attributes:
        from: the first that is present; none = each request is a unit.
        missing: what a request without a unit gets: stable, a variant at random (neither counts), or 400.
        hash: how a unit gets its slot: sha1-60, or that of the product that users come from.
        salt: another salt = all units are shared out anew; default: the model name.
    """

    from_: Annotated[tuple[Source, ...], Meta(max_length=8)] = ()
    missing: Literal["stable", "random", "reject"] = "stable"
    hash: Literal["sha1-60", "growthbook-v2", "launchdarkly", "optimizely", "unleash", "flagd-v2"] = "sha1-60"
    salt: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class PlainTextTest(Section, frozen=True):
    """One test of a text.

    Attributes:
        exact: the value.
        prefix: how it begins.
        regex: the whole value; a subset with bounded time.
        in: one of these.
        present: true = is there, whatever it says; false = is not.
    """

    exact: Text | None = None
    prefix: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    regex: Annotated[str, Meta(max_length=1024)] | None = None
    in_: Texts | None = None
    present: bool | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """Exactly one test, and a pattern that may be used."""
        if sum(getattr(self, name) is not None for name in self.__struct_fields__) != 1:
            yield "", f"expected exactly one of {', '.join(self.__struct_encode_fields__)}"
        if self.regex is not None:
            try:
                patterns.compiled(self.regex)
            except ValueError as error:
                yield "regex", str(error)


class TextTest(PlainTextTest, frozen=True):
    """A test of a header, cookie or query parameter.

    Attributes:
        not: the opposite of a test; true also where the value is absent.
    """

    not_: PlainTextTest | None = None


class PlainValueTest(Section, frozen=True):
    """One test of an input's value; numbers may be bounded on two sides.

    Attributes:
        exact: the value; true is no number, and "1" is not 1.
        in: one of these.
        present: true = is there; false = is not.
        gt: greater than this.
        gte: at least this.
        lt: less than this.
        lte: at most this.
    """

    exact: Scalar | None = None
    in_: Annotated[tuple[Scalar, ...], Meta(min_length=1, max_length=256)] | None = None
    present: bool | None = None
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """One kind of test; a lower and an upper bound may stand together."""
        given = {name for name in self.__struct_fields__ if getattr(self, name) is not None}
        bounds = given & {"gt", "gte", "lt", "lte"}
        if bounds == given and bounds:
            if {"gt", "gte"} <= bounds or {"lt", "lte"} <= bounds:
                yield "", "expected at most one lower and one upper bound"
            elif len(bounds) == 2:
                yield from self._order()
        elif len(given) != 1:
            yield "", f"expected one of {', '.join(self.__struct_encode_fields__)}; only bounds may be two"

    def _order(self) -> Iterator[tuple[str, str]]:
        low = self.gt if self.gt is not None else self.gte
        high = self.lt if self.lt is not None else self.lte
        assert low is not None
        assert high is not None
        if high < low or (high == low and not (self.gte is not None and self.lte is not None)):
            yield "", f"nothing lies between {low:g} and {high:g}"


class ValueTest(PlainValueTest, frozen=True):
    """A test of an input's value.

    Attributes:
        not: the opposite of a test; true also where the value is absent.
    """

    not_: PlainValueTest | None = None


class Match(Section, frozen=True):
    """Conditions that all hold.

    Attributes:
        headers: name (in any case) -> test.
        cookies: name -> test.
        query: parameter of the URL -> test.
        input: input tensor or feature column -> test; rows that disagree fail every test.
    """

    headers: Annotated[dict[str, TextTest], Meta(max_length=16)] = field(default_factory=dict)
    cookies: Annotated[dict[str, TextTest], Meta(max_length=16)] = field(default_factory=dict)
    query: Annotated[dict[str, TextTest], Meta(max_length=16)] = field(default_factory=dict)
    input: Annotated[dict[str, ValueTest], Meta(max_length=16)] = field(default_factory=dict)

    def check(self) -> Iterator[tuple[str, str]]:
        """At least one condition, on names that can exist."""
        if not (self.headers or self.cookies or self.query or self.input):
            yield "", "expected at least one condition under headers, cookies, query or input"
        for kind, names in (("headers", self.headers), ("cookies", self.cookies)):
            for name in names:
                if not TOKEN.match(name):
                    yield f"{kind}.{name}", "is not the name of a header or cookie"
        if len({name.lower() for name in self.headers}) < len(self.headers):
            yield "headers", "a header stands twice; their case does not matter"
        if any(name.lower() == "cookie" for name in self.headers):
            yield "headers.cookie", "use cookies, which reads them by name"


class Route(Section, frozen=True):
    """Where a rule sends its requests: one of two.

    Attributes:
        variant: this one gets them all.
        split: shares of variants, as in `spec.split`.
    """

    variant: Name | None = None
    split: Split | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """Exactly one."""
        if (self.variant is None) == (self.split is None):
            yield "", "expected exactly one of variant and split"


class Rule(Section, frozen=True):
    """Requests that are decided apart. The first rule that matches decides.

    Attributes:
        name: in the decision log, reports and the audit.
        match: alternatives: one that holds is enough.
        route: a variant or a split.
        analysed: whether a split counts as evidence; a rule that names a variant never does.
    """

    name: Name
    match: Annotated[tuple[Match, ...], Meta(min_length=1, max_length=16)]
    route: Route
    analysed: bool | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """Nothing that names its variant is randomised."""
        if self.analysed and self.route.variant is not None:
            yield "analysed", "a rule that names a variant is never evidence: nothing is randomised there"

    @property
    def counts(self) -> bool:
        """Whether its requests are evidence."""
        return self.route.split is not None and self.analysed is not False


class Compare(Section, frozen=True):
    """When two answers are the same.

    Attributes:
        argmax: the largest output is in the same place.
        atol: largest absolute difference of two numbers.
        rtol: largest relative difference.
        topk: the k largest outputs are the same, in any order.
    """

    argmax: bool = False
    atol: Annotated[float, Meta(ge=0)] = 1e-3
    rtol: Annotated[float, Meta(ge=0)] = 1e-2
    topk: Annotated[int, Meta(ge=1, le=1000)] | None = None


class Samples(Section, frozen=True):
    """Requests that the shadow answered otherwise, kept with their inputs for people to look at.

    Attributes:
        max: so many on each node, the newest.
        ttl: how long each is kept; up to 30d.
    """

    ttl_ms: Annotated[int, reads("duration")]
    max: Annotated[int, Meta(ge=1, le=1000)] = 100

    def check(self) -> Iterator[tuple[str, str]]:
        """Inputs of requests are not kept for long."""
        if self.ttl_ms > MAX_SAMPLES_TTL_MS:
            yield "ttl", f"expected at most 30d, got {duration_text(self.ttl_ms)}"


class Shadow(Section, frozen=True):
    """A variant that answers unseen, beside the one that answers.

    Attributes:
        variant: who answers unseen.
        percent: share of requests, as a number of percent or a text.
        maxInflight: more at once are left out, and counted.
        compare: when two answers are the same.
        samples: requests to keep that it answers otherwise, with their inputs; none unless asked for.
    """

    variant: Name
    percent_slots: Percent
    max_inflight: Annotated[int, Meta(ge=1, le=4096)] = 32
    compare: Compare = Compare()
    samples: Samples | None = None


class FeedbackWanted(Section, frozen=True):
    """What callers can say of an answer later.

    Attributes:
        ids: answers carry `x-prediction-id`, by which feedback joins. A monitor that waits for labels has them anyway.
    """

    ids: bool = True


class Spec(Section, frozen=True):
    """What is wanted.

    Attributes:
        variants: the arms; one is stable: the rollout's `against`, the experiment's `control`, the one called
            `stable`, or the first.
        split: share of each variant: slots of 10,000, or percent as text; who is not named has none.
        unit: what is randomised.
        rules: requests that are decided apart.
        shadow: a variant that answers unseen.
        rollout: from canary to stable, step by step.
        experiment: an A/B test; not together with a rollout.
        kill: variant -> true: it gets no request, whatever else stands here.
        explicitVersions: callers who name a version: allow, scope (only keys with the scope route), or refuse.
        feedback: what callers can say of an answer later.
    """

    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=MAX_VARIANTS)]
    split: Split
    unit: Unit = Unit()
    rules: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)] = ()
    shadow: Shadow | None = None
    rollout: Rollout | None = None
    experiment: Experiment | None = None
    kill: Annotated[dict[str, bool], Meta(max_length=MAX_VARIANTS)] = field(default_factory=dict)
    explicit_versions: Literal["allow", "scope", "refuse"] = "allow"
    feedback: FeedbackWanted = FeedbackWanted()

    def check(self) -> Iterator[tuple[str, str]]:
        """All that holds between the parts: names exist, roles differ, nothing is said twice."""
        yield from _names_twice("variants", [variant.name for variant in self.variants])
        yield from _names_twice("rules", [rule.name for rule in self.rules])
        models = [variant.model for variant in self.variants]
        for at, model in enumerate(models):
            if model in models[:at]:
                yield (
                    f"variants[{at}].model",
                    f"{model[:160]} is variant {self.variants[models.index(model)].name!r} already",
                )
        unknown = list(self._unknown_variants())
        yield from unknown or self._roles()

    def _unknown_variants(self) -> Iterator[tuple[str, str]]:
        known = list(dict.fromkeys(variant.name for variant in self.variants))
        for path, name in self._mentions():
            if name not in known:
                yield path, f"no variant is called {name[:64]!r}; there are {', '.join(known)}"

    def _mentions(self) -> Iterator[tuple[str, str]]:
        """Every place that names a variant."""
        yield from ((f"split.{name}", name) for name in self.split)
        for at, rule in enumerate(self.rules):
            path = f"rules[{at}].route"
            if rule.route.variant is not None:
                yield f"{path}.variant", rule.route.variant
            yield from ((f"{path}.split.{name}", name) for name in rule.route.split or ())
        if self.shadow is not None:
            yield "shadow.variant", self.shadow.variant
        if self.rollout is not None:
            yield "rollout.to", self.rollout.to
            if self.rollout.analysis.against is not None:
                yield "rollout.analysis.against", self.rollout.analysis.against
        if self.experiment is not None and self.experiment.control is not None:
            yield "experiment.control", self.experiment.control
        yield from ((f"kill.{name}", name) for name in self.kill)

    def _roles(self) -> Iterator[tuple[str, str]]:
        stable = self.stable
        if self.rollout is not None:
            if self.experiment is not None:
                yield "experiment", "not together with a rollout: a ramp changes shares, an experiment needs them fixed"
            if self.rollout.to == stable:
                yield "rollout.to", f"{stable!r} is the variant that the canary is judged against"
            elif self.split.get(stable) != 10_000:
                yield (
                    "split",
                    f"a rollout begins with all users on {stable!r}: its steps give {self.rollout.to!r} a share",
                )
        if (
            self.experiment is not None
            and self.rollout is None
            and len([slots for slots in self.split.values() if slots]) < 2
        ):
            yield "experiment", "needs a split with at least two variants that get users"
        if self.experiment is not None and not self.feedback.ids:
            yield "feedback.ids", "the goals of an experiment come by prediction ids"
        if self.shadow is not None and self.split.get(self.shadow.variant) == 10_000:
            yield "shadow.variant", f"{self.shadow.variant!r} answers everything already: it would shadow itself"
        if self.kill.get(stable):
            yield f"kill.{stable}", "is the variant that the others fall back to; it cannot be killed"

    @property
    def stable(self) -> str:
        """The variant that others fall back to."""
        if self.rollout is not None and self.rollout.analysis.against is not None:
            return self.rollout.analysis.against
        if self.experiment is not None and self.experiment.control is not None:
            return self.experiment.control
        names = [variant.name for variant in self.variants]
        return "stable" if "stable" in names else names[0]


def _names_twice(path: str, names: list[str]) -> Iterator[tuple[str, str]]:
    for at, name in enumerate(names):
        if name in names[:at]:
            yield f"{path}[{at}].name", f"{name!r} stands twice"


class TrafficPolicy(Section, frozen=True):
    """A whole document.

    Attributes:
        apiVersion: tidegate/v1.
        kind: TrafficPolicy.
        metadata: whose policy it is.
        spec: what is wanted.
    """

    api_version: Literal["tidegate/v1"]
    kind: Literal["TrafficPolicy"]
    metadata: Metadata
    spec: Spec

    def check(self) -> Iterator[tuple[str, str]]:
        """Variants are versions of the model that the policy is for."""
        for at, variant in enumerate(self.spec.variants):
            name = model_name(variant.model)
            if name != self.metadata.name:
                message = f"expected a version of {self.metadata.name!r}, which the policy is for, got {name!r}"
                yield f"spec.variants[{at}].model", message

    @property
    def names(self) -> tuple[str, ...]:
        """The variants' names, in the order that slot tables count them."""
        return tuple(variant.name for variant in self.spec.variants)

    @property
    def salt(self) -> str:
        """The salt in force."""
        return self.metadata.name if self.spec.unit.salt is None else self.spec.unit.salt

    def counts(self, split: dict[str, int] | None = None) -> list[int]:
        """Slots per variant index, of the default split or another."""
        shares = self.spec.split if split is None else split
        return [shares.get(name, 0) for name in self.names]


def parse(document: object) -> TrafficPolicy:
    """Read a policy from plain values: dicts with text keys, lists, str, int, float, bool, None.

    Raises:
        PolicyError: with every problem found; what holds between parts is only checked where the parts are right.
    """
    reading = Reading(REFUSALS)
    policy = reading.struct(document, TrafficPolicy, "")
    if policy is None or reading.problems:
        raise PolicyError(reading.problems)
    return policy


def spec_digest(policy: TrafficPolicy) -> str:
    """32 hex digits that are equal for documents that mean the same.

    The order of keys, the way a share or time is written, and labels do not matter.
    """
    text = msgspec.json.encode([policy.metadata.name, policy.spec], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:32]
