"""Documents on the command line: read from files, checked offline, compared, written as YAML."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import Failure, Json, print, print_json

File = Annotated[str, typer.Argument(metavar="FILE|-", help="A policy document in YAML; - = standard input.")]
_MOST_BYTES = 1024 * 1024


def text_of(file: str) -> str:
    """What a file, or with - standard input, holds. Raises Failure: it cannot be read."""
    try:
        content = sys.stdin.buffer.read(_MOST_BYTES + 1) if file == "-" else Path(file).read_bytes()
        if len(content) > _MOST_BYTES:
            raise Failure(f"{file}: longer than {_MOST_BYTES:,} bytes", 2)
        return content.decode()
    except OSError as error:
        raise Failure(f"{file}: cannot be read: {error.strerror}", 2) from error
    except UnicodeDecodeError as error:
        raise Failure(f"{file}: not UTF-8", 2) from error


def name_of(text: str, file: str) -> str:
    """The model name that a document is about. Raises Failure: it is no YAML, or names none."""
    from gateway.control.reading import read_policy

    read = read_policy(text)
    if not read.name:
        found = str(read.problems[0]) if read.document is None else "metadata.name is missing: whose policy is it?"
        raise Failure(f"{file}: {found}", 3)
    return read.name


def problems_of(text: str) -> list[dict[str, Any]]:
    """What is wrong with a document, as far as it can be told without a server."""
    import dataclasses

    from gateway.control.reading import read_policy
    from gateway.monitordocument import read_monitor

    read = read_policy(text)
    problems = read_monitor(text).problems if read.kind == "Monitor" else read.problems
    return [dataclasses.asdict(one) | {"text": str(one)} for one in problems]


def validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="TrafficPolicy and Monitor documents; - = standard input.")
    ],
    as_json: Json = False,
) -> None:
    """Check documents without a server; exit 3 when one is wrong, with every problem, its line and its path."""
    found = {file: problems_of(text_of(file)) for file in files}
    if as_json:
        print_json([{"file": file, "ok": not problems, "problems": problems} for file, problems in found.items()])
    for file, problems in found.items() if not as_json else ():
        for problem in problems:
            print(f"{file}: {problem['text']}")
        if not problems:
            print(f"{file}: ok")
    wrong = sum(1 for problems in found.values() if problems)
    if wrong:
        raise Failure(f"{wrong} of {len(found)} documents cannot be used", 3)


def as_yaml(document: object) -> str:
    """A document as YAML that reads back as the same values."""
    import yaml

    class Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # chosen when PyYAML was built
        """Writes values out: our reader takes no anchors."""

        def ignore_aliases(self, data: object) -> bool:
            """Always."""
            return True

    # PyYAML quotes what YAML 1.1 would read otherwise, which is more than the core schema that reads it back.
    written: str = yaml.dump(document, Dumper=Plain, sort_keys=False, width=1000, allow_unicode=True)
    return written


def difference(before: object, after: object, was: str, becomes: str) -> list[str]:
    """Lines of a unified diff between two documents; [] = they say the same."""
    import difflib

    if before == after:
        return []
    one = [] if before is None else as_yaml(before).splitlines()
    two = [] if after is None else as_yaml(after).splitlines()
    return list(difflib.unified_diff(one, two, was, becomes, lineterm=""))
