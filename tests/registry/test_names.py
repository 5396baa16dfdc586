"""References are read back as they are written; everything else is refused with the rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.registry.names import ALIAS, NAME, ModelReference, NameRefused, parse_reference, version_of

NAMES = st.from_regex(NAME, fullmatch=True)
REFERENCES = st.one_of(
    st.builds(ModelReference, NAMES),
    st.builds(ModelReference, NAMES, version=st.integers(1, 10**18 - 1)),
    st.builds(ModelReference, NAMES, alias=st.from_regex(ALIAS, fullmatch=True)),
    st.builds(ModelReference, NAMES, digest=st.from_regex(r"sha256:[0-9a-f]{64}\Z", fullmatch=True)),
)


@given(REFERENCES)
def test_a_reference_reads_back(reference: ModelReference) -> None:
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "a/b", "../a", "-a", "a" * 129, "a\n", "é", "a:", "a:0", "a:01", "a:-1", "a:1a", "a:1 ",
        "a:" + "9" * 19, "a:٣", "a@", "a@3", "a@-x", "a@b@c", "a@sha256:", "a@sha256:" + "A" * 64, "a:1@b", "@x",
    ],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(NameRefused, match="expected"):
        parse_reference(text)


def test_versions() -> None:
    assert version_of("7") == 7
    assert version_of("9" * 18) == 10**18 - 1
    for text in ("0", "01", "-1", "1a", ".1", "1~", str(10**20), "1_0", "١"):
        assert version_of(text) is None
