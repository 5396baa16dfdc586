"""Act two of the demo: a bank tries new versions of its scoring model on its customers, and evidence decides.

Version 2 is good and becomes stable. Version 3 errs on loans that nobody asked for before, and version 4 is slow: both
are rolled back, and no customer notices. All the while the same customers get the same version.
`python -m examples.credit.bank DIR` writes the four versions.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from examples.credit import build, train, versions
from examples.credit.admin import Admin, policy_of
from examples.credit.crowd import Crowd, Heard
from examples.credit.features import load
from examples.credit.report import Check, count_check, number, table
from examples.credit.server import HOST, POLL_SECONDS, Served, Server
from examples.credit.watch import ALL_SLOTS, WATCHED, Plan, Story, follow

GOOD: Final = Plan(2, "a good version: promoted by evidence", "PROMOTED")
PLANS: Final = (
    GOOD,
    Plan(3, "fails on loans above 25,000 DM, which customers begin to ask for later", "ROLLED_BACK", "error_rate", 50),
    Plan(4, "gives the same answers, but takes its time", "ROLLED_BACK", "latency-p99"),
)
WARM_REQUESTS: Final = 4_000
"""Of stable before the first policy: what is slow is told from them."""
SETTLE_SECONDS: Final = 3.0


def models(root: Path) -> None:
    """Write versions 1 to 4 of the credit model below `root`."""
    credit = load()
    networks = {version: train.train(credit, recipe)[0] for version, (_, recipe) in build.RECIPES.items()}
    layers = build.layers_of(networks[2])
    content = {version: build.credit_model(network) for version, network in networks.items()}
    content |= {3: versions.errs_late(layers), 4: versions.slow(layers)}
    build.write(root / build.CREDIT / "model.yaml", build.model_yaml().encode())
    for version, model in content.items():
        build.write(root / build.CREDIT / str(version) / "model.onnx", model)


def play(servers: Sequence[Server], plans: Sequence[Plan], screen: Console) -> tuple[list[Story], list[Check]]:
    """Try the plans' versions one after another while customers call all servers; only the first is told of them."""
    admin, stories = Admin(servers[0].admin_url), []
    admin.apply(policy_of(1))
    with Crowd([(HOST, server.port) for server in servers]) as crowd:
        crowd.wait(WARM_REQUESTS)
        for plan in plans:
            screen.print(f"\nversion {plan.version}: {plan.title}")
            stories.append(follow(admin, crowd, plan, screen))
            tell(stories[-1], screen)
            if stories[-1].ended != plan.end:
                break
        heard = crowd.end()
    screen.print(answers_table(heard))
    if heard.problem:
        screen.print(f"problem: {heard.problem}")
    checks = [check for story in stories for check in story_checks(story, heard)]
    return stories, [*checks, *crowd_checks(stories, heard), counts(servers, heard)]


def tell(story: Story, screen: Console) -> None:
    """What a rollout rests on: the evidence of each share, the decision and why."""
    seen = [moment for moment in story.moments if moment.state in WATCHED and moment.slots < ALL_SLOTS]
    for moment in {moment.slots: moment for moment in seen}.values():
        for name, text in moment.marks.items():
            screen.print(f"    {moment.share:>5} {name}: {text}", soft_wrap=True)
    actor, why = story.decided
    screen.print(f"  {story.ended.lower().replace('_', ' ')} by {actor or '-'}: {why or '-'}", soft_wrap=True)


def answers_table(heard: Heard) -> object:
    """Who answered, by revision of the policy."""
    rows = [
        [str(revision), variant, version, number(count, 0)]
        for (revision, variant, version), count in sorted(heard.answers.items())
    ]
    return table("Answers, as the customers counted them", ["revision", "variant", "version", "answers"], rows, 3)


def story_checks(story: Story, heard: Heard) -> list[Check]:
    """One rollout ended as it must, for the reason that it must, and left no canary behind."""
    plan, (actor, why) = story.plan, story.decided
    name = f"version {plan.version}"
    if story.ended != plan.end:
        waits = "; ".join(story.moments[-1].waits) or why
        return [(f"{name} should have ended {plan.end}, and is {story.ended}: {waits}", False)]
    if plan.end == "PROMOTED":
        served = canary_answers(story, heard, story.last_revision)
        return [
            (f"{name} was promoted by evidence ({story.moments[-1].at_s:.1f} s, by {actor})", actor == "auto:rollout"),
            (f"since then every customer has it: {served:,} answers", served > 0 and not others(story, heard)),
        ]
    by, late = f"auto:guardrail:{plan.by}", canary_answers(story, heard, abort_revision(story))
    return [
        (f"{name} was rolled back by {actor} ({story.moments[-1].at_s:.1f} s)", actor == by),
        (f"version {plan.version} answered {late} requests after that", late == 0),
    ]


def canary_answers(story: Story, heard: Heard, since: int) -> int:
    """Answers of the plan's version from a revision on."""
    version = str(story.plan.version)
    return sum(count for (at, _, by), count in heard.answers.items() if at >= since and by == version)


def others(story: Story, heard: Heard) -> int:
    """Answers of other versions in the revisions in which the plan's version had been given to everybody."""
    version = str(story.plan.version)
    given = {move["revision"] for move in story.history if move["phase"] == "PROMOTED"}
    return sum(count for (at, _, by), count in heard.answers.items() if at in given and by != version)


def crowd_checks(stories: Iterable[Story], heard: Heard) -> list[Check]:
    """No customer noticed anything, and each kept its version."""
    stories = list(stories)
    found: list[Check] = [
        (
            f"{heard.requests:,} requests of customers, {heard.failed} of them failed",
            heard.requests > 0 and not heard.failed,
        )
    ]
    if any(story.plan.large_permille for story in stories):
        found.append(
            (f"{heard.fallbacks} answers that the canary failed to give came from stable", heard.fallbacks > 0)
        )
    torn, back, seen = torn_customers(heard), moved_back(stories, heard), {customer for customer, _ in heard.chosen}
    revisions = len({at for _, at in heard.chosen})
    sentence = f"{len(seen)} chosen customers, {revisions} revisions of the policy: {torn} got two variants within one"
    return [
        *found,
        (sentence, bool(seen) and not torn),
        (f"while the canary's share grew, {back} of them lost it again", back == 0),
    ]


def torn_customers(heard: Heard) -> int:
    """Chosen customers whom more than one variant answered within one revision."""
    return len({customer for (customer, _), variants in heard.chosen.items() if len(variants) > 1})


def moved_back(stories: Iterable[Story], heard: Heard) -> int:
    """Chosen customers whom stable answered after the canary had, while one rollout went up."""
    lost = set()
    for story in stories:
        down = story.last_revision if story.ended == "PROMOTED" else abort_revision(story)
        for customer in {customer for customer, _ in heard.chosen}:
            steps = range(story.first_revision, down)
            path = [heard.chosen.get((customer, revision), set()) for revision in steps]
            had = [index for index, variants in enumerate(path) if "canary" in variants]
            if had and any("stable" in variants for variants in path[had[0] + 1 :]):
                lost.add((story.identity, customer))
    return len(lost)


def abort_revision(story: Story) -> int:
    """The revision that took everything from the canary: the one after that in which this was decided."""
    found = [int(move["revision"]) for move in story.history if move["phase"] == "ABORTING"]
    return found[0] + 1 if found else story.last_revision + 1


def counts(servers: Sequence[Server], heard: Heard) -> Check:
    """Customers and gateways counted the same answers, per version."""
    mine: Counter[Served] = Counter()
    for (_, _, version), count in heard.answers.items():
        mine[build.CREDIT, version] += count
    until = time.monotonic() + SETTLE_SECONDS
    while (theirs := total(servers)) != mine and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return count_check("answers per version (tidegate_requests_total)", mine, theirs)


def total(servers: Sequence[Server]) -> Counter[Served]:
    """Answers of all servers."""
    found: Counter[Served] = Counter()
    for server in servers:
        found += server.answered()
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write versions 1 to 4 of the credit model.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    models(parser.parse_args().directory)


if __name__ == "__main__":
    main()
