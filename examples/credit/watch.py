"""Follow one rollout from the policy to its end, and keep what a report of it needs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from rich.console import Console

from examples.credit.admin import TICK_S, Admin, policy_of
from examples.credit.crowd import ENDS, Crowd

PATIENCE_S: Final = 60.0
"""For one rollout; far more than any takes, also on a slow machine."""
WATCHED: Final = ("BAKING", "DECIDING")
"""States in which a share has evidence of its own."""
ALL_SLOTS: Final = 10_000


@dataclass(frozen=True)
class Plan:
    """A version that is to be tried, and what must become of it.

    Attributes:
        title: what is special about the version.
        end: PROMOTED or ROLLED_BACK.
        by: guardrail that rolls back; "" = nothing does.
        large_permille: from the second step on so many of 1000 requests are for loans larger than any before.
    """

    version: int
    title: str
    end: str
    by: str = ""
    large_permille: int = 0


@dataclass(frozen=True)
class Moment:
    """What was seen once.

    Attributes:
        at_s: since the policy was applied.
        requests: sent since then.
        slots: the canary's share, of 10,000.
        marks: guardrail -> its evidence in words.
    """

    at_s: float
    requests: int
    state: str
    step: int
    slots: int
    waits: tuple[str, ...]
    marks: dict[str, str]

    @property
    def share(self) -> str:
        """The canary's share as people write it."""
        return f"{self.slots / (ALL_SLOTS / 100):g} %"


@dataclass
class Story:
    """One rollout.

    Attributes:
        moments: those at which state or share had changed, and the last of each step.
        history: the gateway's own list of moves of this rollout.
    """

    plan: Plan
    identity: str = ""
    moments: list[Moment] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ended(self) -> str:
        """The last state."""
        return self.moments[-1].state if self.moments else ""

    @property
    def first_revision(self) -> int:
        """From here on the canary had customers."""
        return 1 + int(min(move["revision"] for move in self.history if move["phase"] == "APPLYING"))

    @property
    def last_revision(self) -> int:
        """Of routing, when it had ended: everything to one of them."""
        return int(self.history[-1]["revision"])

    @property
    def decided(self) -> tuple[str, str]:
        """Who decided its end, and why."""
        phases = {"PROMOTED": "PROMOTING", "ROLLED_BACK": "ABORTING"}
        found = [move for move in self.history if move["phase"] == phases.get(self.ended)]
        return (found[-1]["actor"], found[-1]["reason"]) if found else ("", "")


def moment(rollout: dict[str, Any], at_s: float, requests: int) -> Moment:
    """From what the admin port says."""
    marks = {name: mark["text"] for name, mark in rollout["marks"].items()}
    waits = tuple(rollout["waits"])
    return Moment(at_s, requests, rollout["state"], rollout["step"], rollout["slots"], waits, marks)


def line(now: Moment) -> str:
    """One line of progress."""
    waits = f"; {now.waits[0]}" if now.waits else ""
    return f"{now.at_s:5.1f} s  {now.share:>5}  {now.requests:>7,} requests  {now.state.lower()}{waits}"


def follow(admin: Admin, crowd: Crowd, plan: Plan, screen: Console) -> Story:
    """Apply the plan's policy and watch its rollout until its end, or until `PATIENCE_S` are over."""
    started_s, before = time.monotonic(), crowd.sent
    story = Story(plan)
    story.identity = admin.begin(policy_of(plan.version))
    with screen.status("") as status:
        while not story.moments or (story.ended not in ENDS and story.moments[-1].at_s < PATIENCE_S):
            rollout = admin.rollout()
            now = moment(rollout, time.monotonic() - started_s, crowd.sent - before)
            _keep(story, now, partial(screen.print, soft_wrap=True))
            status.update(line(now))
            if plan.large_permille and now.step == 1:
                crowd.ask_for_large_loans(plan.large_permille)
            time.sleep(TICK_S)
    crowd.ask_for_large_loans(0)
    story.history = [move for move in rollout["history"] if move["identity"] == story.identity]
    return story


def _keep(story: Story, now: Moment, show: Callable[[str], None]) -> None:
    """Keep a moment, in place of the one before when nothing but its numbers has changed; show what is new."""
    last = story.moments[-1] if story.moments else None
    if last is not None and (last.state, last.slots, last.step) == (now.state, now.slots, now.step):
        story.moments[-1] = now
        return
    story.moments.append(now)
    show(line(now))
