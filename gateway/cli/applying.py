"""Documents of a running server, by its admin port: policies and monitors alike."""

from collections.abc import Iterable
from typing import Any

from gateway.cli.client import Refused, admin_url, call
from gateway.cli.output import print


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
    """What is wrong with the folder, and with files that may be of a kind.

    Args:
        told: names whose problem has been printed.
    """
    if folder["problem"]:
        print(f"policy folder: {folder['problem']}")
    for file in folder["files"]:
        if file["problem"] and file["kind"] in (kind, "") and file["name"] not in told:
            print(f"{file['file']}: {file['problem']}")
