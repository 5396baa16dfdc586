"""The admin port's surface for traffic policies and rollouts."""

import asyncio
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec
import orjson
from starlette.requests import Request
from starlette.routing import Route

from gateway.control import showing
from gateway.control.documents import Kept, Seen, StalePolicy, killed_in
from gateway.control.exposure import described
from gateway.control.folder import POLICY
from gateway.control.messages import VariantPin
from gateway.control.planning import difference, in_force_warnings, plan
from gateway.control.reading import name_in
from gateway.control.record import PolicyRecord
from gateway.control.rollouts import Rollouts
from gateway.control.service import Service
from gateway.control.traffic import Traffic
from gateway.errors import HttpError, error_body, status_of
from gateway.http.access import actor_of
from gateway.http.body import object_of, text_of
from gateway.http.preconditions import generation_seen
from gateway.http.reply import Reply, json_reply, request_id_of
from gateway.shadowfields import FIELDS as SHADOW_FIELDS
from gateway.shadowfields import whole
from gateway.tally import FIELDS
from router.policy import parse
from router.rollout.machine import STORE_AWAY
from router.rollout.observed import Command, CommandKind
from router.rollout.status import RolloutStatus
from router.schema import schema
from runtimes.errors import Conflict, InvalidInput
from runtimes.registry.strictyaml import DocumentError, load

_ACTED_S: Final = 5.0
"""So long an answer waits for the last worker to act on a change."""
COMMANDS: Final = ("approve", "pause", "resume", "abort", "promote", "retry")


class PolicyEndpoints:
    """The endpoints.

    Args:
        most: bytes of a body.
    """

    def __init__(self, service: Service, traffic: Traffic, most: int) -> None:
        self._service = service
        self._policies = traffic.policies
        self._rollouts: Rollouts = traffic.rollouts
        self._folder = traffic.folder
        self._most = most

    async def listed(self, request: Request) -> Reply:
        """Every policy, in short."""
        covers = actor_of(request).covers
        names = [name for name in sorted(self._policies.kept) if covers(name)]
        return json_reply([self._shown(name) for name in names])

    async def one(self, request: Request) -> Reply:
        """One policy, with its generation as ETag."""
        return self._view(request.path_params["name"])

    def _view(self, name: str, status: int = 200, more: dict[str, Any] | None = None) -> Reply:
        view = self._shown(name) | (more or {})
        reply = json_reply(view, status)
        reply.headers = [(b"etag", b'"%d"' % view["generation"])]
        return reply

    def _shown(self, name: str) -> dict[str, Any]:
        problem = self._folder.problem_of(POLICY, name) if self._folder is not None else ""
        return self._policies.view(name) | {"weights": self._weights(name), "problem": problem}

    def _weights(self, name: str) -> dict[str, dict[str, float]]:
        return showing.weights(self._policies.get(name), name in self._rollouts.zeroed_here)

    async def folder(self, request: Request) -> Reply:
        """The watched folder: each file, which document it is, and what is wrong with it."""
        found = self._folder.shown() if self._folder is not None else {"problem": "", "files": []}
        return json_reply({"watched": self._folder is not None, **found})

    async def schema(self, request: Request) -> Reply:
        """JSON schema of the document, for editors."""
        return json_reply(schema())

    async def apply(self, request: Request) -> Reply:
        """Put a document in force; answers when every worker acts on it."""
        name = request.path_params["name"]
        document = await self._document(request, name)
        generation = self._generation(request, name)
        actor, reason = actor_of(request).name, request.headers.get("x-reason", "")[:500] or _reason(request)
        try:
            kept, changed = await self._policies.apply(
                document, actor=actor, generation=generation, reason=reason, reset=_says(request, "reset")
            )
        except StalePolicy as error:
            return self._stale(request, document, error)
        told = await in_force_warnings(kept, self._policies, self._service)
        return self._view(name, 200, {"changed": changed, "warnings": told, **await self._acted(name)})

    def _stale(self, request: Request, document: object, error: StalePolicy) -> Reply:
        """412 with what is in force now, and what the refused document would change of that."""
        body = orjson.loads(error_body(error.message, error.code, request_id_of(request)))
        kept = self._policies.kept.get(request.path_params["name"])
        if kept is not None and error.view:
            pinned = {pin.variant: pin.digest for pin in kept.record.variants}
            known = {one.model: pinned[one.name] for one in kept.policy.spec.variants}
            body |= {"current": error.view, "diff": difference(kept, parse(document), known).lines()}
        return json_reply(body, status_of(error.code))

    async def plan(self, request: Request) -> Reply:
        """What applying a document would do; nothing is changed."""
        name = request.path_params["name"]
        document = await self._document(request, name)
        return json_reply(await plan(document, self._policies, self._service))

    async def _document(self, request: Request, name: str) -> object:
        text = await text_of(request, self._most)
        try:
            document = load(text, "the policy")
        except DocumentError as error:
            raise InvalidInput(str(error)) from error
        named = name_in(document)
        if named and named != name:
            raise InvalidInput(f"metadata.name: expected {name!r}, as in the URL, got {named!r}")
        return document

    def _generation(self, request: Request, name: str) -> Seen:
        """The generation that the caller has seen. Raises HttpError 428 when a policy is there and none is named."""
        seen = generation_seen(request)
        if seen is None and name in self._policies.kept:
            message = f"the policy {name!r} exists: send If-Match with the ETag that you have seen"
            raise HttpError(428, "precondition_required", message)
        return seen or 0

    async def delete(self, request: Request) -> Reply:
        """Remove a policy, the one that the caller has seen if that is said; says which version answers from now on."""
        name, generation = request.path_params["name"], generation_seen(request)
        force = _says(request, "force")
        version = self._service.catalogue.by_itself(name)
        if not force:
            _check_successor(self._policies.get(name), version)
        actor, reason = actor_of(request).name, _reason(request)
        await self._policies.delete(name, actor=actor, generation=generation, reason=reason, force=force)
        return json_reply({"answers": version})

    async def kill(self, request: Request) -> Reply:
        """`{"variant": "canary", "killed": true}`: a variant gets nothing, at once, whatever the document says."""
        body = await object_of(request, self._most, ("variant", "killed", "reason"))
        name, variant, killed = request.path_params["name"], body.get("variant"), body.get("killed", True)
        if not isinstance(variant, str) or not isinstance(killed, bool):
            raise InvalidInput("expected variant, a name, and killed, true or false")
        actor = actor_of(request).name
        await self._policies.kill(name, variant, killed, actor=actor, reason=_reason(request, body))
        return self._view(name, 200, await self._acted(name))

    async def rollback(self, request: Request) -> Reply:
        """`{"to": 2}` (a generation; without it the one before): apply an earlier document again; heeds If-Match."""
        body = await object_of(request, self._most, ("to", "reason"))
        name, wanted = request.path_params["name"], body.get("to")
        if wanted is not None and (type(wanted) is not int or wanted < 1):
            raise InvalidInput("to: expected the generation of an earlier document, a whole number from 1")
        actor = actor_of(request).name
        generation, reason = generation_seen(request), _reason(request, body)
        await self._policies.rollback(name, wanted, actor=actor, generation=generation, reason=reason)
        return self._view(name, 200, await self._acted(name))

    # ---- rollouts ----

    async def rollouts(self, request: Request) -> Reply:
        """Every policy that has a rollout."""
        covers = actor_of(request).covers
        kept = sorted(self._policies.kept.items())
        found = [self._rollout(name) for name, one in kept if showing.status_of(one).identity and covers(name)]
        return json_reply(found)

    async def rollout(self, request: Request) -> Reply:
        """One rollout: where it stands, and what it waits for."""
        return json_reply(self._rollout(request.path_params["name"]))

    def _status(self, name: str) -> RolloutStatus:
        """Raises UnknownPolicy, Conflict."""
        status = showing.status_of(self._policies.get(name))
        if not status.identity:
            raise Conflict(f"the policy {name!r} has no rollout")
        return status

    def _rollout(self, name: str) -> dict[str, Any]:
        kept, status = self._policies.get(name), self._status(name)
        record = kept.record
        rollout = kept.policy.spec.rollout
        shown: dict[str, Any] = msgspec.to_builtins(status)
        for hidden in ("cursors", "evidence", "done"):
            shown.pop(hidden, None)
        shown |= {
            "name": name,
            "state": status.state,
            "revision": record.revision,
            "generation": record.generation,
            "applied_by": record.applied_by,
            "stable": record.stable,
            "canary": record.canary,
            "variants": [msgspec.structs.asdict(pin) for pin in record.variants],
            "steps": len(rollout.steps) if rollout is not None else 0,
            "slow_ms": record.slow_ns / 1e6,
            "plan_of_steps": showing.plan_of(kept),
            "weights": self._weights(name),
            "slow_wait_ms": record.wait_ns / 1e6,
            "slow_execution_ms": {str(size): took_ns / 1e6 for size, took_ns in sorted(record.run_ns.items())},
            "guardrails": showing.guardrails(kept),
            "units": showing.units(kept),
            "signals": showing.signals(kept),
            "killed": sorted(killed_in(record, kept.policy)),
            "exposed": described(record.exposures, status.canary_digest, kept.policy),
            "counts": {
                place: dict(zip(FIELDS, counts, strict=True))
                for place, counts in self._policies.counts_of(name).items()
            },
            "shadow": _shadow_counts(record),
            "leads": self._rollouts.leads,
            "store_away": self._policies.away,
            "failed": self._rollouts.failed.get(name, ""),
        }
        if self._policies.away and STORE_AWAY not in shown["waits"]:
            # What the controller would write is not in the store.
            shown["waits"] = [STORE_AWAY, *shown["waits"]]
        return shown

    async def command(self, request: Request) -> Reply:
        """approve, pause, resume, abort, promote or retry; answers when it is in force everywhere."""
        name, kind = request.path_params["name"], request.url.path.rpartition("/")[2]
        self._status(name)
        # Nobody shall have to spell well to stop harm.
        body = await object_of(request, self._most, () if kind == "abort" else ("reason", "identity", "step"))
        identity, step = body.get("identity", ""), body.get("step")
        if not isinstance(identity, str) or not (step is None or type(step) is int):
            raise InvalidInput("expected identity, a text, and step, a whole number from 0")
        actor, labels = actor_of(request).name, tuple(sorted(actor_of(request).labels))
        command = Command(
            id=uuid.uuid4().hex,
            kind=cast(CommandKind, kind),
            actor=actor,
            labels=labels,
            reason=_reason(request, body),
            identity=identity,
            step=step,
        )
        told = await self._rollouts.command(name, command)
        if not told.ok:
            raise Conflict(told.text)
        back = await self._rollouts.gone_back(name, _ACTED_S)
        acted = await self._acted(name)
        acted["in_force_everywhere"] &= back
        return json_reply({"text": told.text, **acted, "rollout": self._rollout(name)})

    async def _acted(self, name: str) -> dict[str, Any]:
        """Wait until all workers of all nodes act on a policy as it is now; who does not, is named."""
        revision = self._policies.get(name).record.revision
        here, behind = await asyncio.gather(
            self._service.everywhere(name, revision, _ACTED_S), self._rollouts.elsewhere(name, revision, _ACTED_S)
        )
        if self._policies.away:
            # What was decided without the store, other nodes hear when it is back.
            behind = tuple(sorted(self._rollouts.nodes.others()))
        return {
            "in_force_everywhere": here and not behind and not self._policies.away,
            "nodes_behind": list(behind),
        }


def _shadow_counts(record: PolicyRecord) -> dict[str, dict[str, int]]:
    """Variant -> how its unseen answers compared with those that were given, so far in this rollout."""
    judge = record.evidence.get("judge") or {}
    found = judge.get("shadow", {}).items()
    return {variant: dict(zip(SHADOW_FIELDS, whole(counts), strict=True)) for variant, counts in found}


def _check_successor(kept: Kept, version: int | None) -> None:
    """Whether everybody may get this version by the way, None = no one that is known. Raises Conflict."""
    pins = {pin.version: pin for pin in kept.record.variants}
    stable = next(pin.version for pin in pins.values() if pin.variant == kept.record.stable)
    if version == stable:
        return
    if version is None:
        answers = "no version is known to answer"
    else:
        answers = f"version {version} answers everybody, and that {_untried(kept, pins.get(version))}"
    asked = f"set version_policy in model.yaml to {{specific: [{stable}]}} first, or say force"
    raise Conflict(f"without its policy {answers}: {asked}")


def _untried(kept: Kept, pin: VariantPin | None) -> str:
    """Why a version is none for everybody; None = one that the policy does not name."""
    if pin is None:
        return "is no variant of it"
    latched = any(latch.canary_digest == pin.digest for latch in kept.record.status.latches)
    return "was rolled back" if latched else f"is variant {pin.variant!r} and not {kept.record.stable!r}"


def _says(request: Request, word: str) -> bool:
    """Whether the query says a word, such as `?force=true`."""
    return request.query_params.get(word) in ("1", "true")


def _reason(request: Request, body: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Of the body, or else of the query. Raises InvalidInput: it is no text."""
    reason = body.get("reason") or request.query_params.get("reason", "")
    if not isinstance(reason, str):
        raise InvalidInput("reason: expected a text")
    return reason[:500]


def policy_routes(service: Service, traffic: Traffic, most: int) -> list[Route]:
    """Routes of the admin port."""
    endpoints = PolicyEndpoints(service, traffic, most)
    policy, rollout = "/admin/v1/policies/{name}", "/admin/v1/rollouts/{name}"
    return [
        Route("/admin/v1/policies", endpoints.listed),
        Route("/admin/v1/folder", endpoints.folder),
        Route("/admin/v1/schemas/policy", endpoints.schema),
        Route(policy, endpoints.one),
        Route(policy, endpoints.apply, methods=["PUT"]),
        Route(policy, endpoints.delete, methods=["DELETE"]),
        Route(f"{policy}/plan", endpoints.plan, methods=["POST"]),
        Route(f"{policy}/kill", endpoints.kill, methods=["POST"]),
        Route(f"{policy}/rollback", endpoints.rollback, methods=["POST"]),
        Route("/admin/v1/rollouts", endpoints.rollouts),
        Route(rollout, endpoints.rollout),
        *[Route(f"{rollout}/{kind}", endpoints.command, methods=["POST"]) for kind in COMMANDS],
    ]
