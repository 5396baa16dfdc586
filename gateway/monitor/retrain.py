"""Asking for a new training: whether, when and how often. Pure; no clock, no I/O. The requests: `retraincalls`.

A drift alarm must never train in a loop. So: performance has suffered, not inputs alone (`Attribution.retrain`); one
request per incident and version (the key), which targets use to drop repetitions; a cool-down; a cap per day; with
`approval: manual` a person says yes first; with `dry_run` everything but the sending happens.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from gateway.monitor.attribution import Attribution
from gateway.monitor.incidents import Incident

Preset = Literal["airflow", "prefect", "kubeflow", "github", "webhook"]
Status = Literal["pending", "rejected", "expired", "sending", "sent", "failed", "dry_run"]
Outcome = Literal["not_needed", "duplicate", "waiting", "cooling_down", "capped", "pending", "dry_run", "send", "retry"]
KEPT: Final = 100
DAY_S: Final = 86_400.0
PENDING_S: Final = 7 * DAY_S
"""After this a request that nobody approved is out of date."""
RETRY_S: Final = 900.0
RETRIES: Final = 5
"""Deliveries of one request, each with attempts of its own."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how retraining is asked for.

    Attributes:
        url: base address of the target.
        target: airflow: the DAG's id; prefect: FLOW/DEPLOYMENT; kubeflow: PIPELINE_ID or PIPELINE_ID/VERSION_ID;
            github: OWNER/REPOSITORY; webhook: nothing.
        secret_env, secret_file: name of a variable or a file that holds the token, the password of `user`, or (webhook)
            the secret of the signature. The value itself never stands in settings.
        user: airflow and prefect: name with the password; kubeflow: `kubeflow-userid`.
        parameter: name under which the target gets the facts.
        cooldown_s: between two requests for a model.
        per_day: requests for a model within 24 hours.
        dry_run: decide, count and tell, but do not send.
        approval: "manual" = a person has to approve each request.
    """

    preset: Preset
    url: str = ""
    target: str = ""
    secret_env: str = ""
    secret_file: str = ""
    user: str = ""
    parameter: str = "tidegate"
    cooldown_s: float = DAY_S
    per_day: int = 1
    dry_run: bool = False
    approval: Literal["auto", "manual"] = "auto"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Why: what the target gets. No rows and no values of features.

    Attributes:
        reference: id of the reference that the model drifted from.
        metric: that has lost most of what it may lose.
        estimated_drop, realised_drop: of the metric named, below the reference; None = not known of that time.
        window_from_s, window_to_s: the windows that justify it; Unix time.
        rows: in these windows: decisions, or labels where it came true.
    """

    model: str
    version: str
    incident: str
    verdict: str
    sentence: str
    signals: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    reference: str = ""
    metric: str = ""
    estimated_drop: float | None = None
    realised_drop: float | None = None
    window_from_s: float = 0.0
    window_to_s: float = 0.0
    rows: int = 0

    @property
    def key(self) -> str:
        """The same for the same incident and version: 32 hexadecimal digits."""
        return hashlib.sha256("\0".join((self.model, self.version, self.incident)).encode()).hexdigest()[:32]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request and what became of it.

    Attributes:
        at_s: when it was decided on.
        counted_s: from when the cool-down runs: when it was to be sent; 0 = never.
        by: who approved or rejected it.
        note: the answer, or why it failed.
        deliveries: begun so far.
    """

    key: str
    facts: Facts
    status: Status
    at_s: float
    counted_s: float = 0.0
    by: str = ""
    note: str = ""
    deliveries: int = 0
    last_s: float = 0.0


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for one model, oldest first; bounded.

    Attributes:
        refused: key and reason of the last refusal: one that is offered again at each turn is counted once.
        counts: outcome -> how often, for `tidegate_retrain_requests_total`.
    """

    asked: tuple[Asked, ...] = ()
    refused: tuple[str, str] = ("", "")
    counts: dict[str, int] = {}

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def find(self, key: str) -> Asked | None:
        """The request with this key."""
        return next((one for one in self.asked if one.key == key), None)


def requests_of(value: Any) -> Requests:
    """What `Requests.plain` gave. Raises ValueError (msgspec.ValidationError): it is something else."""
    return msgspec.convert(value, Requests)


def facts_of(incident: Incident, version: str, **more: Any) -> Facts:
    """Facts from an incident.

    Args:
        more: other fields of `Facts`.
    """
    ours = [alarm for alarm in incident.alarms if alarm.version == version]
    drifted = [alarm for alarm in ours if alarm.signal == "input_drift"]
    return Facts(
        model=incident.model,
        version=version,
        incident=incident.id,
        verdict=incident.attribution.verdict,
        sentence=incident.attribution.sentence,
        signals=tuple(dict.fromkeys(alarm.signal for alarm in ours)),
        features=tuple(dict.fromkeys(key for alarm in drifted for key in alarm.keys)),
        **more,
    )


def offer(
    requests: Requests, settings: Settings, attribution: Attribution, facts: Facts, now_s: float
) -> tuple[Requests, Outcome]:
    """Decide on a request. Ask at each turn of an open incident: repetitions cost nothing.

    Returns:
        The next state and what came of it; "send" and "retry" = deliver the request `facts.key` and tell `delivered`.
    """
    requests = _expired(requests, now_s)
    known = requests.find(facts.key)
    if known is not None:
        if _may_retry(known, now_s) and not settings.dry_run:
            return _counted(_changed(requests, _begun(known, now_s)), "retry"), "retry"
        return requests, "duplicate"
    if not attribution.retrain:
        return requests, "not_needed"
    refused = _refused(requests, settings, now_s)
    if refused is not None:
        if requests.refused == (facts.key, refused):
            return requests, refused
        return _counted(msgspec.structs.replace(requests, refused=(facts.key, refused)), refused), refused
    asked = Asked(key=facts.key, facts=facts, status="pending", at_s=now_s)
    if settings.approval == "manual":
        return _counted(_added(requests, asked), "pending"), "pending"
    requests, outcome = _released(_added(requests, asked), asked, settings, now_s)
    return _counted(requests, outcome), outcome


def approve(requests: Requests, settings: Settings, key: str, by: str, now_s: float) -> tuple[Requests, Outcome]:
    """A person says yes.

    Args:
        by: name of the person's key.

    Raises:
        ValueError: no such request, or it does not wait.
    """
    requests = _expired(requests, now_s)
    asked = _waiting(requests, key)
    requests, outcome = _released(requests, msgspec.structs.replace(asked, by=by), settings, now_s)
    return _counted(requests, outcome), outcome


def reject(requests: Requests, key: str, by: str, now_s: float) -> Requests:
    """A person says no. Raises ValueError: no such request, or it does not wait."""
    requests = _expired(requests, now_s)
    asked = msgspec.structs.replace(_waiting(requests, key), status="rejected", by=by, last_s=now_s)
    return _counted(_changed(requests, asked), "rejected")


def delivered(requests: Requests, key: str, *, ok: bool, note: str, now_s: float) -> Requests:
    """What came of a delivery; `note` for people, without secrets."""
    asked = requests.find(key)
    if asked is None:
        return requests
    status: Status = "sent" if ok else "failed"
    asked = msgspec.structs.replace(asked, status=status, note=note[:500], last_s=now_s)
    return _counted(_changed(requests, asked), status)


def resumed(requests: Requests) -> Requests:
    """After a restart: a delivery that was under way may or may not have arrived; it is tried again by the same key."""
    return _each(
        requests,
        lambda one: (
            msgspec.structs.replace(one, status="failed", note="the controller ended during the delivery")
            if one.status == "sending"
            else one
        ),
    )


def _released(requests: Requests, asked: Asked, settings: Settings, now_s: float) -> tuple[Requests, Outcome]:
    asked = msgspec.structs.replace(asked, counted_s=now_s)
    if settings.dry_run:
        return _changed(requests, msgspec.structs.replace(asked, status="dry_run", last_s=now_s)), "dry_run"
    return _changed(requests, _begun(asked, now_s)), "send"


def _begun(asked: Asked, now_s: float) -> Asked:
    return msgspec.structs.replace(asked, status="sending", deliveries=asked.deliveries + 1, last_s=now_s)


def _may_retry(asked: Asked, now_s: float) -> bool:
    return asked.status == "failed" and asked.deliveries < RETRIES and now_s - asked.last_s >= RETRY_S


def _refused(requests: Requests, settings: Settings, now_s: float) -> Outcome | None:
    if any(one.status == "pending" for one in requests.asked):
        return "waiting"
    counted = [one.counted_s for one in requests.asked if one.counted_s]
    if counted and now_s - max(counted) < settings.cooldown_s:
        return "cooling_down"
    if sum(now_s - at < DAY_S for at in counted) >= settings.per_day:
        return "capped"
    return None


def _waiting(requests: Requests, key: str) -> Asked:
    asked = requests.find(key)
    if asked is None:
        raise ValueError(f"there is no request {key[:64]!r}")
    if asked.status != "pending":
        raise ValueError(f"request {key} does not wait for an approval: {asked.status}")
    return asked


def _expired(requests: Requests, now_s: float) -> Requests:
    def aged(one: Asked) -> Asked:
        old = one.status == "pending" and now_s - one.at_s >= PENDING_S
        return msgspec.structs.replace(one, status="expired", last_s=now_s) if old else one

    return _each(requests, aged)


def _each(requests: Requests, change: Callable[[Asked], Asked]) -> Requests:
    return msgspec.structs.replace(requests, asked=tuple(map(change, requests.asked)))


def _added(requests: Requests, asked: Asked) -> Requests:
    return msgspec.structs.replace(requests, asked=(*requests.asked, asked)[-KEPT:])


def _changed(requests: Requests, asked: Asked) -> Requests:
    return _each(requests, lambda one: asked if one.key == asked.key else one)


def _counted(requests: Requests, what: str) -> Requests:
    return msgspec.structs.replace(requests, counts={**requests.counts, what: requests.counts.get(what, 0) + 1})
