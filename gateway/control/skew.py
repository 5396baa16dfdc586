"""Which nodes act on an older revision of a policy than the newest: they still serve by its shares. Pure."""

from collections.abc import Mapping
from typing import Any


def skew_of(node: str, newest: int, here: Mapping[str, int], others: Mapping[str, int]) -> dict[str, Any]:
    """How many are behind, and who. A node is as far as its last worker; one without workers answers nobody.

    Args:
        node: the name of this one.
        newest: routing revision that this node knows of; others may know of a newer one.
        here: worker of this node -> routing revision that it acts on; 0 = none of this policy.
        others: node -> the lowest revision that a live worker of it acts on, as its last word says.
    """
    acked = {**others, **({node: min(here.values())} if here else {})}
    newest = max([newest, *acked.values(), *here.values()])
    return {
        "newest": newest,
        "nodes": len(acked),
        "nodes_behind": [{"node": one, "acked": at} for one, at in sorted(acked.items()) if at < newest],
        "workers": len(here),
        "workers_behind": sum(at < newest for at in here.values()),
    }
