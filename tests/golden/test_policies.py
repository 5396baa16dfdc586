"""Policy documents as people write them, and what they are told. Golden files, read with the gateway's own YAML parser.

good/*.yaml are accepted. bad/*.txt is a document, a line of dashes and every problem. plans/*.txt is the document in
force (may be empty), the new one, and what `policy plan` says.
"""

from pathlib import Path

import pytest

from router.compiled import compile_policy
from router.diff import compare, next_slots
from router.document import PolicyError
from router.policy import TrafficPolicy, parse
from router.view import RequestView
from runtimes.registry.strictyaml import load

POLICIES = Path(__file__).parent / "policies"
DASHES = "----\n"


def files(kind: str) -> list[Path]:
    found = sorted((POLICIES / kind).iterdir())
    assert found
    return found


def read(text: str) -> TrafficPolicy:
    return parse(load(text, "policy.yaml"))


@pytest.mark.parametrize("file", files("good"), ids=lambda file: file.stem)
def test_a_good_policy_decides(file: Path) -> None:
    policy = read(file.read_text())
    compiled = compile_policy(policy, next_slots(None, None, policy))
    shares = [0] * len(compiled.names)
    for unit in range(4000):
        headers = {b"x-user-id": b"%d" % unit}
        shares[compiled.decide(RequestView(headers, b"%d" % unit)).variant] += 1
    for share, slots in zip(shares, compiled.strata[0].shares, strict=True):
        assert abs(share - 0.4 * slots) <= 5 * 32


@pytest.mark.parametrize("file", files("bad"), ids=lambda file: file.stem)
def test_a_bad_policy_is_refused_with_all_its_problems(file: Path) -> None:
    document, _, expected = file.read_text().partition(DASHES)
    with pytest.raises(PolicyError) as error:
        read(document)
    assert f"{error.value}\n" == expected


@pytest.mark.parametrize("file", files("plans"), ids=lambda file: file.stem)
def test_a_plan_says_what_changes(file: Path) -> None:
    old_text, new_text, expected = file.read_text().split(DASHES)
    old = read(old_text) if old_text else None
    table = None if old is None else next_slots(None, None, old)
    assert "\n".join(compare(old, table, read(new_text)).lines()) + "\n" == expected
