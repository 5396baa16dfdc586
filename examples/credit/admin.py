"""Policies and rollouts over the admin port, as a release manager's tools would ask for them."""

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from examples.credit.build import CREDIT
from examples.credit.server import ServerProblem

POLICIES: Final = Path(__file__).parent / "policies"
TICK_S: Final = 0.1
BEGIN_S: Final = 10.0
"""A rollout begins within this time after its policy was applied."""
_TIMEOUT_S: Final = 30.0


def policy_of(version: int) -> Path:
    """The policy that makes a version stable."""
    return POLICIES / f"version-{version}.yaml"


class Admin:
    """The admin port of one gateway."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, path: str, body: bytes | None = None, if_match: int | None = None) -> Any:
        """The answer's JSON.

        Raises:
            ServerProblem: refused, with the gateway's words; or no answer.
        """
        headers = {} if if_match is None else {"if-match": f'"{if_match}"'}
        request = urllib.request.Request(f"{self._url}/admin/v1/{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            raise ServerProblem(f"{method} {path}: status {error.code}: {told[:500]}") from error

    def apply(self, document: Path) -> None:
        """Put a policy in force in every worker."""
        kept = {one["name"]: one for one in self.call("GET", "policies")}
        seen = kept[CREDIT]["generation"] if CREDIT in kept else None
        self.call("PUT", f"policies/{CREDIT}", document.read_bytes(), seen)

    def begin(self, document: Path) -> str:
        """Put a policy in force and wait until its rollout has begun; the rollout's identity."""
        before = self.identity()
        self.apply(document)
        until = time.monotonic() + BEGIN_S
        while (identity := self.identity()) in ("", before):
            if time.monotonic() > until:
                raise ServerProblem(f"the rollout of {document.name} did not begin within {BEGIN_S:.0f} s")
            time.sleep(TICK_S)
        return identity

    def identity(self) -> str:
        """Of the rollout in hand; "" = none."""
        found = [one for one in self.call("GET", "rollouts") if one["name"] == CREDIT]
        return str(found[0]["identity"]) if found else ""

    def rollout(self) -> dict[str, Any]:
        """Where the rollout stands."""
        found: dict[str, Any] = self.call("GET", f"rollouts/{CREDIT}")
        return found
