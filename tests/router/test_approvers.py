"""Who may agree to a step: whom no key can match would be waited for for ever."""

import pytest

from router.document import PolicyError
from router.policy import TrafficPolicy, parse
from tests.router.documents import policy


def waiting_for(*by: object) -> TrafficPolicy:
    steps = [{"setWeight": "1%", "hold": {"approval": {"by": list(by)}}}]
    return parse(policy(split={"stable": 10_000}, rollout={"to": "canary", "steps": steps}))


@pytest.mark.parametrize("by", ["anna", "key:anna", "label:release.2", "group:x_1", "local"])
def test_who_may_agree_is_a_key_or_a_label(by: str) -> None:
    rollout = waiting_for(by).spec.rollout
    assert rollout is not None
    asked = rollout.steps[0].hold.approval
    assert asked is not None
    assert asked.by == (by,)


@pytest.mark.parametrize("by", ["team:x", "key: anna", "Label:release", "", "key:", "a b", "-a", "x" * 65, 7])
def test_whom_no_key_can_match_is_refused(by: object) -> None:
    with pytest.raises(PolicyError) as refused:
        waiting_for("anna", by)
    assert refused.value.path == "spec.rollout.steps[0].hold.approval.by[1]"
    assert refused.value.message.startswith("expected key:NAME, label:NAME, group:NAME or a bare name")
