"""A document from its text: every problem with the line it stands on."""

from gateway.control.reading import Located, read_policy

TEXT = """\
apiVersion: tidegate/v1
kind: TrafficPolicy
metadata:
  name: m
spec:
  variants:
    - {name: stable, model: "m:1"}
    - name: canary
      model: "m:2"
  split: {stable: 9000, canary: 1000}
"""


def test_a_right_document_is_read() -> None:
    read = read_policy(TEXT)
    assert (read.name, read.problems) == ("m", ())
    assert read.value is not None
    assert read.value.counts() == [9000, 1000]


def test_every_problem_is_found_at_its_line() -> None:
    text = TEXT.replace('"m:2"', "5").replace("1000", "2000").replace("name: m\n", "name: m\n  label: x\n")
    read = read_policy(text)
    assert read.value is None
    assert read.name == "m"
    found = {one.path: one.line for one in read.problems}
    assert found == {"metadata.label": 5, "spec.variants[1].model": 10, "spec.split": 11}


def test_what_is_not_offered_is_a_problem_of_the_document() -> None:
    text = TEXT.replace("9000, canary: 1000", "10000") + (
        "  rollout:\n    to: canary\n    steps: [{setWeight: 5000}]\n    window:\n"
        "      notBefore:\n        - Mon 09:00-16:00 Mars/Olympus\n"
    )
    read = read_policy(text)
    assert read.value is None
    (problem,) = read.problems
    assert problem.path == "spec.rollout.window.notBefore[0]"
    assert problem.line == 16


def test_one_quantile_of_a_metric_is_judged() -> None:
    signals = "[{metric: compute_time}, {metric: compute_time, name: median, quantile: 0.5}]"
    text = TEXT.replace("9000, canary: 1000", "10000") + (
        f"  rollout:\n    to: canary\n    steps: [{{setWeight: 5000}}]\n    analysis: {{signals: {signals}}}\n"
    )
    twice, other = (str(problem) for problem in read_policy(text).problems)
    assert "one quantile of compute_time is judged per rollout, got 2" in twice
    assert "one signal on compute_time is judged per rollout" in other
    assert read_policy(text.replace(", {metric: compute_time, name: median, quantile: 0.5}", "")).problems == ()
    latencies = text.replace("compute_time}", "latency, quantile: 0.9}").replace("compute_time", "latency")
    assert ["one quantile of latency" in str(problem) for problem in read_policy(latencies).problems] == [True]
    assert read_policy(latencies.replace("quantile: 0.5", "quantile: 0.9")).problems == ()


def test_a_text_that_is_no_document_has_no_name() -> None:
    for text, line in (("a: [}", 1), ("x: 1\nx: 2\n", 2), ("a: &b c\n", 1)):
        read = read_policy(text)
        assert (read.name, read.document, read.value) == ("", None, None)
        assert read.problems[0].line == line
    assert str(Located(3, "spec.split", "is missing")) == "line 3: spec.split: is missing"
    assert str(Located(None, "", "longer than allowed")) == "longer than allowed"
