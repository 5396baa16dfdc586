"""The Monitor document: what the owner of a model asks of its monitor. Every field has a default.

`parse` takes plain values and finds every problem at once; `resolved` shows what is in force. Documents are read with
the same rules as policies: unknown fields, wrong types and foreign units are errors that name their place.
"""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.monitor.labelwords import label_of
from router.document import PolicyError, Problem, Reading, Section, join, reads
from router.quantities import duration_text
from router.schema import schema as schema_of

DAY_MS: Final = 86_400_000
FIRST_WINDOWS: Final = 10
"""Windows whose rows a reference from the first rows has at least: see `REFERENCE_PER_WINDOW` of the significance."""
FIRST_ROWS: Final = 50_000
"""What is suggested: ten windows of the default's rows."""
SHORTEST_WINDOW_MS: Final = 10_000
"""Control looks once a second, so a shorter window would last a tenth more than it says, or worse."""
SLOWEST_PAGE: Final = 6.0
"""The smallest factor of a critical rule of `gateway.monitor.burnrate`, which is not imported for one number."""
_DURATIONS: Final = frozenset(
    {"at_most_one_per_ms", "cooldown_ms", "mature_after_ms", "previous_ms", "time_ms"},
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
Duration = Annotated[int, reads("duration")]
Share = Annotated[float, Meta(ge=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Rows = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s]+$", max_length=2048)]


def _written(name: str) -> str:
    """The name in a document: times are written with their unit (`30d`), so theirs has none."""
    if name == "api_version":
        return "apiVersion"
    return name.removesuffix("_ms") if name in _DURATIONS else name


class Part(Section, frozen=True, rename=_written):
    """Base of everything in a Monitor document."""


class Metadata(Part, frozen=True):
    """Whose monitor it is.

    Attributes:
        name: the model's name.
        labels: for people and tools.
    """

    name: Annotated[str, reads("model name")]
    labels: Annotated[dict[str, str], Meta(max_length=64)] = msgspec.field(default_factory=dict)


class ReferenceFrom(Part, frozen=True):
    """Where the profile comes from that windows are compared with: exactly one of these.

    Attributes:
        model: `reference.npz` beside the version. The word `model` alone says the same.
        file: a file on the node.
        first: `reference.npz` beside the version; where there is none, so many of the first rows that it is asked.
            Such a profile is provisional.
        previous: the span of time before the window.
        champion: what the stable variant is asked in the same window. The word `champion` alone says the same.
    """

    model: bool = False
    file: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    first: Rows | None = None
    previous_ms: Duration | None = None
    champion: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        """One source."""
        given = [bool(self.model), self.file is not None, self.first is not None, self.previous_ms is not None]
        if sum([*given, self.champion]) != 1:
            yield "", "expected exactly one of model, file, first, previous and champion"

    @property
    def mode(self) -> Literal["model", "file", "first", "previous", "champion"]:
        """Which of them."""
        if self.champion:
            return "champion"
        if self.first is not None:
            return "first"
        if self.previous_ms is not None:
            return "previous"
        return "file" if self.file is not None else "model"


class Window(Part, frozen=True):
    """When a span of counts is closed and judged. Windows do not overlap.

    Attributes:
        rows: at so many rows. Never more than a tenth of the reference's.
        time: after so long. With `rows` too: whichever is first, but not before `min_rows`.
    """

    rows: Rows | None = None
    time_ms: Duration | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """One of the two at least, and time enough to look."""
        if self.rows is None and self.time_ms is None:
            yield "", "expected rows, time or both"
        if self.time_ms is not None and self.time_ms < SHORTEST_WINDOW_MS:
            least, got = duration_text(SHORTEST_WINDOW_MS), duration_text(self.time_ms)
            yield "time", f"expected at least {least}, got {got}: counts are looked at once a second"


class FalseAlarms(Part, frozen=True):
    """How often the monitor may be wrong.

    Attributes:
        at_most_one_per: one false alarm in such a time is accepted, over all signals and series of the model.
    """

    at_most_one_per_ms: Duration = 30 * DAY_MS


class Floors(Part, frozen=True):
    """What is too small to matter, however sure it is.

    Attributes:
        psi: population stability index of a feature or of the score.
        quality: rise of the share of rows that are missing, out of range, unseen or of the wrong type.
        performance_drop: fall of a performance metric.
        disparate_impact: ratio of the groups' rates of positive decisions; below it is unfair.
    """

    psi: NonNegative = 0.1
    quality: Share = 0.005
    performance_drop: Share = 0.02
    disparate_impact: Share = 0.8


class Multivariate(Part, frozen=True):
    """Features together: whether rows still fit the principal components of the reference's.

    Attributes:
        sample: share of rows to look at. The word `true` alone says 1.
    """

    sample: Annotated[float, Meta(gt=0, le=1)] = 1.0


class Groups(Part, frozen=True):
    """People who must not be treated worse than others.

    Attributes:
        header: request header that names the group of all rows of a request.
        values: its values that are counted apart; everybody else is one more group.
        min_size: rows of a group that a verdict about it needs.
    """

    header: Annotated[str, reads("header")]
    values: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(min_length=1, max_length=16)]
    min_size: Rows = 100

    def check(self) -> Iterator[tuple[str, str]]:
        """A value stands once, and a header can have it."""
        for at, value in enumerate(self.values):
            if value in self.values[:at]:
                yield f"values[{at}]", f"{value!r} stands twice"
            if value != value.strip(" \t") or _CONTROL.search(value):
                yield (
                    f"values[{at}]",
                    f"no header says {value!r}: blanks at the ends and controls are not sent",
                )


class Labels(Part, frozen=True):
    """What came true, sent later by feedback.

    Attributes:
        positive: value of a label that means the class whose probability the score is.
        negative: value of one that means the other class; "" = every other. What is neither says nothing then.
        min_coverage: share of rows with a label, in each decision class, that a realised metric needs.
        mature_after: age of a prediction at which its label is waited for no longer.
        ids: answers carry `x-prediction-id`, without which no label joins; where a policy wants them they do anyway.
    """

    positive: Annotated[str, Meta(min_length=1, max_length=64)] = "1"
    negative: Annotated[str, Meta(max_length=64)] = ""
    min_coverage: Share = 0.6
    mature_after_ms: Duration = 3_600_000
    ids: bool = True

    def check(self) -> Iterator[tuple[str, str]]:
        """One label cannot mean both."""
        if self.negative and label_of(self.negative, self.positive):
            yield "negative", f"expected another label than `positive`, got {self.negative!r} beside {self.positive!r}"


class Latency(Part, frozen=True):
    """How fast answers are meant to be.

    Attributes:
        slo_ms: an answer within so many milliseconds is good.
        objective: share of answers that are to be good.
        arms_compare: the canary is compared with the stable variant, too, and fires when it is slower.
    """

    slo_ms: Annotated[float, Meta(gt=0, le=3_600_000)] = 50.0
    objective: Annotated[float, Meta(gt=0, lt=1)] = 0.995
    arms_compare: bool = True

    def check(self) -> Iterator[tuple[str, str]]:
        """Something can page: were every answer slow, the budget would burn 1 / (1 - objective) times too fast."""
        if (1.0 - self.objective) * SLOWEST_PAGE > 1.0:
            least = math.ceil((1.0 - 1.0 / SLOWEST_PAGE) * 10_000) / 10_000
            message = f"expected at least {least:g}, got {self.objective:g}: even if every answer were slow"
            yield (
                "objective",
                f"{message}, the budget would not burn {SLOWEST_PAGE:g} times too fast, and nothing would page",
            )


class Actions(Part, frozen=True):
    """What may be done to a rollout.

    Attributes:
        on_drift_of_canary: when only the canary has changed: observe, freeze, rollback or fallback.
        cooldown: between two actions.
    """

    on_drift_of_canary: Literal["observe", "freeze", "rollback", "fallback"] = "observe"
    cooldown_ms: Duration = 1_800_000


class Alerts(Part, frozen=True):
    """Who is told, besides the log.

    Attributes:
        webhook: URL that gets CloudEvents.
        alertmanager: base URL of an Alertmanager.
    """

    webhook: Url | None = None
    alertmanager: Url | None = None


class Retrain(Part, frozen=True):
    """Who is asked to train anew.

    Attributes:
        url: where it goes.
        preset: how the request looks: webhook, airflow, prefect, kubeflow or github.
        target: what is asked there: a DAG, FLOW/DEPLOYMENT, a pipeline or OWNER/REPOSITORY; webhook: nothing.
        secret_file: a file on the node that holds the token, password or signing secret.
        secret_env: a variable of the node that holds it.
        user: whose password it is; kubeflow: the `kubeflow-userid`.
        cooldown: between two requests.
        per_day: requests per day at most.
        dry_run: write the request to the log and send nothing.
        approval: auto sends at once, manual waits for a person.
    """

    url: Url
    preset: Literal["webhook", "airflow", "prefect", "kubeflow", "github"] = "webhook"
    target: Annotated[str, Meta(max_length=256)] = ""
    secret_file: Annotated[str, Meta(max_length=4096)] = ""
    secret_env: Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$", max_length=128)] = ""
    user: Annotated[str, Meta(max_length=128)] = ""
    cooldown_ms: Duration = DAY_MS
    per_day: Annotated[int, Meta(ge=1, le=24)] = 1
    dry_run: bool = False
    approval: Literal["auto", "manual"] = "auto"


class Spec(Part, frozen=True):
    """What is wanted.

    Attributes:
        reference: where the profile comes from; by default the version's own.
        window: when counts are judged.
        min_rows: a window with fewer says "insufficient".
        false_alarms: how often the monitor may be wrong.
        floors: what is too small to matter.
        multivariate: look at features together, too; none = each alone.
        groups: whom to compare; none = no fairness.
        labels: how feedback is read.
        latency: the objective whose budget is watched; none = no latency signal.
        actions: what may be done to a rollout.
        alerts: who is told.
        retrain: who is asked to train anew; none = nobody.
    """

    reference: ReferenceFrom = ReferenceFrom(model=True)
    window: Window = Window(rows=5000)
    min_rows: Rows = 200
    false_alarms: FalseAlarms = FalseAlarms()
    floors: Floors = Floors()
    multivariate: Multivariate | None = None
    groups: Groups | None = None
    labels: Labels = Labels()
    latency: Latency | None = None
    actions: Actions = Actions()
    alerts: Alerts = Alerts()
    retrain: Retrain | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """A window can be large enough, and a reference large enough for a window."""
        if self.window.rows is not None and self.window.rows < self.min_rows:
            yield "window.rows", f"expected at least min_rows, which is {self.min_rows:,}, got {self.window.rows:,}"
        least = FIRST_WINDOWS * (self.min_rows if self.window.rows is None else self.window.rows)
        if self.reference.first is not None and self.reference.first < least:
            yield (
                "reference.first",
                (
                    f"expected the rows of at least {FIRST_WINDOWS} windows, which are {least:,}, got "
                    f"{self.reference.first:,}; {max(least, FIRST_ROWS):,} is a good number"
                ),
            )


class Monitor(Part, frozen=True):
    """A whole document.

    Attributes:
        apiVersion: tidegate/v1.
        kind: Monitor.
        metadata: whose monitor it is.
        spec: what is wanted.
    """

    api_version: Literal["tidegate/v1"]
    kind: Literal["Monitor"]
    metadata: Metadata
    spec: Spec = Spec()


def parse(document: object) -> Monitor:
    """Read a monitor from plain values: dicts with text keys, lists, str, int, float, bool, None.

    Raises:
        router.document.PolicyError: with every problem found, each with its path.
    """
    reading = Reading({})
    monitor = reading.struct(_spelled_out(document, reading), Monitor, "")
    if monitor is None or reading.problems:
        raise PolicyError(reading.problems)
    return monitor


def _spelled_out(document: object, reading: Reading) -> object:
    """Words as the mappings they stand for: `reference: model` and `champion`, `multivariate: true` and `false`."""
    spec = document.get("spec") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(spec, dict):
        return document
    word, together = spec.get("reference"), spec.get("multivariate")
    if isinstance(word, str):
        if word not in ("model", "champion"):
            message = f"expected model, champion or a mapping with file, first or previous, got {word[:64]!r}"
            reading.problem("spec.reference", message)
            word = "model"
        spec = spec | {"reference": {word: True}}
    if isinstance(together, bool):
        spec = spec | {"multivariate": {} if together else None}
    return document | {"spec": spec}


def defaults(name: str) -> Monitor:
    """The monitor of a model that nobody wrote a document for."""
    return Monitor(api_version="tidegate/v1", kind="Monitor", metadata=Metadata(name=name))


def resolved(spec: Spec) -> dict[str, Any]:
    """Path -> value of every setting in force, as it would be written; None = not asked for."""
    found: dict[str, Any] = {}
    _resolve(spec, "", found)
    return found


def _resolve(part: Section, path: str, found: dict[str, Any]) -> None:
    for field in msgspec.structs.fields(type(part)):
        value, name = getattr(part, field.name), join(path, field.encode_name)
        if isinstance(value, ReferenceFrom):
            given = {"file": value.file, "first": value.first, "previous": value.previous_ms}.get(value.mode)
            text = duration_text(value.previous_ms) if value.previous_ms is not None else given
            found[name] = value.mode if text is None else f"{value.mode} {text}"
        elif isinstance(value, Section):
            _resolve(value, name, found)
        elif field.name in _DURATIONS and value is not None:
            found[name] = duration_text(value)
        elif isinstance(value, float) and value == math.floor(value):
            found[name] = int(value)
        else:
            found[name] = list(value) if isinstance(value, tuple) else value


def schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a Monitor document, for editors."""
    found = schema_of(Monitor)
    # Words stand for mappings.
    reference = found["$defs"]["Spec"]["properties"]["reference"]
    mapping = {key: reference.pop(key) for key in ("$ref", "allOf", "anyOf") if key in reference}
    reference["anyOf"] = [mapping, {"enum": ["model", "champion"]}]
    found["$defs"]["Spec"]["properties"]["multivariate"]["anyOf"].append({"type": "boolean"})
    return found


__all__ = ["Monitor", "PolicyError", "Problem", "Spec", "defaults", "parse", "resolved", "schema"]
