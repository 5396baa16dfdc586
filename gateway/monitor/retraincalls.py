"""The request that asks Airflow, Prefect, Kubeflow Pipelines, GitHub or a webhook for a new training. Pure.

Two targets need a question first (`lookup_of`): Airflow for a token when there is a user, Prefect for the id of the
deployment. What the answer holds (`found_in`) goes into the request.

Sources: apache/airflow, api_fastapi/core_api/datamodels/dag_run.py and docs/security/api.rst (3.x); PrefectHQ/prefect,
server/api/deployments.py (3.x); kubeflow/pipelines, backend/api/v2beta1/run.proto; GitHub REST, "Create a repository
dispatch event"; cloudevents/spec, http-webhook.md.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from gateway.monitor.cloudevents import encoded, envelope, moment, signed
from gateway.monitor.retrain import Facts, Preset, Settings

KIND: Final = "model.retrain.requested"
GITHUB: Final = "https://api.github.com"
GITHUB_EVENT: Final = "tidegate-retrain"
NAME_LENGTH: Final = 200
NAMES: Final = 20
LEAST_SECRET: Final = 16
_JSON: Final = {"content-type": "application/json", "accept": "application/json"}
_PARTS: Final[Mapping[Preset, tuple[str, int, int]]] = {
    "airflow": ("the id of a DAG", 1, 1),
    "prefect": ("FLOW/DEPLOYMENT", 2, 2),
    "kubeflow": ("PIPELINE_ID or PIPELINE_ID/VERSION_ID", 1, 2),
    "github": ("OWNER/REPOSITORY", 2, 2),
    "webhook": ("nothing", 0, 0),
}


class Call(NamedTuple):
    """One request. Its text shows no header and no body, which may hold secrets."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None

    def __repr__(self) -> str:
        return f"Call({self.method} {self.url})"


def check(settings: Settings) -> None:
    """Whether the settings can work at all.

    Raises:
        ValueError: they cannot; it begins with the field's name.
    """
    if not (settings.preset == "github" and not settings.url):
        url = urlsplit(settings.url)
        if url.scheme not in ("http", "https") or not url.hostname or not _plain(settings.url):
            raise ValueError("url: expected http:// or https:// and a host")
        if url.username is not None or url.fragment or (url.query and settings.preset != "webhook"):
            raise ValueError("url: expected an address without user, query and fragment")
    what, least, most = _PARTS[settings.preset]
    parts = settings.target.split("/") if settings.target else []
    if not least <= len(parts) <= most or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"target: {settings.preset} expects {what}, got {settings.target!r}")
    if settings.secret_env and settings.secret_file:
        raise ValueError("secret_env, secret_file: expected one of them")
    if not (settings.secret_env or settings.secret_file):
        if settings.preset in ("webhook", "github"):
            raise ValueError(
                f"secret_file: {settings.preset} expects a secret; name a file or a variable that holds it"
            )
        if settings.user and settings.preset != "kubeflow":
            raise ValueError("secret_file: a user has a password; name a file or a variable that holds it")
    if not 1 <= settings.per_day <= 100:
        raise ValueError(f"per_day: expected 1 to 100, got {settings.per_day}")
    if not settings.parameter or not _plain(settings.parameter):
        raise ValueError("parameter: expected a name")
    if not _plain(settings.user) or (settings.user and settings.preset in ("github", "webhook")):
        raise ValueError("user: airflow, prefect and kubeflow know one")


def check_secret(preset: Preset, secret: str) -> None:
    """Whether a secret may stand in a header or sign. Raises ValueError, without the secret."""
    if not _plain(secret):
        raise ValueError("expected printable ASCII without blanks")
    if preset == "webhook" and len(secret) < LEAST_SECRET:
        raise ValueError(f"expected at least {LEAST_SECRET} characters, got {len(secret)}")


def lookup_of(settings: Settings, secret: str = "") -> Call | None:
    """What has to be asked before, if anything."""
    base = settings.url.rstrip("/")
    if settings.preset == "airflow" and settings.user:
        body = {"username": settings.user, "password": secret}
        return Call("POST", f"{base}/auth/token", dict(_JSON), _json(body))
    if settings.preset == "prefect":
        flow, deployment = settings.target.split("/")
        url = f"{base}/deployments/name/{_part(flow)}/{_part(deployment)}"
        return Call("GET", url, {"accept": "application/json", **_prefect_auth(settings, secret)}, None)
    return None


def found_in(preset: Preset, answer: bytes) -> str:
    """The token or the id in the answer to `lookup_of`.

    Raises:
        ValueError: none is there; the message does not repeat the answer.
    """
    names = ("access_token", "jwt_token") if preset == "airflow" else ("id",)
    try:
        body = json.loads(answer)
    except ValueError:
        # Not chained: the error holds the answer.
        raise ValueError("the answer is not JSON") from None
    except RecursionError:
        raise ValueError("the answer is nested too deep") from None
    for name in names:
        value = body.get(name) if isinstance(body, dict) else None
        if isinstance(value, str) and value and _plain(value):
            return value
    raise ValueError(f"the answer has no {' or '.join(names)}")


def request_of(
    preset: Preset,
    settings: Settings,
    facts: Facts,
    *,
    secret: str = "",
    found: str = "",
    source: str = "/tidegate",
    now_s: float = 0.0,
) -> Call:
    """The request: method, URL, headers, body.

    Args:
        secret: the value; `settings` only name it.
        found: from `found_in`, where there was something to look up.
        source: of the event: this node. Webhook only.
        now_s: Unix time. Webhook only.
    """
    if preset == "airflow":
        return _airflow(settings, facts, found or secret)
    if preset == "prefect":
        return _prefect(settings, facts, secret, found)
    if preset == "kubeflow":
        return _kubeflow(settings, facts, secret)
    if preset == "github":
        return _github(settings, facts, secret)
    event = envelope(KIND, facts.model, facts.key, data_of(facts), source=source, now_s=now_s)
    body = encoded(event)
    return Call("POST", settings.url, signed(body, secret.encode(), int(now_s)), body)


def is_taken(preset: Preset, status: int) -> bool:
    """Whether the target has it; Airflow answers 409 to a run that it has already."""
    return 200 <= status < 300 or (preset == "airflow" and status == 409)


def data_of(facts: Facts) -> dict[str, Any]:
    """What every target gets, under one name."""
    plain: dict[str, Any] = msgspec.to_builtins(facts)
    for name in ("window_from_s", "window_to_s"):
        plain[name.removesuffix("_s")] = moment(plain.pop(name))
    plain["signals"] = list(facts.signals)
    plain["features"] = [feature[:NAME_LENGTH] for feature in facts.features[:NAMES]]
    return {"key": facts.key, **plain}


def _airflow(settings: Settings, facts: Facts, token: str) -> Call:
    # `logical_date` has to be there, and unknown fields are refused.
    body = {
        "dag_run_id": f"tidegate__{facts.key}",
        "logical_date": None,
        "conf": {settings.parameter: data_of(facts)},
        "note": f"{facts.model}:{facts.version}, incident {facts.incident}: {facts.sentence}"[:1000],
    }
    url = f"{settings.url.rstrip('/')}/api/v2/dags/{_part(settings.target)}/dagRuns"
    return Call("POST", url, {**_JSON, **_bearer(token)}, _json(body))


def _prefect(settings: Settings, facts: Facts, secret: str, deployment: str) -> Call:
    body = {
        "name": f"tidegate-{facts.key[:16]}",
        "parameters": {settings.parameter: data_of(facts)},
        "tags": ["tidegate", f"model:{facts.model}"],
        "idempotency_key": facts.key,
    }
    url = f"{settings.url.rstrip('/')}/deployments/{_part(deployment)}/create_flow_run"
    return Call("POST", url, {**_JSON, **_prefect_auth(settings, secret)}, _json(body))


def _kubeflow(settings: Settings, facts: Facts, secret: str) -> Call:
    pipeline, _, version = settings.target.partition("/")
    reference = {"pipeline_id": pipeline, **({"pipeline_version_id": version} if version else {})}
    body = {
        "display_name": f"tidegate {facts.model}:{facts.version} {facts.key[:16]}",
        "pipeline_version_reference": reference,
        "runtime_config": {"parameters": {settings.parameter: data_of(facts)}},
    }
    user = {"kubeflow-userid": settings.user} if settings.user else {}
    url = f"{settings.url.rstrip('/')}/apis/v2beta1/runs"
    return Call("POST", url, {**_JSON, **_bearer(secret), **user}, _json(body))


def _github(settings: Settings, facts: Facts, secret: str) -> Call:
    # At most 10 fields on top and 64 KB: all of it stands under one name.
    body = {"event_type": GITHUB_EVENT, "client_payload": {settings.parameter: data_of(facts)}}
    owner, repository = settings.target.split("/")
    url = f"{(settings.url or GITHUB).rstrip('/')}/repos/{_part(owner)}/{_part(repository)}/dispatches"
    headers = {
        "content-type": "application/json",
        "accept": "application/vnd.github+json",
        "x-github-api-version": "2022-11-28",
        "user-agent": "tidegate",
        **_bearer(secret),
    }
    return Call("POST", url, headers, _json(body))


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def _prefect_auth(settings: Settings, secret: str) -> dict[str, str]:
    if not settings.user:
        return _bearer(secret)
    both = base64.b64encode(f"{settings.user}:{secret}".encode()).decode()
    return {"authorization": f"Basic {both}"}


def _part(text: str) -> str:
    return quote(text, safe="")


def _plain(text: str) -> bool:
    """Fit for a header and a URL: printable ASCII without blanks."""
    return all("!" <= character <= "~" for character in text)


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
