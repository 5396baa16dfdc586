"""The parts of a policy document about becoming stable: rollout, analysis, windows, experiment. Values only.

Defaults and rules: docs/policies.md.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from router.document import Section, reads
from router.windows import read_freeze_end, read_weekly

Do = Literal["rollback", "hold", "warn"]
Name = Annotated[str, reads("name")]
Slots = Annotated[int, reads("slots")]
Percent = Annotated[int, reads("percent")]
Duration = Annotated[int, reads("duration")]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Approver = Annotated[str, reads("approver")]
Note = Annotated[str, Meta(min_length=1, max_length=256)]

DEFAULT_RATIO: Final = 1.25
DEFAULT_ABSOLUTE: Final = 0.005
_OF_MONITOR: Final = frozenset({"input_drift", "output_drift"})
"""The drift monitor says when these speak against the canary: no statistics of the rollout's own, so signals only."""
_WITH_QUANTILE: Final = frozenset({"latency", "queue_wait"})
_MAY_HAVE_QUANTILE: Final = _WITH_QUANTILE | {"compute_time"}
DEFAULT_QUANTILE: Final = 0.99
Metric = Literal[
    "error_rate",
    "latency",
    "output_shift",
    "shadow_disagreement",
    "fallback_ratio",
    "queue_wait",
    "compute_time",
    "input_drift",
    "output_drift",
]
_WITH_MAX: Final = frozenset({"shadow_disagreement", "fallback_ratio"})
_GUARDRAILS: Final = _WITH_MAX | {"error_rate", "latency", "output_shift"}


class Approval(Section, frozen=True):
    """A person agrees before the step is left.

    Attributes:
        by: who may: `key:NAME`, `label:NAME` or `group:NAME`, or a bare name, which is either.
        expires: an agreement counts for so long; default: for ever.
    """

    by: Annotated[tuple[Approver, ...], Meta(min_length=1, max_length=16)]
    expires_ms: Duration | None = None


class Hold(Section, frozen=True):
    """What must have come together before a step is left: all of it.

    Attributes:
        minUnits: distinct units in each arm that has traffic, in this step.
        minSamples: requests of the canary in this step.
        minDuration: time under watch in this step.
        approval: a person must agree.
    """

    min_units: Count | None = None
    min_samples: Count | None = None
    min_duration_ms: Duration | None = None
    approval: Approval | None = None


class ShadowStep(Section, frozen=True):
    """The canary answers unseen.

    Attributes:
        percent: share of requests.
        minSamples: compared pairs before the step is left.
    """

    percent_slots: Percent
    min_samples: Count | None = None


class Step(Section, frozen=True):
    """One stage of a rollout: either `setWeight` or `shadow`.

    Attributes:
        setWeight: the canary's share: slots of 10,000, or percent as text.
        shadow: a shadow instead; the canary's share of users stays as it is.
        hold: what must have come together before the step is left.
    """

    set_weight_slots: Slots | None = None
    shadow: ShadowStep | None = None
    hold: Hold | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """Exactly one of the two kinds, with a share above 0."""
        if (self.set_weight_slots is None) == (self.shadow is None):
            yield "", "expected exactly one of setWeight and shadow"
        if self.set_weight_slots == 0:
            yield "setWeight", "expected a share above 0; the canary has none before the first step"
        if self.shadow is not None:
            if self.shadow.percent_slots == 0:
                yield "shadow.percent", "expected a share above 0"
            if self.hold is not None and self.hold.min_units is not None:
                yield "hold.minUnits", "a shadow compares requests: use shadow.minSamples"


class Margin(Section, frozen=True):
    """How much worse is still as good.

    Attributes:
        ratio: canary's rate over stable's; default 1.25.
        absolute: a canary whose error rate is surely below this passes, whatever the ratio; default 0.005.
    """

    ratio: Annotated[float, Meta(ge=1, le=100)] | None = None
    absolute: Share | None = None


class Metrics(Section, frozen=True):
    """What guardrails and signals have in common.

    Attributes:
        metric: what is compared.
        name: in reports and the audit; default: the metric, with its quantile.
        quantile: of latency, queue_wait or compute_time in stable, frozen at the step's begin; slower than that is an
            event. compute_time: of executions of about the same batch size; default 0.99.
        margin: how much worse is still as good.
        max: of shadow_disagreement the largest share of differing answers, of fallback_ratio the largest share of the
            canary's answers that stable had to give; others have none.
    """

    metric: Metric
    name: Name | None = None
    quantile: Annotated[float, Meta(ge=0.5, le=0.9999)] | None = None
    margin: Margin = Margin()
    max: Share | None = None

    @property
    def label(self) -> str:
        """Its name, made from the metric where none is given: `latency-p99`."""
        if self.name is not None:
            return self.name
        return self.metric if self.quantile is None else f"{self.metric}-p{self.quantile * 100:g}"

    @property
    def slow_from(self) -> float:
        """The quantile in force, of metrics that have one."""
        return DEFAULT_QUANTILE if self.quantile is None else self.quantile

    @property
    def ratio(self) -> float:
        """The margin's ratio in force."""
        return DEFAULT_RATIO if self.margin.ratio is None else self.margin.ratio

    @property
    def absolute(self) -> float:
        """The margin's absolute bound in force; error_rate only."""
        return DEFAULT_ABSOLUTE if self.margin.absolute is None else self.margin.absolute

    def check(self) -> Iterator[tuple[str, str]]:
        """What a metric needs and what means nothing to it."""
        if self.quantile is None and self.metric in _WITH_QUANTILE:
            yield "quantile", "is missing"
        if self.quantile is not None and self.metric not in _MAY_HAVE_QUANTILE:
            yield "quantile", f"means nothing to {self.metric}"
        if (self.metric in _WITH_MAX) != (self.max is not None):
            yield "max", "is missing" if self.max is None else f"means nothing to {self.metric}"
        if self.margin.absolute is not None and self.metric != "error_rate":
            yield "margin.absolute", f"means nothing to {self.metric}; it bounds error_rate"
        if self.margin.ratio is not None and self.metric in _WITH_MAX:
            yield "margin.ratio", f"means nothing to {self.metric}; it has max"


class Guardrail(Metrics, frozen=True):
    """Trips = failure."""

    def check(self) -> Iterator[tuple[str, str]]:
        """As any metric, and fit to end a rollout."""
        yield from super().check()
        if self.metric in _OF_MONITOR:
            better = "; the guardrail on outputs is output_shift" if self.metric == "output_drift" else ""
            yield (
                "metric",
                f"{self.metric} is outside the budget for false rollbacks: it can be a signal, not more{better}",
            )
        elif self.metric not in _GUARDRAILS:
            yield "metric", f"{self.metric} differs with the share of traffic by itself: it can be a signal, not more"


class Signal(Metrics, frozen=True):
    """Trips = hold, until it no longer does.

    Attributes:
        outsideAlpha: it rolls back instead, and the budget for false rollbacks says nothing about it.
    """

    outside_alpha: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        """As any metric, and fit to hold a rollout."""
        yield from super().check()
        if self.metric == "output_shift":
            yield "metric", "output_shift is a guardrail; what the monitor says of outputs is the signal output_drift"
        if self.metric == "compute_time" and self.outside_alpha:
            yield "outsideAlpha", "compute_time holds and never rolls back: it depends on how requests were batched"


class NoTraffic(Section, frozen=True):
    """Requests that were expected and did not come.

    Attributes:
        after: time under watch before it is told.
        do: what to do then.
    """

    after_ms: Duration = 600_000
    do: Do = "hold"


class Checks(Section, frozen=True):
    """What to do when the measurement itself looks wrong.

    Attributes:
        srm: what to do when units are not shared out as the policy says.
        noTraffic: the canary gets no requests.
        revisionSkew: what to do when workers or replicas route by another revision.
    """

    srm: Do = "hold"
    no_traffic: NoTraffic = NoTraffic()
    revision_skew: Do = "hold"


class Analysis(Section, frozen=True):
    """How the canary is judged, always against a concurrent control.

    Attributes:
        against: the control; default: the variant `stable`, else the first.
        alpha: budget for false rollbacks of the whole rollout, shared by the guardrails.
        beta: risk of promoting a canary that is worse by the margin.
        minDetect: a step is left only when harm of this ratio would have been found in it.
        guardrails: trip = `onFailure`; one at least.
        signals: trip = hold.
        checks: what to do when the measurement itself looks wrong.
    """

    against: Name | None = None
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.01
    beta: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    min_detect: Annotated[float, Meta(gt=1, le=1000)] = 3.0
    # One at least, which whoever takes a document asks for: what a store has of before has to be readable.
    guardrails: Annotated[tuple[Guardrail, ...], Meta(max_length=16, extra_json_schema={"minItems": 1})] = (
        Guardrail(metric="error_rate"),
    )
    signals: Annotated[tuple[Signal, ...], Meta(max_length=16)] = ()
    checks: Checks = Checks()

    def check(self) -> Iterator[tuple[str, str]]:
        """Names are distinct."""
        seen: set[str] = set()
        kinds: tuple[tuple[str, tuple[Metrics, ...]], ...]
        kinds = (("guardrails", self.guardrails), ("signals", self.signals))
        for kind, metrics in kinds:
            for at, metric in enumerate(metrics):
                if metric.label in seen:
                    yield f"{kind}[{at}]", f"{metric.label!r} stands twice; give each a name of its own"
                seen.add(metric.label)


class OnFailure(Section, frozen=True):
    """What a tripped guardrail does.

    Attributes:
        do: rollback, hold, or warn and go on.
        fallbackToStable: a canary answer that failed is given by stable instead, and counts as the canary's failure.
        keepLoaded: the canary stays in memory so long after it lost its traffic.
    """

    do: Do = "rollback"
    fallback_to_stable: bool = True
    keep_loaded_ms: Duration = 1_800_000


class Freeze(Section, frozen=True):
    """A span of time in which no step advances. Rollback is never frozen.

    Attributes:
        from: its begin, as 2026-12-20T00:00:00+01:00: with the zone's offset.
        until: its end.
        reason: shown to who waits.
    """

    from_: Annotated[str, Meta(max_length=40)]
    until: Annotated[str, Meta(max_length=40)]
    reason: Note = "freeze"

    def check(self) -> Iterator[tuple[str, str]]:
        """Two times with zones, in order."""
        times = {}
        for name, text in (("from", self.from_), ("until", self.until)):
            try:
                times[name] = read_freeze_end(text)
            except ValueError as error:
                yield name, str(error)
        if len(times) == 2 and times["until"] <= times["from"]:
            yield "until", f"expected a time after {self.from_}, got {self.until}"


class Window(Section, frozen=True):
    """When steps may advance. Rollback may at any time.

    Attributes:
        notBefore: spans of the week such as `Mon-Thu 09:00-16:00 Europe/Berlin`; none = any time.
        freeze: spans of time in which no step advances.
    """

    not_before: Annotated[tuple[Note, ...], Meta(max_length=16)] = ()
    freeze: Annotated[tuple[Freeze, ...], Meta(max_length=16)] = ()

    def check(self) -> Iterator[tuple[str, str]]:
        """Every span of the week is one."""
        for at, text in enumerate(self.not_before):
            try:
                read_weekly(text)
            except ValueError as error:
                yield f"notBefore[{at}]", str(error)


class Rollout(Section, frozen=True):
    """From the first shadow to all users.

    Attributes:
        to: the canary: a variant.
        steps: stages, with rising shares.
        analysis: how the canary is judged.
        onFailure: what a tripped guardrail does.
        rollbackWindow: one of so many former stables comes back without steps.
        window: when steps may advance.
        maxDuration: from the beginning, waits and pauses included.
        onTimeout: what to do then: hold, promote or rollback.
        fourEyes: who applied the policy can neither approve nor promote, whichever comes first; a rollout that has
            had it keeps it.
    """

    to: Name
    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=32)]
    analysis: Analysis = Analysis()
    on_failure: OnFailure = OnFailure()
    rollback_window: Annotated[int, Meta(ge=0, le=20)] = 3
    window: Window = Window()
    max_duration_ms: Duration = 604_800_000
    on_timeout: Literal["hold", "promote", "rollback"] = "hold"
    four_eyes: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        """The ramp rises, and each guardrail has a step that it can learn from."""
        before = 0
        for at, step in enumerate(self.steps):
            weight = step.set_weight_slots
            if weight is not None:
                if 0 < weight <= before:
                    yield (
                        f"steps[{at}].setWeight",
                        f"expected more than {before:,} slots of the step before, got {weight:,}",
                    )
                before = max(before, weight)
        users = any(step.set_weight_slots is not None and step.set_weight_slots < 10_000 for step in self.steps)
        shadow = any(step.shadow is not None for step in self.steps)
        for at, guardrail in enumerate(self.analysis.guardrails):
            if guardrail.metric == "shadow_disagreement" and not shadow:
                yield f"analysis.guardrails[{at}]", "needs a shadow step to be judged in"
            if guardrail.metric != "shadow_disagreement" and not users:
                yield f"analysis.guardrails[{at}]", "needs a step with less than 100 % of the users to be judged in"
            if guardrail.metric == "fallback_ratio" and not self.on_failure.fallback_to_stable:
                yield (
                    f"analysis.guardrails[{at}]",
                    "needs onFailure.fallbackToStable: true: without it stable answers nothing that failed there",
                )


class Goal(Section, frozen=True):
    """What an experiment is about.

    Attributes:
        metric: `reward.NAME`, as feedback names it.
        type: proportion (0 or 1 per unit) or mean.
        direction: which way is better.
        mde: smallest effect worth finding, absolute.
        primary: this goal decides; a single goal does in any case.
    """

    metric: Annotated[str, Meta(min_length=1, max_length=72)]
    type: Literal["proportion", "mean"]
    direction: Literal["up", "down"]
    mde: Annotated[float, Meta(gt=0)] | None = None
    primary: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        """A reward with a name."""
        if not self.metric.startswith("reward.") or len(self.metric) == len("reward."):
            yield "metric", f"expected reward.NAME, got {self.metric[:64]!r}"


class Experiment(Section, frozen=True):
    """An A/B test: fixed shares, a report, no promotion by itself.

    Attributes:
        goals: what is compared; one is primary.
        control: the variant that others are compared with; default: the variant `stable`, else the first.
        method: how: the asymptotic confidence sequence.
        alpha: chance that an interval ever misses the truth, however often one looks.
        expectedUnits: per arm; intervals are tightest about there, and right everywhere.
        hypothesis: printed in the report.
        owner: printed in the report.
    """

    goals: Annotated[tuple[Goal, ...], Meta(min_length=1, max_length=16)]
    control: Name | None = None
    method: Annotated[str, reads("method")] = "asympcs"
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    expected_units: Count = 5000
    hypothesis: Annotated[str, Meta(max_length=2048)] = ""
    owner: Annotated[str, Meta(max_length=256)] = ""

    def check(self) -> Iterator[tuple[str, str]]:
        """Distinct goals, one of them primary."""
        metrics = [goal.metric for goal in self.goals]
        for at, metric in enumerate(metrics):
            if metric in metrics[:at]:
                yield f"goals[{at}].metric", f"{metric[:64]!r} stands twice"
        primary = sum(goal.primary for goal in self.goals)
        if primary > 1 or (primary == 0 and len(self.goals) > 1):
            yield "goals", f"expected one primary goal, got {primary}"
