"""All of one rollout as a page for an auditor: plain words first, numbers behind them. Pure.

Made from what `Auditor.rollout` gives. Every text of others is escaped; the page loads nothing and runs no script.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from gateway.control.exposure import in_words
from gateway.tally import BAD, OK, ROUTED

Record = Mapping[str, Any]

_WORDS: Final = {
    "apply": "The policy was applied",
    "rollback": "An earlier policy was put in force again",
    "delete": "The policy was removed",
    "step": "The canary was given another share of the traffic",
    "promoting": "All traffic was given to the canary",
    "promoted": "The canary became the stable version",
    "abort": "The canary was rolled back",
    "superseded": "Another rollout was wanted: this one ended",
    "hold": "The rollout stood still",
    "go on": "The rollout could go on",
    "pause": "The rollout was paused",
    "resume": "The rollout was resumed",
    "approve": "A person agreed to the step",
    "promote": "A person asked for promotion without waiting for evidence",
    "retry": "A person let a rolled back rollout start again",
    "plan": "The steps were edited",
    "kill": "A person took a variant out",
    "unkill": "A person let a variant back in",
}
_ENDS: Final = {
    "promoted": ("promoted", "The new version passed and now answers everybody."),
    "abort": ("rolled back", "The new version was taken out; the stable version answers everybody."),
    "superseded": ("superseded", "The rollout was replaced before it had ended."),
}
_STATES: Final = {
    "passes": "shown to be no worse than allowed",
    "tripped": "shown to be worse than allowed",
    "undecided": "neither shown to be worse nor to be no worse",
    "insufficient": "not enough requests to say",
    "saturated": "too many failing users to count them apart",
}
_RULES: Final = {
    "auto:rollout": "the rollout's own rules",
    "auto:timeout": "the policy's time limit",
    "auto:rollbackWindow": "the policy's window for going back",
    "auto:crashes": "the rule on crashes",
}
WIDTH, HEIGHT, LEFT, BOTTOM = 900, 220, 46, 28
_STYLE: Final = """
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--soft:#57606a;--line:#d0d7de;--box:#f6f8fa;--canary:#b35900;
--good:#1a7f37;--bad:#c62828;--fill:#b3590026}
@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--soft:#9aa4af;--line:#30363d;--box:#161b22;
--canary:#f0a35e;--good:#56d364;--bad:#ff7b72;--fill:#f0a35e33}}
body{font:15px/1.55 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:960px;margin:2.5rem auto;
padding:0 1.2rem}
h1{font-size:1.7rem;margin:0 0 .3rem}
h2{font-size:1.15rem;margin:2.4rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
h3{font-size:1rem;margin:0}
p{margin:.4rem 0}
.soft,small{color:var(--soft)}
.good{color:var(--good)}
.bad{color:var(--bad)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.85rem}
.verdict{border:1px solid var(--line);border-left:6px solid var(--soft);background:var(--box);padding:.8rem 1.1rem;
margin:1.2rem 0}
.verdict.good{border-left-color:var(--good);color:var(--fg)}
.verdict.bad{border-left-color:var(--bad);color:var(--fg)}
.entry{border:1px solid var(--line);border-radius:6px;padding:.7rem 1rem;margin:.7rem 0}
code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:var(--box);padding:.8rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}
code{overflow-wrap:anywhere}
details{margin:.4rem 0}
summary{cursor:pointer;color:var(--soft)}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}
svg .grid{stroke:var(--line)}
svg .weight{stroke:var(--canary);fill:none;stroke-width:2.5}
svg .area{fill:var(--fill)}
svg .mark{stroke:var(--bad);stroke-dasharray:3 3}
svg{width:100%;height:auto}
@media print{body{max-width:none;margin:0}
.entry{break-inside:avoid}}
"""


def page(found: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        found: policy, identity, verified, records, as `Auditor.rollout` gives them.
    """
    records = found["records"]
    name = escape(found["policy"])
    parts = [
        f"<h1>Rollout of {name}</h1>",
        f"<p class=soft>Identity <code>{escape(found['identity'])}</code>, {_when(records[0])} to {_when(records[-1])}"
        f" (UTC), {len(records)} records of the audit trail.</p>",
        *_verdict(found),
        *_participants(records),
        "<h2>Share of the canary over time</h2>",
        weights(records),
        *_numbers(records),
        "<h2>What happened</h2>",
        *[_entry(record) for record in records],
        *_how_to_verify(found),
    ]
    body = "\n".join(parts)
    head = (
        f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>Audit: rollout of {name}</title>"
    )
    return f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"


def _when(record: Record) -> str:
    return datetime.fromtimestamp(record["time_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _by(actor: object) -> str:
    """Who or which rule, in words, escaped."""
    text = str(actor)
    if text in _RULES:
        return f"by {_RULES[text]}"
    if text.startswith("auto:guardrail:"):
        return f"by the guardrail <b>{escape(text.removeprefix('auto:guardrail:'))}</b>"
    if text.startswith("auto:"):
        return f"by the rule {escape(text.removeprefix('auto:'))}"
    return f"by <b>{escape(text)}</b>"


# ---- the beginning ----


def _verdict(found: Mapping[str, Any]) -> Iterator[str]:
    last = next((one for one in reversed(found["records"]) if one["record"]["what"] in {*_ENDS, "retry"}), None)
    if last is None or last["record"]["what"] == "retry":
        known = [slots for slots in map(_canary_slots, found["records"]) if slots is not None]
        again = "" if last is None else f" It was rolled back and started again {_by(last['record']['actor'])}."
        share = f" The canary has {known[-1] / 100:g} % of the traffic." if known else ""
        yield f"<div class=verdict><b>Under way.</b> The rollout has not ended.{again}{share}</div>"
    else:
        said = last["record"]
        word, meaning = _ENDS[said["what"]]
        mood = {"promoted": "good", "rolled back": "bad"}.get(word, "")
        yield f"<div class='verdict {mood}'><b>Outcome: {word}</b>, {_by(said['actor'])}, {_when(last)}. {meaning}"
        yield f"<br><span class=soft>Reason given: {escape(said['reason'] or 'none')}</span>"
        for one in said.get("exposed", ()):
            yield f"<br><span class=soft>May have had the canary's answers: {escape(in_words(one))}.</span>"
        yield "</div>"
    wrong = [one["id"] for one in found["records"] if not one["replay"]["same"]]
    chain = found["verified"]
    sound = "<span class=good>The chain of records is whole.</span>"
    if not chain["ok"]:
        sound = f"<span class=bad>The chain of records is broken: {escape(str(chain['broken']))}.</span>"
    again = "<span class=good>Every record was computed anew, with the same verdict.</span>"
    if wrong:
        again = f"<span class=bad>Computed anew, these do not agree: {escape(', '.join(wrong))}.</span>"
    yield f"<p>{sound} {again}</p>"


def _participants(records: Sequence[Record]) -> Iterator[str]:
    applied = next((one["record"] for one in records if "variants" in one["record"]), None)
    if applied is None:
        return
    spec = applied["document"]["spec"]
    roles = {spec["rollout"]["to"]: "canary, the new version"} if "rollout" in spec else {}
    yield "<h2>What was compared</h2><table><tr><th>variant<th>role<th>model as named<th>content (sha256)</tr>"
    named = {one["name"]: one["model"] for one in spec["variants"]}
    for variant, digest in applied["variants"].items():
        role, short = roles.get(variant, "stable, or other"), escape(digest.removeprefix("sha256:"))
        model = escape(str(named.get(variant)))
        yield f"<tr><td><b>{escape(variant)}</b><td>{role}<td>{model}<td><code>{short}</code></tr>"
    document = _pretty(applied["document"])
    yield f"</table><details><summary>The policy as applied</summary><pre>{document}</pre></details>"


def _pretty(value: object) -> str:
    return escape(json.dumps(value, indent=2, ensure_ascii=False))


# ---- weights over time ----


def weights(records: Sequence[Record]) -> str:
    """The canary's share as steps over time, as inline SVG."""
    points: list[tuple[int, int | None]] = [(one["time_ms"], _canary_slots(one)) for one in records]
    begin, end = points[0][0], max(points[-1][0], points[0][0] + 1)
    right, floor = WIDTH - 12, HEIGHT - BOTTOM

    def x(time_ms: float) -> float:
        return float(LEFT) + (right - LEFT) * (time_ms - begin) / (end - begin)

    def y(slots: int) -> float:
        return 10 + (floor - 10) * (1 - slots / 10_000)

    path, slots = [f"M{x(begin):.1f} {y(0):.1f}"], 0
    for time_ms, now in points:
        if now is not None:
            slots = now
            path.append(f"H{x(time_ms):.1f}V{y(slots):.1f}")
    path.append(f"H{right}")
    line = "".join(path)
    grid = "".join(
        f"<line class=grid x1={LEFT} x2={right} y1={y(n):.1f} y2={y(n):.1f} /><text x={LEFT - 6} y={y(n) + 4:.1f} "
        f"text-anchor=end>{n // 100} %</text>"
        for n in (0, 2_500, 5_000, 7_500, 10_000)
    )
    marks = "".join(
        f"<line class=mark x1={x(one['time_ms']):.1f} x2={x(one['time_ms']):.1f} y1=10 y2={floor} />"
        for one in records
        if one["record"]["what"] in ("abort", "kill")
    )
    clock = "".join(
        f"<text x={LEFT + (right - LEFT) * n / 4:.1f} y={HEIGHT - 8} text-anchor={anchor}>"
        f"{datetime.fromtimestamp((begin + (end - begin) * n / 4) / 1000, UTC).strftime('%H:%M:%S')}</text>"
        for n, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    )
    area = f"<path class=area d='{line}V{floor}H{LEFT}Z' />"
    label = "role=img aria-label='Share of the canary over time'"
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' {label}>{grid}{area}<path class=weight d='{line}' />{marks}{clock}</svg>"
    )


def _canary_slots(record: Record) -> int | None:
    said = record["record"]
    canary = said.get("canary")
    if canary and "shares_after" in said:
        return int(said["shares_after"].get(canary, 0))
    spec = said.get("document", {}).get("spec", {})
    to = spec.get("rollout", {}).get("to")
    return int(said.get("shares_after", {}).get(to, 0)) if to else None


# ---- numbers ----


def _numbers(records: Sequence[Record]) -> Iterator[str]:
    """Requests per variant over the whole rollout: of each attempt the last record that has evidence."""
    attempts: list[Record | None] = [None]
    for record in records:
        if record["record"]["what"] == "retry":
            attempts.append(None)
        elif record["record"].get("evidence"):
            attempts[-1] = record
    counted = [one for one in attempts if one is not None]
    if not counted:
        return
    last, sums = counted[-1], dict[str, list[int]]()
    evidence = json.loads(last["record"]["evidence"])
    for one in counted:
        _add(sums, json.loads(one["record"]["evidence"]))
    yield "<h2>Requests that were randomised</h2><table>"
    yield "<tr><th>variant<th>routed<th>answered<th>failed<th>share that failed</tr>"
    for variant, counts in sorted(sums.items(), reverse=True):
        done = counts[OK] + counts[BAD]
        share = f"{counts[BAD] / done:.2%}" if done else "-"
        cells = f"<td>{counts[ROUTED]:,}<td>{counts[OK]:,}<td>{counts[BAD]:,}<td>{share}"
        yield f"<tr><td><b>{escape(variant)}</b>{cells}</tr>"
    chance = evidence["alpha"] / evidence["guardrails"]
    yield (
        f"</table><p class=soft>As of {_when(last)}{_of_attempts(len(attempts))}. Both variants were asked at the same "
        "time, by users drawn by chance. "
        f"The chance that a guardrail rolls back a version that is no worse is at most {chance:.2%}, however often "
        "anybody looked; the chance that one that is worse than allowed is promoted by the rules is at most "
        f"{evidence['beta']:.0%}.</p>"
    )


def _of_attempts(number: int) -> str:
    return f", of {number} attempts together, each of which began its evidence anew" if number > 1 else ""


def _add(sums: dict[str, list[int]], evidence: Mapping[str, Any]) -> None:
    for key, counts in evidence["counts"].items():
        place, variant = key.rsplit("|", 1)
        if 0 < evidence.get("shares", {}).get(place, 0) < 1:
            before = sums.setdefault(variant, [0] * len(counts))
            sums[variant] = [a + b for a, b in zip(before, counts, strict=True)]


# ---- the timeline ----


def _entry(record: Record) -> str:
    said = record["record"]
    what = said["what"]
    moved = ""
    if said.get("shares_before") != said.get("shares_after") and "shares_after" in said:
        moved = f"<p>Shares: {_shares(said['shares_before'])} became {_shares(said['shares_after'])}.</p>"
    reason = f"<p>{escape(said['reason'])}</p>" if said.get("reason") else ""
    replay = record["replay"]
    mood = "good" if replay["same"] else "bad"
    checks = f"<small class={mood}>computed anew: {escape(replay['text'])} ({len(replay['checks'])} checks)</small>"
    return (
        f"<div class=entry><h3>{_WORDS.get(what, escape(what))}</h3>"
        f"<p class=soft>{_when(record)} {_by(said['actor'])} · record {escape(record['id'])} · revision "
        f"{said.get('revision_before', '-')} to {said.get('revision_after', '-')}</p>{reason}{moved}{_marks(said)}"
        f"{_failing(said) if 'exposed' in said else ''}"
        f"<details><summary>Record and hash</summary><p><code>{escape(record['hash'])}</code></p>"
        f"<pre>{escape(record['body'])}</pre></details>{checks}</div>"
    )


def _shares(shares: Mapping[str, int]) -> str:
    return ", ".join(f"{escape(name)} {slots / 100:g} %" for name, slots in shares.items()) or "none"


def _marks(said: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><b>{escape(name)}</b><td>{_STATES.get(mark['state'], 'unknown')}<td>{escape(mark['text'])}</tr>"
        for name, mark in said.get("marks", {}).items()
    )
    return f"<table><tr><th>guardrail<th>verdict<th>numbers</tr>{rows}</table>" if rows else ""


def _failing(said: Mapping[str, Any]) -> str:
    """Where whoever looks into a rollback may begin."""
    failing = json.loads(said.get("evidence") or "{}").get("failing_requests", [])
    ids = ", ".join(
        f"<code>{escape(one['request'])}</code>"
        + (f" (trace <code>{escape(one['trace'])}</code>)" if one["trace"] else "")
        for one in failing
    )
    return f"<p>The last requests that failed on it, by x-request-id: {ids}.</p>" if ids else ""


def _how_to_verify(found: Mapping[str, Any]) -> Iterator[str]:
    heads = "".join(
        f"<li>{escape(name)}: <code>{escape(head)}</code></li>" for name, head in found["verified"]["heads"].items()
    )
    yield f"""<h2>How to check this page</h2>
<p>Each record is bound to the one before it: its hash is the SHA-256 of the 32 bytes of the hash before (the field
<code>prev</code> of the record) followed by the bytes of the record, exactly as shown under "Record and hash". Whoever
changes a record has to change every one after it, and with them the last hash. Last hashes when this page was made, of
{found["verified"]["records"]} records; compare them with those that were written down elsewhere:</p><ul>{heads}</ul>
<pre>tidegate audit verify            # the whole chain
tidegate audit replay {escape(found["records"][-1]["id"])}      # a record's verdicts, from its counts
tidegate audit export --rollout {escape(found["policy"])} --format json</pre>
<p>By other means: take <code>body</code> and <code>prev</code> of a record from the JSON export, and
<code>sha256(bytes.fromhex(prev) + body.encode())</code> is its hash.</p>"""
