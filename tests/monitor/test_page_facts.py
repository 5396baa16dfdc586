"""The monitor on the metrics page: nothing of it without a monitor, all of it with one, and never too many features."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.control.counts import Totals, total
from gateway.metrics import MetricsPage, Node
from gateway.monitor.facts import FAMILIES, MAX_FEATURES, Family, MonitorFacts, bounded

VALUES = {"quantile": "0.9"}
SERIES = ("credit", "3", "canary")


def sample(family: Family, value: float = 0.5) -> tuple[str | float, ...]:
    return (*SERIES, *(VALUES.get(label, f"a {label}") for label in family.labels), value)


def filled() -> MonitorFacts:
    return MonitorFacts(**{one.name: (sample(one, place),) for place, one in enumerate(FAMILIES)})


def nothing() -> Totals:
    return total([])


def page(monitor: MonitorFacts | None, shown: dict[str, list[str]] | None = None) -> str:
    node = Node(nothing(), [], [], {"version": "0"}, False, monitor=monitor, shown_features=shown or {})
    return MetricsPage().render(node).decode()


def scores(names: list[str], series: tuple[str, str, str] = SERIES) -> tuple[tuple[str | float, ...], ...]:
    return tuple((*series, name, "psi", 0.1) for name in names)


def test_without_a_monitor_the_page_is_what_it_was_and_with_one_it_only_grows_at_its_end() -> None:
    without, with_one = page(None), page(filled())
    assert with_one.startswith(without)
    assert len(with_one) > len(without)
    assert [one.name for one in FAMILIES if f"tidegate_{one.name}" in without] == []


def test_every_family_is_written_with_its_labels_and_its_value() -> None:
    read = {one.name: one for one in text_string_to_metric_families(page(filled()))}
    for place, family in enumerate(FAMILIES):
        found = read[f"tidegate_{family.name}"]
        assert found.type == family.kind
        (one,) = found.samples
        labels = dict(zip(("model", "version", "variant"), SERIES, strict=True))
        assert one.labels == labels | {label: VALUES.get(label, f"a {label}") for label in family.labels}
        # What `bounded` writes itself: one feature was there, and it is shown.
        assert one.value == (0 if family.name == "monitor_features_hidden" else place)


def test_names_of_features_that_would_break_a_line_do_not() -> None:
    name = 'a "quoted" \\ name\nof two lines'
    read = {one.name: one for one in text_string_to_metric_families(page(MonitorFacts(drift_score=scores([name]))))}
    assert [one.labels["feature"] for one in read["tidegate_drift_score"].samples] == [name]


def test_fifty_features_have_series_and_the_rest_is_counted() -> None:
    names = [f"f{n:03}" for n in range(130)]
    ratios = tuple((*SERIES, name, 0.0) for name in reversed(names))
    found = bounded(MonitorFacts(drift_score=scores(names), feature_missing_ratio=ratios))
    assert [one[3] for one in found.drift_score] == names[:MAX_FEATURES]
    assert {one[3] for one in found.feature_missing_ratio} == set(names[:MAX_FEATURES]), "the same in every family"
    assert found.monitor_features_hidden == ((*SERIES, 80),)


def test_a_list_says_which_and_a_feature_that_is_not_there_takes_no_place() -> None:
    names = [f"f{n:03}" for n in range(130)]
    wanted = ["absent", *reversed(names)]
    found = bounded(MonitorFacts(drift_score=scores(names)), {"credit": wanted})
    assert {one[3] for one in found.drift_score} == set(names[-MAX_FEATURES:])
    few = bounded(MonitorFacts(drift_score=scores(names)), {"credit": ["f007"], "other": []})
    assert [one[3] for one in few.drift_score] == ["f007"]
    assert few.monitor_features_hidden == ((*SERIES, 129),)
    assert page(MonitorFacts(drift_score=scores(names)), {"credit": ["f007"]}).count("tidegate_drift_score{") == 1


def test_each_variant_has_its_own_fifty() -> None:
    names, other = [f"f{n}" for n in range(60)], ("credit", "2", "stable")
    found = bounded(MonitorFacts(drift_score=scores(names) + scores(names[:3], other)))
    assert sum(one[:3] == other for one in found.drift_score) == 3
    assert set(found.monitor_features_hidden) == {(*SERIES, 10), (*other, 0)}
