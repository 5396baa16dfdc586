"""Each internal of uvicorn and httptools that the fast lane leans on: an upgrade that moves one fails here first."""

import inspect
from importlib.metadata import version

import httptools
import pytest
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from gateway.http.answers import Rejection
from gateway.http.fast_lane import FastExchange


def test_the_pinned_minor_version() -> None:
    assert version("uvicorn").startswith("0.54.")


def test_the_constructor_takes_what_we_pass_on() -> None:
    names = list(inspect.signature(HttpToolsProtocol.__init__).parameters)
    assert names == ["self", "config", "server_state", "app_state", "_loop"]


@pytest.mark.parametrize(
    "name",
    [
        *["connection_made", "connection_lost", "eof_received", "data_received", "on_message_begin", "on_url"],
        *["on_header", "on_headers_complete", "on_body", "on_message_complete", "on_response_complete", "shutdown"],
        *["pause_writing", "resume_writing", "timeout_keep_alive_handler", "_start_asgi_task"],
    ],
)
def test_methods_that_are_overridden_exist(name: str) -> None:
    assert callable(getattr(HttpToolsProtocol, name))


@pytest.mark.parametrize("name", ["cycle", "pipeline", "parser", "flow", "headers", "url", "scope", "transport", "app"])
def test_attributes_that_are_used_are_set_by_the_protocol(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(HttpToolsProtocol)


def test_a_cycle_has_the_attributes_that_ours_imitate() -> None:
    source = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("disconnected", "response_complete", "keep_alive", "message_event"):
        assert f"self.{name}" in source
        assert hasattr(FastExchange, name) or name in Rejection.__slots__
        assert name in Rejection.__slots__


def test_an_unfinished_cycle_is_marked_and_woken_when_the_connection_is_lost() -> None:
    source = inspect.getsource(HttpToolsProtocol.connection_lost)
    assert "self.cycle.disconnected = True" in source
    assert "self.cycle.message_event.set()" in source


def test_the_pipeline_is_a_deque_of_cycle_and_app_taken_from_the_right() -> None:
    assert "self.pipeline.pop()" in inspect.getsource(HttpToolsProtocol.on_response_complete)
    assert "appendleft" in inspect.getsource(HttpToolsProtocol)


def test_the_slow_lane_copies_the_state_that_the_request_id_goes_into() -> None:
    assert "self.app_state.copy()" in inspect.getsource(HttpToolsProtocol.on_message_begin)


def test_flow_control_pauses_once_and_resumes_once() -> None:
    calls: list[str] = []

    class Transport:
        def pause_reading(self) -> None:
            calls.append("pause")

        def resume_reading(self) -> None:
            calls.append("resume")

    flow = FlowControl(Transport())  # type: ignore[arg-type]
    for act in (flow.pause_reading, flow.pause_reading, flow.resume_reading, flow.resume_reading):
        act()
    assert calls == ["pause", "resume"]


def test_the_server_is_driven_in_parts() -> None:
    assert "sockets" in inspect.signature(Server.startup).parameters
    assert inspect.iscoroutinefunction(Server.main_loop)
    assert "self.servers" in inspect.getsource(Server.startup)
    assert hasattr(ServerState(), "total_requests")


class Recorder:
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_message_begin(self) -> None:
        self.events.append("begin")

    def on_url(self, url: bytes) -> None:
        self.events.append(f"url {url.decode()}")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.events.append(f"header {name.decode()}={value.decode()}")

    def on_headers_complete(self) -> None:
        self.events.append("headers")

    def on_body(self, body: bytes) -> None:
        self.events.append(f"body {body.decode()}")

    def on_message_complete(self) -> None:
        self.events.append("complete")


def test_the_parser_reports_in_this_order_and_keeps_the_spelling() -> None:
    recorder = Recorder()
    httptools.HttpRequestParser(recorder).feed_data(b"POST /a HTTP/1.1\r\nHoSt: b\r\nContent-Length: 2\r\n\r\nhi")
    wanted = ["begin", "url /a", "header HoSt=b", "header Content-Length=2", "headers", "body hi", "complete"]
    assert recorder.events == wanted


def test_an_upgrade_is_told_after_the_message_with_the_offset_of_the_rest() -> None:
    recorder = Recorder()
    parser = httptools.HttpRequestParser(recorder)
    data = b"GET /a HTTP/1.1\r\nhost: b\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\nREST"
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        parser.feed_data(data)
    assert recorder.events[-1] == "complete"
    assert data[upgrade.value.args[0] :] == b"REST"


def test_the_module_knows_the_status_lines_that_both_lanes_send() -> None:
    assert httptools_impl.STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert httptools_impl.STATUS_LINE[429] == b"HTTP/1.1 429 Too Many Requests\r\n"


def test_a_cycle_ends_a_connection_through_its_transport_before_it_says_that_it_is_done() -> None:
    source = inspect.getsource(RequestResponseCycle.send)
    assert source.index("self.transport.close()") < source.index("self.on_response()")
    everything = inspect.getsource(RequestResponseCycle)
    used = {part.split("(")[0].split(")")[0].split()[0] for part in everything.split("self.transport.")[1:]}
    assert used == {"write", "close", "is_closing"}
