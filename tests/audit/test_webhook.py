"""The webhook: in order, signed, tried again, given up and listed; whoever decides never waits for it."""

import asyncio
import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.config import Alerts, ConfigError
from gateway.control.alerts import ATTEMPTS, QUEUE, Webhook, read_secret
from gateway.control.outside import post
from gateway.monitor.beside import beside
from gateway.monitor.cloudevents import signature
from tests.audit.stage import SECRET, Receiver, no_threads


def hook(url: str, waits: list[float]) -> Webhook:
    async def pause(seconds: float) -> None:
        waits.append(seconds)

    return Webhook(
        url, SECRET.encode(), source="/tidegate/n", now_s=lambda: 1_767_225_600.5, pause=pause, jitter=lambda: 0.0
    )


def deliver(webhook: Webhook) -> None:
    asyncio.run(asyncio.wait_for(webhook.deliver(), 20))


def test_events_come_in_order_and_signed():
    with Receiver() as receiver:
        waits: list[float] = []
        webhook = hook(receiver.url, waits)
        for number in range(3):
            webhook.offer("rollout.step", "m", f"m/{number}", {"n": number})
        deliver(webhook)
        assert webhook.counts["delivered"] == 3
        assert [event["data"]["n"] for event in receiver.events()] == [0, 1, 2]
        headers, body = receiver.got[0]
        assert json.loads(body) == {
            "specversion": "1.0",
            "id": "m/0",
            "source": "/tidegate/n",
            "type": "tidegate.rollout.step",
            "subject": "m",
            "time": "2026-01-01T00:00:00.500+00:00",
            "datacontenttype": "application/json",
            "data": {"n": 0},
        }
        assert headers["x-tidegate-signature"] == f"t=1767225600,v1={signature(SECRET.encode(), 1767225600, body)}"
        assert waits == []


def test_a_receiver_that_comes_back_gets_it():
    with Receiver([503, 429]) as receiver:
        waits: list[float] = []
        webhook = hook(receiver.url, waits)
        webhook.offer("rollout.abort", "m", "m/1", {})
        deliver(webhook)
        assert webhook.counts["delivered"] == 1
        assert waits == [0.5, 1.0]
        assert webhook.status()["dead_letters"] == []


@pytest.mark.parametrize(("statuses", "asked"), [([400], 1), ([302], 1), ([500] * ATTEMPTS, ATTEMPTS)])
def test_what_is_not_taken_is_a_dead_letter_and_the_next_goes_on(statuses: list[int], asked: int):
    with Receiver(list(statuses)) as receiver:
        webhook = hook(receiver.url, [])
        webhook.offer("rollout.abort", "m", "m/1", {})
        webhook.offer("rollout.step", "m", "m/2", {})
        deliver(webhook)
        assert webhook.counts["delivered"] == 1
        status = webhook.status()
        assert (status["dead"], receiver.asked) == (1, asked + 1)
        assert status["dead_letters"][0]["event"]["id"] == "m/1"
        assert status["dead_letters"][0]["reason"] == f"HTTP {statuses[0]}"
        assert receiver.events()[0]["id"] == "m/2"


def test_nobody_there():
    with Receiver() as receiver:
        url = receiver.url
    waits: list[float] = []
    webhook = hook(url, waits)
    webhook.offer("rollout.abort", "m", "m/1", {})
    deliver(webhook)
    assert webhook.counts["dead"] == 1
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("idle", [0, 1], ids=["for the call", "for its time limit"])
def test_a_thread_that_cannot_be_started_is_one_failed_attempt(monkeypatch: pytest.MonkeyPatch, idle: int):
    """It ended the loop for ever: nobody heard of anything any more."""
    with ThreadPoolExecutor(4) as pool, Receiver() as receiver:
        monkeypatch.setattr("gateway.monitor.beside._THREADS", pool)
        assert [pool.submit(int).result() for _ in range(idle)] == [0] * idle
        with no_threads() as given_again:

            async def pause(_: float) -> None:
                given_again()

            webhook = Webhook(receiver.url, SECRET.encode(), source="/", now_s=lambda: 0.0, pause=pause)
            webhook.offer("rollout.abort", "m", "m/1", {})
            webhook.offer("rollout.step", "m", "m/2", {})
            deliver(webhook)
        assert webhook.counts == {"delivered": 2, "attempts_failed": 1, "dead": 0}
        assert [event["id"] for event in receiver.events()] == ["m/1", "m/2"]


def test_a_call_that_got_no_thread_is_not_made_by_another_one_later(monkeypatch: pytest.MonkeyPatch):
    """Who asked tries again; a training would start twice."""
    made: list[int] = []
    silent = threading.Event()

    async def story() -> None:
        busy = asyncio.ensure_future(beside(silent.wait, 20))
        await asyncio.sleep(0)
        with no_threads(), pytest.raises(OSError, match="can't start new thread"):
            await beside(made.append, 1)
        silent.set()
        await busy
        await beside(made.append, 2)

    with ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr("gateway.monitor.beside._THREADS", pool)
        asyncio.run(asyncio.wait_for(story(), 20))
    assert made == [2]


def test_whatever_one_event_meets_the_next_goes_on(caplog: pytest.LogCaptureFixture):
    """Anything but an OSError ended the loop."""
    with Receiver() as receiver:

        def send(url: str, body: bytes, headers: Mapping[str, str]) -> int:
            if json.loads(body)["id"] == "m/1":
                raise LookupError("nobody thought of it")
            return post(url, body, headers)

        async def pause(_: float) -> None:
            pass

        webhook = Webhook(receiver.url, SECRET.encode(), source="/", now_s=lambda: 0.0, send=send, pause=pause)
        webhook.offer("rollout.abort", "m", "m/1", {})
        webhook.offer("rollout.step", "m", "m/2", {})
        deliver(webhook)
        assert webhook.counts == {"delivered": 1, "attempts_failed": ATTEMPTS, "dead": 1}
        assert [event["id"] for event in receiver.events()] == ["m/2"]
    assert webhook.status()["dead_letters"][0]["reason"] == "unexpected: LookupError"
    assert [one.getMessage() for one in caplog.records].count("webhook_attempt_failed") == ATTEMPTS
    assert all(one.exc_info for one in caplog.records if one.getMessage() == "webhook_attempt_failed")


def test_a_slow_receiver_holds_up_nobody_and_the_queue_is_bounded():
    with Receiver() as receiver:
        receiver.gate.clear()
        webhook = hook(receiver.url, [])

        async def scene() -> None:
            task = asyncio.create_task(webhook.run())
            for number in range(QUEUE + 5):
                webhook.offer("rollout.step", "m", f"m/{number}", {})
            assert webhook.status()["waiting"] == QUEUE
            assert webhook.counts == {"delivered": 0, "attempts_failed": 0, "dead": 5}
            task.cancel()
            receiver.gate.set()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(scene())


def test_a_status_tells_no_secret():
    webhook = Webhook("http://user:pass@127.0.0.1:9/x?token=1", b"s" * 16, source="", now_s=lambda: 0.0)
    assert webhook.status()["host"] == "127.0.0.1:9"


@pytest.mark.parametrize(
    ("url", "content", "named"),
    [
        ("ftp://127.0.0.1/", "x" * 16, "webhook_url"),
        ("http://", "x" * 16, "webhook_url"),
        ("http://127.0.0.1/", None, "webhook_secret_file"),
        ("http://127.0.0.1/", " short \n", "at least 16 bytes, got 5"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, url: str, content: str | None, named: str):
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=named):
        read_secret(Alerts(webhook_url=url, webhook_secret_file=str(path)))


def test_events_are_signed_or_not_sent():
    with pytest.raises(ConfigError, match="events are signed"):
        read_secret(Alerts(webhook_url="http://127.0.0.1/"))


def test_a_secret_without_a_webhook_of_the_node_signs_for_monitors(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("0123456789abcdef\n")
    assert read_secret(Alerts(webhook_secret_file=str(path))) == b"0123456789abcdef"
    assert read_secret(Alerts()) == b""
