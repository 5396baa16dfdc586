"""The JSON schema of policies, for editors."""

import json

import msgspec

from router.schema import descriptions, schema, sections


def test_every_field_has_a_description() -> None:
    for kind in sections():
        written = {field.encode_name for field in msgspec.structs.fields(kind)}
        assert set(descriptions(kind)) == written, kind


def test_the_schema_says_how_shares_and_times_are_written() -> None:
    found = schema()
    steps = found["$defs"]["Step"]["properties"]
    assert steps["setWeight"]["type"] == ["integer", "string"]
    assert found["$defs"]["Approval"]["properties"]["by"]["items"]["pattern"].startswith("^((key|label|group):)?")
    assert found["$defs"]["Analysis"]["properties"]["guardrails"]["minItems"] == 1
    assert found["$defs"]["OnFailure"]["properties"]["keepLoaded"]["type"] == "string"
    assert found["$defs"]["Unit"]["properties"]["missing"]["enum"] == ["random", "reject", "stable"]
    assert found["$defs"]["Spec"]["additionalProperties"] is False
    assert found["$defs"]["Spec"]["required"] == ["variants", "split"]
    assert json.loads(json.dumps(found)) == found
