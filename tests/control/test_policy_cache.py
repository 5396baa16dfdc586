"""What a node knows of its policies beside the store: on the disk before anything is acknowledged, off the loop."""

import asyncio
from pathlib import Path

import msgspec
from blockbuster import blockbuster_ctx

from gateway.control.policycache import PolicyCache, Remembered
from gateway.control.record import decode_record
from router.rollout.status import Said
from tests.control.test_policies_lost import DOCUMENT, opened


def test_a_change_is_on_the_disk_when_it_is_acknowledged_and_the_loop_waits_for_no_disk(tmp_path: Path) -> None:
    async def story() -> None:
        policies = await opened(tmp_path / "one.db", tmp_path)
        with blockbuster_ctx():
            kept, _ = await policies.apply(DOCUMENT, actor="ada")
            revision, body = (await asyncio.to_thread(PolicyCache(tmp_path).read)).records["m"]
            assert (revision, decode_record(body)) == (kept.revision, kept.record)
            harm = Said("auto:error_rate", 5, "too many errors")
            await policies.carry("m", msgspec.structs.replace(kept.record.status, pending_abort=harm))
            _, body = (await asyncio.to_thread(PolicyCache(tmp_path).read)).records["m"]
            assert decode_record(body).status.pending_abort == harm
            await policies.delete("m", actor="ada")
            assert (await asyncio.to_thread(PolicyCache(tmp_path).read)).records == {}
        await policies.store.close()

    asyncio.run(story())


def test_the_last_state_stays_also_of_writes_that_were_given_up(tmp_path: Path) -> None:
    async def story() -> None:
        cache = PolicyCache(tmp_path)
        writes = [asyncio.create_task(cache.write(Remembered(unit_key=b"%d" % number))) for number in range(50)]
        await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
        for one in writes[:-1]:
            one.cancel()
        await writes[-1]
        assert cache.read().unit_key == b"49"

    asyncio.run(story())
