"""Keys of prediction ids and of units: the same on all nodes, and such that a worker can sign with."""

import asyncio
from pathlib import Path

import pytest

from gateway.control.messages import SigningKey
from gateway.control.secretkeys import MOST_KEYS, merged
from tests.control.test_policies_lost import opened


@pytest.mark.parametrize("body", [b'[[7,"c2hvcnQ="]]', b"[[700,1]]", b"no JSON", b"[]"])
def test_keys_in_the_store_that_cannot_sign_are_replaced(tmp_path: Path, body: bytes) -> None:
    """A worker would end at a key of another length, and every one after it."""

    async def story() -> None:
        one = await opened(tmp_path / "one.db", tmp_path)
        mine = one.signing
        for name, bad in (("predictions", body), ("units", b"short")):
            document = await one.store.get("secrets", name)
            assert document is not None
            await one.store.put("secrets", name, bad, expected=document.revision)
        (tmp_path / "two").mkdir()
        two = await opened(tmp_path / "one.db", tmp_path / "two")
        assert len(two.signing) == 1
        assert (len(two.signing[0].secret), len(two.unit_key)) == (32, 32)
        await one.returned()
        assert one.signing == (*two.signing, *mine)
        assert one.unit_key == two.unit_key
        await two.store.close()
        await one.store.close()

    asyncio.run(story())


def test_of_two_keys_with_one_number_the_stores_stands_and_there_are_not_too_many() -> None:
    a, b, same = SigningKey(1, b"a"), SigningKey(2, b"b"), SigningKey(1, b"c")
    assert merged((a,), (b, a)) == (a, b)
    assert merged((a,), (same, b)) == (a, b)
    many = tuple(SigningKey(number, b"m") for number in range(1, MOST_KEYS + 5))
    assert merged((a,), many[1:]) == (a, *many[1:MOST_KEYS])
