"""What callers sent is shown, and nothing of it acts on the terminal."""

from gateway.cli.experiment import _sample_lines

SAMPLE = {
    "time_ms": 0, "request": "r-1", "variant": "next", "why": ["failed"], "rows": 3, "kept": [0, 2],
    "inputs": [{"name": "x", "shape": [2], "data": ["\x1b[2Jgone\x9b1m", "é\n"]}],
    "answered": [{"name": "y", "shape": [40], "data": [0.5, "NaN", *range(38)]}],
    "shadow": None, "error": "no such row\r\x07",
}  # fmt: skip


def test_a_sample_is_shown_in_lines_of_printable_text() -> None:
    lines = list(_sample_lines(SAMPLE))
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith("request r-1  failed  row 0, 2 of 3")
    assert lines[1] == '  input x [2]: "\\x1b[2Jgone\\x9b1m", "é\\n"'
    assert lines[2].startswith("  answered y [40]: 0.5, NaN, 0, 1, 2, ")
    assert lines[2].endswith("28, 29, ...")
    assert lines[3] == "  next failed: no such row\\r\\x07"
