"""Who keeps documents of one kind in the store, as the watched folder needs it; and who keeps policies."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from gateway.control.documents import Kept
from gateway.control.policies import Policies
from gateway.control.reading import Read, name_in, read_policy
from gateway.control.record import KIND
from gateway.control.resets import ResetNeeded
from gateway.control.restoring import applied_last
from gateway.store.base import Stale
from runtimes.errors import Conflict

APPLIED: Final = "the file in the policy folder"
LEFT: Final = "the file has left the policy folder"


class Keeper(Protocol):
    """Keeps documents of one kind, one for each model name.

    Attributes:
        noun: what such a document is called.
    """

    noun: str

    @property
    def loaded(self) -> bool:
        """Whether it is known which documents there are."""

    def read(self, text: str) -> Read[Any]:
        """What a text says as a document of this kind."""

    def owners(self) -> Mapping[str, str]:
        """Name -> owner of each document; "" = it belongs to nobody."""

    async def put(self, document: object, owner: str) -> tuple[int, bool]:
        """Put an owner's document in force; gives its generation, and whether anything has changed.

        Raises:
            ServingError: why it is refused.
        """

    async def applied(self, name: str, owner: str) -> object:
        """The document that an owner put in force last, as the audit trail says; None = it says of none.

        Raises:
            StoreAway
        """

    async def warnings_of(self, document: object) -> list[str]:
        """What is most likely a slip in a document that is in force."""

    async def orphan(self, name: str, owner: str) -> bool:
        """The owner is gone: the document stays, and belongs to nobody. False = somebody has just written it.

        Raises:
            StoreAway
        """


class PolicyKeeper:
    """Keeps policies.

    Args:
        warned: what is most likely a slip in a policy that is in force.
    """

    noun = "policy"

    def __init__(self, policies: Policies, warned: Callable[[Kept], Awaitable[list[str]]]) -> None:
        self._policies = policies
        self._warned = warned

    @property
    def loaded(self) -> bool:
        """Whether policies have been read."""
        return self._policies.loaded

    def read(self, text: str) -> Read[Any]:
        """A text as a policy."""
        return read_policy(text)

    def owners(self) -> Mapping[str, str]:
        """Name -> owner."""
        return {name: kept.record.owner for name, kept in self._policies.kept.items()}

    async def put(self, document: object, owner: str) -> tuple[int, bool]:
        """Apply it as `Policies.apply` does, but never drop an experiment."""
        # A file that said reset would say so of each change that comes after, too.
        try:
            kept, changed = await self._policies.apply(document, actor=owner, owner=owner, reason=APPLIED)
        except ResetNeeded as error:
            raise Conflict(error.in_file) from error
        return kept.record.generation, changed

    async def applied(self, name: str, owner: str) -> object:
        """As the trail says."""
        return await applied_last(self._policies.store, KIND, name, owner)

    async def warnings_of(self, document: object) -> list[str]:
        """As the answer to an apply has them."""
        kept = self._policies.kept.get(name_in(document))
        return await self._warned(kept) if kept is not None else []

    async def orphan(self, name: str, owner: str) -> bool:
        """Take the owner away; what a rollout does to the policy goes on."""
        kept = self._policies.kept.get(name)
        if kept is None or kept.record.owner != owner:
            return True
        record = msgspec.structs.replace(kept.record, owner="")
        audit = {"actor": owner, "what": "orphan", "reason": LEFT, "owner": ""}
        try:
            await self._policies.save(name, record, expected=kept.revision, audit=audit)
        except Stale:
            await self._policies.reload(name)
            return False
        return True
