"""What the auditor's page says of a rollout's outcome, of whom it reached, and of its numbers."""

import json
import re
from typing import Any

import pytest

from gateway.control.auditpage import page

SLOTS = {"unit": "header x-user-id", "hash": "sha1-60", "of": 10_000, "rules": [], "salt": "m"}


def exposed(share: float, *slots: list[int]) -> list[dict[str, Any]]:
    return [SLOTS | {"share": share, "slots": list(slots)}]


def evidence(stable: int, canary: int) -> str:
    counts = {"2||stable": [stable, stable, 0, 0, 0, 0], "2||canary": [canary, canary - 1, 1, 0, 0, 0]}
    told = {"counts": counts, "shares": {"2|": 0.2}, "alpha": 0.01, "beta": 0.05, "guardrails": 1}
    return json.dumps(told)


STEP = {"what": "step", "actor": "auto:rollout", "canary": "canary", "evidence": evidence(80, 20)}
STEP |= {"shares_before": {"stable": 10000}, "shares_after": {"stable": 8000, "canary": 2000}}
ABORT = {
    "what": "abort",
    "actor": "ada",
    "reason": "the press called",
    "canary": "canary",
    "evidence": evidence(90, 25),
}
ABORT |= {
    "shares_before": STEP["shares_after"],
    "shares_after": {"stable": 10000},
    "exposed": exposed(0.2, [8000, 9999]),
}
RETRY = {"what": "retry", "actor": "bob", "reason": "they calmed down"}
AGAIN = STEP | {"shares_after": {"stable": 5000, "canary": 5000}, "evidence": evidence(7, 3)}
PROMOTED = {"what": "promoted", "actor": "auto:rollout", "reason": "", "canary": "canary"}
PROMOTED |= {"shares_before": {"stable": 5000, "canary": 5000}, "shares_after": {"canary": 10000}}
WORSE = ABORT | {"actor": "auto:guardrail:error_rate", "exposed": exposed(0.5, [5000, 9999])}


def made(*said: dict[str, Any]) -> str:
    same = {"same": True, "text": "same verdict", "checks": []}
    records = [
        {
            "id": f"main/{at}",
            "time_ms": 1000 * at,
            "hash": "h",
            "body": "{}",
            "record": {"reason": ""} | one,
            "replay": same,
        }
        for at, one in enumerate(said, 1)
    ]
    found = page(
        {"policy": "m", "identity": "i", "verified": {"ok": True, "heads": {}, "records": 9}, "records": records}
    )
    return re.sub(r"<[^>]*>", " ", found.partition("<body>")[2])


@pytest.mark.parametrize(
    ("said", "outcome", "reached"),
    [
        ((STEP,), "Under way. The rollout has not ended. The canary has 20 % of the traffic.", ""),
        ((STEP, ABORT), "Outcome: rolled back , by ada", "8000-9999 of 10000 (20.00%"),
        ((STEP, ABORT, RETRY), "It was rolled back and started again by bob . The canary has 0 % of the traffic.", ""),
        ((STEP, ABORT, RETRY, AGAIN), "started again by bob . The canary has 50 % of the traffic.", ""),
        ((STEP, ABORT, RETRY, AGAIN, PROMOTED), "Outcome: promoted , by the rollout's own rules", ""),
        ((STEP, ABORT, RETRY, AGAIN, WORSE), "by the guardrail error_rate", "5000-9999 of 10000 (50.00%"),
    ],
    ids=["runs", "aborted", "retried", "runs again", "promoted in the end", "aborted again"],
)
def test_the_outcome_is_that_of_the_last_attempt(said: tuple[dict[str, Any], ...], outcome: str, reached: str) -> None:
    text = " ".join(made(*said).replace("&#x27;", "'").split())
    assert outcome in text
    assert text.count("May have had the canary's answers") == bool(reached)
    assert reached in text


def test_requests_of_every_attempt_are_counted() -> None:
    once, twice = (" ".join(made(*said).split()) for said in ((STEP, ABORT), (STEP, ABORT, RETRY, AGAIN)))
    assert "stable 90 90 0 0.00%" in once
    assert "canary 25 24 1 4.00%" in once
    assert "attempts" not in once
    assert "stable 97 97 0 0.00%" in twice
    assert "canary 28 26 2 7.14%" in twice
    assert "of 2 attempts together" in twice
