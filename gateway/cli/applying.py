"""Documents of a running server, by its admin port: policies and monitors alike."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from gateway.cli.client import Refused, admin_url, call
from gateway.cli.documents import difference
from gateway.cli.output import Failure, print

Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit.")]
IfMatch = Annotated[
    int | None, typer.Option("--if-match", metavar="N", help="Only if generation N is in force; 0 = none is.")
]
Force = Annotated[bool, typer.Option("--force", help="Whatever is in force.")]
SLOW_S: Final = 120.0
"""A version that a document names may have to be copied and probed first."""
_TRIES: Final = 5


def url_of(admin: str | None, section: str, name: str, *more: str) -> str:
    """Where a document, or what belongs to it, is.

    Args:
        section: policies, rollouts or monitors.
    """
    return "/".join([f"{admin_url(admin)}/admin/v1/{section}/{quote(name, safe='')}", *more])


def not_yet(answer: Mapping[str, Any]) -> str:
    """What to say of a change that is not in force everywhere yet."""
    nodes = ", ".join(answer["nodes_behind"])
    return "SOME WORKERS DO NOT ACT ON IT YET" + (f", those of {nodes}" if nodes else "")


def with_query(url: str, **query: str) -> str:
    """A URL with those of the parameters that are not empty."""
    from urllib.parse import urlencode

    text = urlencode({key: value for key, value in query.items() if value})
    return f"{url}?{text}" if text else url


def generation_of(url: str) -> int:
    """The generation of the document that is in force; 0 = none is."""
    try:
        return int(call("GET", url).json()["generation"])
    except Refused as refused:
        if refused.status == 404:
            return 0
        raise


def put(url: str, text: str, if_match: int | None, force: bool, reason: str, *, reset: bool = False) -> dict[str, Any]:
    """Put a document in force over the generation that is named, or is there now; `force` = over any that comes.

    Args:
        reset: an experiment that has data may begin anew.

    Raises:
        Failure: both are given.
        Refused: somebody else was faster (412), or why the server does not take it.
    """
    if force and if_match is not None:
        raise Failure("give --if-match or --force, not both", 2)
    where, tries = with_query(url, reason=reason, reset="true" if reset else ""), _TRIES if force else 1
    while True:
        seen = generation_of(url) if if_match is None else if_match
        headers = {"if-none-match": "*"} if seen == 0 else {"if-match": f'"{seen}"'}
        try:
            done: dict[str, Any] = call("PUT", where, timeout_s=SLOW_S, text=text, headers=headers).json()
        except Refused as refused:
            tries -= 1
            if refused.status != 412 or tries <= 0:
                raise
        else:
            return done


def stale(refused: Refused, current: dict[str, Any], document: object, file: str) -> Failure:
    """A refusal because somebody else was faster, with how the file differs from what is in force now.

    Args:
        current: as the server shows what is in force.
    """
    lines = difference(current["document"], document, f"generation {current['generation']}", file)
    by = f"{current['applied_by']} applied generation {current['generation']} {when(current['applied_ms'])}; "
    told = [
        refused.message,
        f"{by if current['generation'] else ''}this is how the file differs from it:",
        *(lines or ["(not at all)"]),
        *(f"  {line}" for line in refused.body.get("diff", [])),
    ]
    return Failure("\n".join(told))


def refused_text(file: str, problems: Sequence[object]) -> str:
    """That a file was refused, with every problem."""
    return "\n".join([f"{file} was refused, nothing has changed:", *(f"  {problem}" for problem in problems)])


def when(ms: int) -> str:
    """A time for people, in their zone."""
    from datetime import datetime

    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def folder_of(admin: str | None) -> dict[str, Any]:
    """The watched folder; one without files where the key may not see it."""
    try:
        found: dict[str, Any] = call("GET", f"{admin_url(admin)}/admin/v1/folder").json()
    except Refused as refused:
        if refused.status != 403:
            raise
        return {"watched": None, "problem": "", "files": []}
    return found


def print_folder(folder: dict[str, Any], kind: str, told: Iterable[str]) -> None:
    """What is wrong with the folder, and with files that may be of a kind, and what is most likely a slip in them.

    Args:
        told: names whose problem has been printed.
    """
    if folder["problem"]:
        print(f"policy folder: {folder['problem']}")
    for file in folder["files"]:
        if file["problem"] and file["kind"] in (kind, "") and file["name"] not in told:
            print(f"{file['file']}: {file['problem']}")
        for warning in file["warnings"] if file["kind"] == kind else ():
            print(f"{file['file']}: warning: {warning}")
