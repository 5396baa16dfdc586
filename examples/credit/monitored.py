"""Act three of the demo: the drift monitor watches the scoring model, says whose fault a change is, and acts on that.

A version whose answers are not those of its validation is rolled back. Then other people ask for loans: both versions
see it, so nothing is rolled back, and retraining is asked for. Labels come later and confirm it.
"""

import string
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from examples.credit.admin import TICK_S, Admin, policy_of
from examples.credit.build import CREDIT
from examples.credit.crowd import ENDS
from examples.credit.office import Office, Told
from examples.credit.receiver import Note, Receiver
from examples.credit.report import Check, number, table
from examples.credit.server import HOST, POLL_SECONDS, Server, ServerProblem

DOCUMENTS: Final = Path(__file__).parent / "monitor"
PATIENCE_S: Final = 60.0
"""For one thing that is waited for; far more than any takes, also on a slow machine."""
SETTLE_S: Final = 5.0
WINDOWS: Final = 2
"""Without an alarm, before something is changed."""
ALL_SLOTS: Final = 10_000
METRICS: Final = ("accuracy", "precision", "recall", "specificity", "roc_auc")

View = Mapping[str, Any]
"""What the admin port says of the monitor, with the rollout under `rollout`."""


def document(receiver: Receiver, secret_file: Path) -> bytes:
    """The Monitor document, with the addresses of this run."""
    text = (DOCUMENTS / "monitor.yaml").read_text()
    return string.Template(text).substitute(RECEIVER=receiver.url, SECRET_FILE=secret_file).encode()


def series(view: View, variant: str) -> Mapping[str, Any]:
    """What is known of a variant: the version that it has now; empty before its first row."""
    versions = {one["variant"]: one["version"] for one in _arms(view)}
    found: Mapping[str, Any] = view["versions"].get(versions.get(variant), {}).get("variants", {}).get(variant, {})
    return found


def _arms(view: View) -> list[dict[str, str]]:
    roles = view["roles"]
    return [{"variant": arm[1], "version": arm[0]} for arm in (roles["champion"], roles["canary"]) if arm]


def states(view: View, variant: str) -> dict[str, str]:
    """Signal -> state of a variant."""
    return {signal: one["state"] for signal, one in series(view, variant).get("signals", {}).items()}


def well(view: View, variant: str) -> bool:
    """Enough windows of a variant were judged, and no signal of them is more than well."""
    judged = [one for one in series(view, variant).get("windows", ()) if not one["reason"]]
    return len(judged) >= WINDOWS and not {"pending", "firing"} & set(states(view, variant).values())


def line(view: View) -> str:
    """What is seen of both variants and the rollout, in words."""
    parts = [f"{arm['variant']} (version {arm['version']}): {_said(view, arm['variant'])}" for arm in _arms(view)]
    rollout = view["rollout"]
    if rollout and rollout["state"] in ENDS:
        parts.append(rollout["state"].lower().replace("_", " "))
    elif rollout and rollout["slots"]:
        parts.append(f"canary gets {rollout['slots'] / (ALL_SLOTS / 100):g} %")
    return "; ".join(parts)


def _said(view: View, variant: str) -> str:
    found = states(view, variant)
    if not found:
        return "no window yet"
    loud = [
        f"{', '.join(signal for signal in found if found[signal] == state)} {state}"
        for state in ("firing", "pending")
        if state in found.values()
    ]
    return ", ".join(loud) or "well"


class Desk:
    """Watches: what the monitor says, the rollout, and what the receiver was told; prints what is new."""

    def __init__(self, admin: Admin, receiver: Receiver, office: Office, screen: Console) -> None:
        self.admin = admin
        self._receiver = receiver
        self._office = office
        self._screen = screen
        self._started_s = time.monotonic()
        self._line, self._printed = "", 0

    def view(self) -> View:
        """How it stands now."""
        found: dict[str, Any] = self.admin.call("GET", f"monitors/{CREDIT}")
        return found | {"rollout": self.admin.rollout() if self.admin.identity() else None}

    def until(self, holds: Callable[[View], bool], patience_s: float = PATIENCE_S) -> View:
        """Watch until something holds, or patience is over; how it stood then."""
        until_s = time.monotonic() + patience_s
        while True:
            view = self.view()
            self._show(view)
            if holds(view) or time.monotonic() > until_s or self._office.is_over:
                return view
            time.sleep(TICK_S)

    def _show(self, view: View) -> None:
        at = f"{time.monotonic() - self._started_s:5.1f} s"
        now = line(view)
        if now != self._line:
            self._screen.print(f"{at}  {now}", soft_wrap=True)
            self._line = now
        notes = self._receiver.notes[self._printed :]
        self._printed += len(notes)
        for note in notes:
            self._screen.print(f"{' ' * len(at)}    {told(note)}", soft_wrap=True)


def told(note: Note) -> str:
    """An event as people read it."""
    data = note.data
    if not note.kind.startswith("incident."):
        features = ", ".join(data["features"][:4])
        return f"asked to train {data['model']}:{data['version']} anew: {', '.join(data['signals'])} ({features})"
    if note.kind == "incident.closed":
        return f"told: {note.kind}: {data['reason']}"
    return f"told: {note.kind}, {data['severity']}, verdict {data['verdict']}: {data['sentence']}\n{_reasons(data)}"


def _reasons(data: Mapping[str, Any]) -> str:
    return "\n".join(f"{' ' * 14}{reason}" for reason in data["reason"].split("; "))


# ---- the scenes ----


def begin(desk: Desk, screen: Console) -> list[Check]:
    """Version 1 answers everybody, and is watched."""
    view = desk.until(lambda view: well(view, "stable"))
    for version, one in sorted(view["versions"].items()):
        found = one["reference"]
        screen.print(f"    version {version}: reference of {found['rows']:,} rows, {found['features']} features")
    return [(f"version 1 is watched and well: {_windows(view, 'stable')} windows", well(view, "stable"))]


def _windows(view: View, variant: str) -> int:
    return len(series(view, variant).get("windows", ()))


def shifted_variant(desk: Desk, receiver: Receiver, screen: Console) -> list[Check]:
    """Version 3 gives other answers than in its validation: the canary alone has changed."""
    screen.print(
        "\nversion 3: its validation corrected the scores for the share of defaults, its exported file does not"
    )
    before = len(receiver.notes)
    identity = desk.admin.begin(DOCUMENTS / "version-3.yaml")
    view = desk.until(lambda view: view["rollout"] is not None and view["rollout"]["state"] in ENDS)
    desk.until(lambda view: any(one.data.get("verdict") == "model" for one in receiver.notes[before:]), SETTLE_S)
    aborted = [one for one in view["rollout"]["history"] if one["identity"] == identity and one["phase"] == "ABORTING"]
    actor = aborted[-1]["actor"] if aborted else "nobody"
    verdicts = [one.data["verdict"] for one in receiver.notes[before:] if one.kind.startswith("incident.")]
    stable = states(view, "stable")
    return [
        (f"version 3, whose answers are shifted: {view['rollout']['state']} by {actor}",
         view["rollout"]["state"] == "ROLLED_BACK" and actor == "auto:monitor"),
        (f"the receiver was told why: verdict {', '.join(dict.fromkeys(verdicts))}", "model" in verdicts),
        ("stable, beside it, had no drift", "firing" not in (stable["input_drift"], stable["prediction_drift"])),
    ]  # fmt: skip


def other_people(desk: Desk, receiver: Receiver, office: Office, screen: Console) -> list[Check]:
    """A campaign brings other applicants: both variants see it, so no version is to blame."""
    screen.print("\nversion 2, a good one, gets half of the applicants")
    desk.admin.begin(DOCUMENTS / "version-2.yaml")
    view = desk.until(lambda view: well(view, "stable") and well(view, "canary") and view["incident"] is None)
    calm = well(view, "canary") and view["incident"] is None
    screen.print("\na campaign begins: from now on larger loans over a longer time are asked for")
    before = len(receiver.notes)
    office.begin_campaign()
    view = desk.until(lambda view: is_world(view) and bool(retrainings(receiver.notes[before:])))
    named = {variant: series(view, variant)["signals"]["input_drift"]["keys"] for variant in ("stable", "canary")}
    asked = retrainings(receiver.notes[before:])
    return [
        ("before the campaign both versions are well, and the first incident is closed", calm),
        (f"after it both have other inputs: {', '.join(sorted(set(named['stable']) & set(named['canary'])))}",
         is_world(view)),
        (f"verdict {view['attribution']['verdict']}: {view['attribution']['sentence']}",
         view["attribution"]["verdict"] == "world"),
        (f"retraining was asked for: {len(asked)} request", len(asked) == 1),
    ]  # fmt: skip


def is_world(view: View) -> bool:
    """An incident is open in which both variants have other inputs."""
    both = all(states(view, variant).get("input_drift") == "firing" for variant in ("stable", "canary"))
    return both and view["incident"] is not None and view["attribution"]["verdict"] == "world"


def retrainings(notes: Sequence[Note]) -> list[Note]:
    """Requests for retraining among what came."""
    return [one for one in notes if one.path == "/retrain"]


def labels_confirm(desk: Desk, screen: Console) -> list[Check]:
    """What became of the loans: the estimate was right."""
    screen.print("\nlabels of these applicants come in, some seconds after the decisions (in life, months)")
    view = desk.until(lambda view: is_worse(view, "stable"))
    found, delay = states(view, "stable"), series(view, "stable")["label_delay_s"]
    screen.print(performance_table(view, "stable"))
    screen.print(fairness_table(view))
    groups = [one for variant in ("stable", "canary") for one in series(view, variant).get("fairness", ())]
    lowest = min((one["disparate_impact"] for one in groups if one.get("disparate_impact") is not None), default=1.0)
    rollout = view["rollout"]
    return [
        (f"performance of stable: estimated {found['performance_estimated']}, and by labels, which come "
         f"{delay.get('0.5', float('nan')):.0f} s later, {found.get('performance_realised', 'unknown')}",
         is_worse(view, "stable")),
        (f"age groups are compared in both versions; the lowest ratio of refusals is {lowest:.2f}",
         len(groups) == 4 and all(one["compared"] for one in groups)),
        (f"nothing was rolled back: version 2 goes on with half of the applicants, {len(view['leases'])} leases",
         rollout["state"] not in ENDS and rollout["slots"] == ALL_SLOTS // 2 and not view["leases"]),
    ]  # fmt: skip


def is_worse(view: View, variant: str) -> bool:
    """Performance has fallen, by the estimate and by labels."""
    found = states(view, variant)
    return found["performance_estimated"] == found.get("performance_realised") == "firing"


# ---- what is shown ----


def performance_table(view: View, variant: str) -> Table:
    """Reference, estimate and truth of a variant."""
    one = series(view, variant)
    estimated = [window["estimated"] for window in one["windows"] if window["estimated"]]
    realised = [cohort for cohort in one["cohorts"] if cohort["state"] == "ok"]
    columns = [one["reference_performance"], *estimated[-1:], *realised[-1:]]
    names = [variant, "in the reference", "estimated now", "by labels"][: len(columns) + 1]
    rows = [[name, *(number(column["values"].get(name, float("nan"))) for column in columns)] for name in METRICS]
    return table(f"Performance of {variant}, without and with labels", names, rows, 1)


def fairness_table(view: View) -> Table:
    """Refusals by group and variant, in the last window."""
    rows = [
        [variant, one["group"], f"{one['rows']:,}" if one["compared"] else str(one["rows"]),
         *(number(float("nan") if one.get(name) is None else one[name]) for name in ("rate", "disparate_impact"))]
        for variant in ("stable", "canary")
        for one in series(view, variant).get("fairness", ())
    ]  # fmt: skip
    title = "Refusals by age group in the last window (ratio 1 = refused most)"
    return table(title, ["variant", "group", "rows", "refused", "ratio"], rows, 2)


# ---- the act ----


def act(server: Server, receiver: Receiver, secret_file: Path, screen: Console) -> list[Check]:
    """All scenes on a server that runs; the office's answers and the monitor's counts are compared in the end."""
    admin = Admin(server.admin_url)
    admin.apply(policy_of(1))
    apply(admin, document(receiver, secret_file))
    screen.print(f"the monitor tells {receiver.url}; applicants come, and their age group is in a header")
    with Office((HOST, server.port)) as office:
        desk = Desk(admin, receiver, office, screen)
        checks = begin(desk, screen)
        scenes: list[Callable[[], list[Check]]] = [
            lambda: shifted_variant(desk, receiver, screen),
            lambda: other_people(desk, receiver, office, screen),
            lambda: labels_confirm(desk, screen),
        ]
        for scene in scenes:
            if all(good for _, good in checks):
                checks += scene()
        heard = office.end()
    if heard.problem:
        screen.print(f"problem: {heard.problem}")
    return [*checks, *office_checks(desk, heard), signature_check(receiver.notes)]


def apply(admin: Admin, body: bytes) -> None:
    """Put the Monitor document in force: control reads it once a second."""
    generation = admin.call("PUT", f"monitors/{CREDIT}", body)["generation"]
    until = time.monotonic() + SETTLE_S
    while (CREDIT, generation) not in {(one["name"], one["generation"]) for one in admin.call("GET", "monitors")}:
        if time.monotonic() > until:
            raise ServerProblem(f"the monitor's document is not in force after {SETTLE_S:.0f} s")
        time.sleep(TICK_S)


def office_checks(desk: Desk, heard: Told) -> list[Check]:
    """No applicant noticed anything, every label was taken, and every answer was counted."""
    answers, kept = heard.answers.total(), heard.labels["new"]
    until = time.monotonic() + SETTLE_S
    while (rows := int(desk.view()["rows"])) != answers and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return [
        (f"{heard.requests:,} applications, {heard.failed} of them failed", heard.requests > 0 and not heard.failed),
        (f"{heard.labels.total():,} labels were sent, {kept:,} were new to the server",
         kept > 0 and kept == heard.labels.total()),
        (f"office and monitor count the same answers: {answers:,} and {rows:,}", answers == rows),
    ]  # fmt: skip


def signature_check(notes: Sequence[Note]) -> Check:
    """Who tells is who it says."""
    signed = sum(note.signed for note in notes)
    return f"{len(notes)} events came to the receiver, {signed} of them rightly signed", 0 < len(notes) == signed
