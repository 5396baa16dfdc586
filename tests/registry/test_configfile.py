"""A model's settings: model.yaml, what is honoured of config.pbtxt, and messages that name the line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.registry.configfile import read_config
from runtimes.registry.modelconfig import Batching, ModelConfig, VersionPolicy
from runtimes.registry.strictyaml import DocumentError


def from_pbtxt(text: str) -> ModelConfig:
    read = read_config("m", None, text)
    assert read.warnings == ()
    return read.config


def test_no_file_means_the_defaults() -> None:
    assert read_config("m", None, None).config == ModelConfig()
    assert read_config("m", "", "").config == ModelConfig()
    assert read_config("m", "# nothing yet\n", None).config == ModelConfig()


def test_model_yaml() -> None:
    text = "aliases: {stable: 3}\nversion_policy: {latest: 2}\nbatching: {max_batch_size: 16}\nfinite: true\n"
    config = read_config("m", text, None).config
    assert config == ModelConfig(
        aliases={"stable": 3},
        version_policy=VersionPolicy(latest=2),
        batching=Batching(max_batch_size=16),
        finite=True,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version_policy: {latest: 1, all: true}", "version_policy: only one of latest, all, specific"),
        ("version_policy: {specific: [1], all: true}", "only one of"),
        ("batching: {priority_levels: 2, default_priority: 3}", "3 is not one of the 2 levels"),
        ("warmup: {batch_sizes: [1, 65]}", "warmup.batch_sizes: 65 is above batching.max_batch_size 64"),
        ("aliases: {'3': 1}", "aliases: '3' is no alias"),
        ("aliases: {stable: 0}", "aliases"),
        ("deadline_ms: 0", "line 1: deadline_ms"),
        ("\nbatching:\n  max_batch_sise: 3", "line 3: batching: unknown key 'max_batch_sise'; did you mean"),
        ("op_library: /tmp/evil.so", "unknown key 'op_library'"),
        ("parameters: {op_library_filename: x.so}", "unknown key 'parameters'"),
        ("finite: yes", "line 1: finite"),
        ("- 1", "model.yaml"),
    ],
)
def test_what_model_yaml_may_not_say(text: str, says: str) -> None:
    with pytest.raises(DocumentError) as wrong:
        read_config("m", text, None)
    assert str(wrong.value).startswith("model.yaml")
    assert says in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("max_batch_size: 8", ModelConfig(batching=Batching(max_batch_size=8))),
        ("max_batch_size: 0", ModelConfig(batching=Batching(enabled=False))),
        (
            "dynamic_batching { max_queue_delay_microseconds: 500 priority_levels: 3 default_priority_level: 2 }",
            ModelConfig(batching=Batching(max_queue_delay_us=500, priority_levels=3, default_priority=2)),
        ),
        ("dynamic_batching { priority_levels: 0 }", ModelConfig()),
        ("dynamic_batching { }", ModelConfig()),
        ("version_policy: { all { } }", ModelConfig(version_policy=VersionPolicy(all=True))),
        ("version_policy { latest { num_versions: 2 } }", ModelConfig(version_policy=VersionPolicy(latest=2))),
        ("version_policy { latest { } }", ModelConfig(version_policy=VersionPolicy(latest=1))),
        (
            "version_policy: < specific: < versions: [1, 3] > >",
            ModelConfig(version_policy=VersionPolicy(specific=(1, 3))),
        ),
        (
            "version_policy { specific { versions: 1, versions: 3 } }",
            ModelConfig(version_policy=VersionPolicy(specific=(1, 3))),
        ),
        ("backend: 'onnxruntime' platform: \"onnxruntime_onnx\"", ModelConfig()),
        ('name: "m" # the folder\'s\ndefault_model_filename: "model" ".onnx"', ModelConfig()),
    ],
)
def test_what_is_honoured_of_config_pbtxt(text: str, config: ModelConfig) -> None:
    assert from_pbtxt(text) == config


def test_what_is_passed_over_gives_one_warning_each() -> None:
    read = read_config(
        "m",
        None,
        """
        name: "other"
        input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 2 ] }, { name: "y" } ]
        instance_group { kind: KIND_CPU }
        instance_group { kind: KIND_GPU }
        dynamic_batching { preferred_batch_size: [ 4, 8 ] }
        parameters { key: "op_library_filename" value: { string_value: "/tmp/evil.so" } }
        """,
    )
    assert read.config == ModelConfig()
    assert read.warnings == (
        "config.pbtxt, line 2: name 'other' is not the folder's; ignored",
        "config.pbtxt, line 3: input is ignored: inputs are taken from the model itself",
        "config.pbtxt, line 4: instance_group is ignored: the node plans its threads itself",
        "config.pbtxt, line 6: dynamic_batching.preferred_batch_size is ignored: a batch takes what is waiting",
        "config.pbtxt, line 7: parameters is ignored: not acted on here",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("backend: 'python'", "line 1: backend: 'python' is not served; 'onnxruntime' is"),
        ("\nplatform: 'tensorrt_plan'", "line 2: platform"),
        ("max_batch_size: many", "a whole number is expected, got 'many'"),
        ("max_batch_size: -1", "max_batch_size"),
        ("max_batch_size: 1e3", "a whole number is expected"),
        ("max_batch_size { }", "a value is expected, got a message"),
        ("dynamic_batching: 3", "a message in braces is expected"),
        ("version_policy { newest { } }", "latest, all or specific is expected"),
        ("version_policy { all { } latest { num_versions: 1 } }", "only one of"),
        ("version_policy { latest { num_versions: 0 } }", "version_policy"),
        ("max_batch_size: 99999999", "max_batch_size"),
        ("max_batch_size:", "the text ends too early"),
        ("a {", "the text ends too early"),
        ("a: [1 2]", "',' or ']' is expected"),
        ("a: 'x", 'unexpected "\'"'),
        ("}", "a field name is expected"),
        ("a {" * 20 + "}" * 20, "nested deeper than 16"),
    ],
)
def test_what_config_pbtxt_may_not_say(text: str, says: str) -> None:
    with pytest.raises(DocumentError) as wrong:
        read_config("m", None, text)
    assert str(wrong.value).startswith("config.pbtxt")
    assert says in str(wrong.value)


def test_model_yaml_wins_key_by_key() -> None:
    read = read_config(
        "m",
        "batching: {max_batch_size: 4}\nversion_policy: {all: true}\n",
        "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 7 } version_policy { latest { } }",
    )
    assert read.config.batching == Batching(max_batch_size=4, max_queue_delay_us=7)
    assert read.config.version_policy == VersionPolicy(all=True)


def test_rules_hold_across_both_files() -> None:
    with pytest.raises(DocumentError, match="9 is above"):
        read_config("m", "warmup: {batch_sizes: [9]}", "max_batch_size: 8")


def refusal(text: str) -> DocumentError | None:
    try:
        read_config("m", None, text)
    except DocumentError as error:
        return error
    return None


TOKENS = ["a", ":", "{", "}", "[", "]", "<", ">", ",", ";", "1", "'x'", "\n", "#", "max_batch_size", "version_policy"]


@given(st.text(max_size=200) | st.lists(st.sampled_from(TOKENS)).map(" ".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    error = refusal(text)
    assert error is None or str(error).startswith("config.pbtxt, line ")
