"""What policies ask of models; a node's answer is `gateway.control.pinning`."""

from typing import Protocol


class Models(Protocol):
    """What policies need to know of models."""

    async def pin(self, name: str, reference: str) -> tuple[int, str]:
        """Version and digest that a reference names now, fetched and probed. Raises Conflict: it cannot be served."""

    def contract(self, digest: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Inputs and outputs of a version, as its first load told them."""
