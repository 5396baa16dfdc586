"""What nodes tell each other through streams, and what of it is new. What cannot be read is a dead letter."""

import logging
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from gateway.control.labelnotes import notes_in
from gateway.control.monitordead import UNREADABLE, Stream
from gateway.control.monitorheld import Held
from gateway.control.monitorinputs import Answers, Series, Totals, joined, labelled
from gateway.monitor.counting import Counts, feature_counts
from gateway.monitor.plan import ROWS, SKIPPED
from gateway.monitor.scorebins import score_counts
from gateway.monitor.stages import BUCKETS, STAGES
from gateway.store.base import StreamEntry, StreamPage

MOST_ROWS: Final = 1 << 48
"""Of one start of a node: more than it could answer in a century. With more, all that it tells later would be old."""
WIDTHS: Final = (BUCKETS * len(STAGES), BUCKETS)
"""Of answers by latency bucket: of all stages, or of the whole request alone, as an earlier build tells them."""
RUNS: Final = 8
"""Starts of a node before its last one that are known to be over."""
SILENT_MS: Final = 86_400_000
"""A node that told nothing for so long is taken to be gone. One that has rows tells of them each second."""
GONE: Final = 512
"""Forgotten series of one start of a node that are told apart."""
STARTS: Final = 1_000
"""Starts of nodes that are gone; no store knows more of them (`gateway.store.base.Limits.stream_marks`)."""
_log: Final = logging.getLogger(__name__)


def hear(
    name: str,
    held: Held,
    body: bytes,
    vectors: dict[tuple[str, str, Series], Counts],
    answers: dict[tuple[str, str, str, str], list[int]],
) -> None:
    """Add one entry of another node to what is to be taken. Raises UNREADABLE."""
    one = _decoded(body)
    if isinstance(one, Answers):
        if len(one.buckets) not in WIDTHS or not 0 <= min(one.buckets) <= max(one.buckets) <= MOST_ROWS:
            raise ValueError("no counts of these latency buckets")
        answers[one.node, one.run, one.version, one.variant] = one.buckets
        return
    if not 0 <= one.part < one.parts:
        raise ValueError("no part of a vector")
    key = (one.node, one.run, Series(name, one.version, one.variant, one.plan))
    parts = [*held.parts.pop(key, []), one] if one.part else [one]
    if one.part != len(parts) - 1:
        return  # one between them was dropped: what was begun before it is of older totals
    if len(parts) < one.parts:
        held.parts[key] = parts
    else:
        vectors[key] = _possible(held, key[2], joined(parts))


def _possible(held: Held, series: Series, counts: Counts) -> Counts:
    """The same counts. Raises ValueError: no worker has counted them. Sums of what scores mean may go round."""
    if (
        len(counts) <= max(ROWS, SKIPPED)
        or not 0 <= min(counts[ROWS], counts[SKIPPED]) <= told_rows(counts) <= MOST_ROWS
    ):
        raise ValueError("no node has so many rows")
    watching = held.monitor.versions.get(series.version)
    if watching is None or watching.reference.id != series.plan:
        return counts  # nobody's, or gone
    plan = watching.reference.plan
    if len(counts) != plan.size:
        raise ValueError("a vector of another plan")
    bins = [counted for _, *both in feature_counts(plan, counts) for counted in both]
    if plan.score is not None:
        bins.append(score_counts(plan, counts))
    if any((one < 0).any() or (one > MOST_ROWS).any() for one in bins):
        raise ValueError("bins with fewer rows than none, or more than there are")
    return counts


def taken(held: Held, vectors: Mapping[tuple[str, str, Series], Counts], here: str) -> list[tuple[str, str, Counts]]:
    """What totals add to those that were seen: (version, variant, delta), each row once however they come.

    Totals of one start of a node only grow, so the one with more rows is the newer: what comes again, or late, adds
    nothing. Once a node has told of another start, the one before is over. A series that was forgotten goes on from
    what is told of it first: the rows before are in windows that are gone.

    Args:
        here: this node, which tells its totals each second whether they have grown or not.
    """
    found = []
    for key, counts in vectors.items():
        node, run, series = key
        watching = held.monitor.versions.get(series.version)
        if watching is None or watching.reference.id != series.plan or len(counts) != watching.reference.plan.size:
            continue
        seen = held.seen.get(key)
        if run in held.over.get(node, ()) or (seen is not None and told_rows(counts) <= told_rows(seen)):
            held.duplicated += node != here
            continue
        if seen is None:
            if not held.knows(series):
                continue  # gone, and rows of it come late
            _begun(held, node, run)
            if _is_gone(held, node, run, series):
                held.seen[key] = counts
                held.moved, held.saved_ms = True, 0
                continue
        delta = counts if seen is None else counts - seen
        if delta.any():
            held.seen[key] = counts
            held.monitor.counted(node, series.version, series.variant, delta)
            found.append((series.version, series.variant, delta))
    return found


def hear_answers(held: Held, answers: Mapping[tuple[str, str, str, str], list[int]], now_ms: int) -> None:
    """Answers by latency bucket of each stage, totals of each start of a node: what has grown is told on."""
    for key, buckets in answers.items():
        node, _, version, variant = key
        if held.roles.live is not None and (version, variant) not in held.roles.live:
            held.answers.pop(key, None)  # nobody asks how fast it is
            continue
        seen = held.answers.get(key)
        held.answers[key] = buckets
        if seen is None or len(seen) != len(buckets):
            continue  # an earlier build kept the whole request alone
        grown = [now - before for now, before in zip(buckets, seen, strict=True)]
        if min(grown) >= 0:
            held.monitor.answered((version, variant), node, grown, held.roles, now_ms)


def hear_labels(name: str, held: Held, page: StreamPage, versions: Mapping[str, str], now_ms: int) -> None:
    """Labels of predictions of this model. Args: versions: digest without its name -> version."""
    held.labels_cursor, held.missed = page.cursor, held.missed + page.missed
    held.moved = held.moved or bool(page.entries)
    words = held.spec.labels
    for entry in page.entries:
        try:
            notes = notes_in(entry.body)
        except UNREADABLE as error:
            unreadable(held, name, "labels", entry, error, now_ms)
            continue
        for note, before in notes:
            found = [version for digest, version in versions.items() if digest.startswith(note.digest)]
            if found:
                held.monitor.label(found[0], labelled(note, before, words.positive, words.negative), now_ms)


def told_rows(counts: Counts) -> int:
    """How far totals are: they only grow."""
    return int(counts[ROWS] + counts[SKIPPED])


def _begun(held: Held, node: str, run: str) -> None:
    """A node that was started anew counts from nothing."""
    before = {key[1] for key in (*held.seen, *held.gone) if key[0] == node and key[1] != run}
    if before:
        held.over[node] = [*held.over.get(node, ()), *sorted(before)][-RUNS:]
        held.seen = {key: value for key, value in held.seen.items() if key[0] != node or key[1] == run}
        held.gone = {key: value for key, value in held.gone.items() if key[0] != node or key[1] == run}
        held.answers = {key: value for key, value in held.answers.items() if key[0] != node or key[1] == run}


def forget(held: Held, told: Iterable[str], here: str, now_ms: int) -> None:
    """Forget totals whose windows are gone, and those of nodes that are. None of their rows is counted again.

    Args:
        told: nodes that have told something since the last call.
        here: this node.
    """
    held.heard.update(dict.fromkeys((here, *told), now_ms))
    known = {key[0] for key in held.seen} | {key[0] for key in held.answers}
    held.heard = dict.fromkeys(known, now_ms) | held.heard
    held.heard = {node: at for node, at in held.heard.items() if now_ms - at < SILENT_MS}
    for key in [key for key in held.seen if key[0] not in held.heard or not held.knows(key[2])]:
        _forget(held, key)
    silent = [start for start in held.gone if start[0] not in held.heard]
    for start in silent[:-STARTS]:
        del held.gone[start]
    kept = held.heard.keys() | {node for node, _ in held.gone}
    held.over = {node: runs for node, runs in held.over.items() if node in kept}
    held.parts = {key: parts for key, parts in held.parts.items() if key[0] in held.heard and held.knows(key[2])}
    held.answers = {
        key: buckets
        for key, buckets in held.answers.items()
        if key[0] in held.heard and key[2] in held.monitor.versions
    }


def _forget(held: Held, key: tuple[str, str, Series]) -> None:
    node, run, series = key
    del held.seen[key]
    gone = held.gone.setdefault((node, run), set())
    if gone is not None:
        gone.add(series)
        if len(gone) > GONE:
            held.gone[node, run] = None
    held.moved = True


def _is_gone(held: Held, node: str, run: str, series: Series) -> bool:
    """Whether a series was forgotten; from now on it is not."""
    gone = held.gone.get((node, run), set())
    if gone is None:
        return True
    was = series in gone
    gone.discard(series)
    return was


def unreadable(held: Held, name: str, stream: Stream, entry: StreamEntry, error: Exception, now_ms: int) -> None:
    """An entry that cannot be read is kept aside: a node of another release must not end this one's control."""
    letter = held.dead.bury(stream, entry, error, now_ms)
    held.moved = True
    facts = {"model": name, "stream": stream, "node": letter.node, "reason": letter.why}
    _log.error("monitor_entry_unreadable", extra={"facts": facts})


def _decoded(body: bytes) -> Totals | Answers:
    """An entry of the stream: an array of ten is Totals, of five Answers."""
    found = msgspec.msgpack.decode(body)
    if len(found) == len(Answers.__struct_fields__):
        return msgspec.convert(found, Answers)
    return msgspec.convert(found, Totals)
