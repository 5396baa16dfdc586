"""The report of a run: a markdown table for people, JSON with every raw number, and the machine it ran on."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from loadtests.rounds import Record, Settings
from loadtests.verdicts import Verdict

LIBRARIES = ("tidegate", "uvicorn", "uvloop", "httptools", "onnxruntime", "numpy", "orjson", "pysimdjson", "msgspec")


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "hot_path": hot_path(),
        "wrk": output("wrk", "-v").partition("\n")[0].partition(" Copyright")[0],
        "commit": output("git", "rev-parse", "HEAD").strip(),
        "uncommitted_files": len(output("git", "status", "--porcelain").splitlines()),
        "load_average": list(os.getloadavg()),
    }


def hot_path() -> str:
    """How the servers here run, as they say themselves."""
    said = output(str(Path(sys.executable).with_name("tidegate")), "version", "--json")
    return "unknown" if not said else "compiled" if json.loads(said)["compiled"] else "interpreted"


def cpu_model(cpuinfo: str) -> str:
    """The first processor's name."""
    named = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return named[0] if named else platform.machine()


def library_version(name: str) -> str:
    """The installed version, or that there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def output(*command: str) -> str:
    """What a command prints, nothing when it is not there. wrk -v ends with 1."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def table(found: Sequence[Verdict]) -> str:
    """The verdicts as a markdown table, every round in the last column."""
    head = ["| work | reach | measured | verdict | rounds |", "| --- | --- | --- | --- | --- |"]
    cells = ([one.work, one.reach, one.measured, one.outcome, "; ".join(one.rounds)] for one in found)
    return "\n".join(head + ["| " + " | ".join(map(cell, line)) + " |" for line in cells])


def cell(text: str) -> str:
    """Text that does not break the table."""
    return text.replace("|", "\\|").replace("\n", " / ").strip()


def markdown(found: Sequence[Verdict], about: dict[str, Any], settings: Settings, notes: Sequence[str]) -> str:
    """The whole page."""
    libraries = ", ".join(f"{name} {number}" for name, number in about["libraries"].items())
    lines = [
        f"# Load test, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "",
        f"{about['cpu']}, {about['usable_cores']} cores, Linux {about['kernel']}, Python {about['python']}.",
        f"{about['wrk']}, {libraries}.",
        f"Hot path {about['hot_path']}. "
        f"Commit {about['commit'] or 'unknown'} with {about['uncommitted_files']} uncommitted files.",
        f"{settings.rounds} interleaved rounds of {settings.seconds} s; ratios are of medians over the kept rounds; "
        f"a round with more than {100 * settings.max_foreign:.0f} % of a core of foreign CPU is thrown away, repeated.",
        *notes,
        "",
        table(found),
        "",
    ]
    return "\n".join(lines)


def write(folder: Path, found: Sequence[Verdict], record: Record, settings: Settings, notes: Sequence[str]) -> str:
    """Write DATE.json and DATE.md and return the page; the date goes to the second, so that no run replaces another."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    page = markdown(found, about, settings, notes)
    raw = {
        "command": sys.argv,
        "machine": about,
        "settings": {"rounds": settings.rounds, "seconds": settings.seconds, "max_foreign": settings.max_foreign},
        "notes": list(notes),
        "verdicts": [asdict(one) for one in found],
        "kept": record.kept,
        "thrown_away": record.thrown,
    }
    stem = folder / datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    stem.with_suffix(".md").write_text(page)
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1))
    return f"{page}\nwritten: {stem}.md, {stem}.json"
