"""A study for tests: two variants, one epoch, half each."""

from gateway.control.study import Epoch, Lane, Study, StudyGoal

GOAL = StudyGoal(name="paid", type="mean", direction="up", primary=True)


def epoch(key: str = "e", shares: tuple[int, ...] = (5000, 5000), revision: int = 1) -> Epoch:
    lanes = (Lane(rule="", randomised=True, shares=shares), Lane(rule="pinned", randomised=False, shares=(10_000, 0)))
    digests = ("sha256:" + "a1" * 32, "sha256:" + "b2" * 32)
    return Epoch(key=key, digests=digests, lanes=lanes, first_revision=revision, last_revision=revision, began_ms=1_000)


def study(*goals: StudyGoal, alpha: float = 0.05, expected: int = 500, epochs: tuple[Epoch, ...] = ()) -> Study:
    found = epochs or (epoch(),)
    return Study(
        name="fraud",
        identity="i",
        variants=("old", "new"),
        versions=(1, 2),
        goals=goals or (GOAL,),
        control=0,
        alpha=alpha,
        expected_units=expected,
        hypothesis="<b>new</b> is better",
        owner="risk",
        salt="fraud",
        unit="x-user-id",
        sticky=True,
        began_ms=1_000,
        epochs={one.key: one for one in found},
        revisions={str(one.first_revision): one.key for one in found},
    )
