"""Tables for people: what others wrote stands in them as they wrote it."""

import pytest

from gateway.cli.output import print_table


def test_text_that_looks_like_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("of [/b]", ["reason"], [["see [TICKET-1], not [/this] :smile:"]])
    shown = capsys.readouterr().out
    assert "of [/b]" in shown
    assert "see [TICKET-1], not [/this] :smile:" in shown
