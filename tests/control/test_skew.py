"""Which nodes are behind the newest revision of a policy."""

from gateway.control.skew import skew_of


def test_a_node_is_as_far_as_its_last_worker() -> None:
    found = skew_of("a", 5, {"w1": 5, "w2": 4}, {"b": 5})
    assert found["nodes_behind"] == [{"node": "a", "acked": 4}]
    assert (found["nodes"], found["workers"], found["workers_behind"]) == (2, 2, 1)


def test_a_node_without_workers_answers_nobody() -> None:
    assert skew_of("a", 5, {}, {"b": 5}) == {
        "newest": 5, "nodes": 1, "nodes_behind": [], "workers": 0, "workers_behind": 0,
    }  # fmt: skip


def test_others_may_know_of_a_newer_revision_than_this_node() -> None:
    found = skew_of("a", 5, {"w": 5}, {"b": 6, "c": 0})
    assert found["newest"] == 6
    assert [one["node"] for one in found["nodes_behind"]] == ["a", "c"]
    assert found["workers_behind"] == 1
