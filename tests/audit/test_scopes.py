"""Who may read the trail, and who may erase."""

import pytest

from gateway.http.access import admin_needs


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/admin/v1/audit", "audit"),
        ("GET", "/admin/v1/audit/verify", "audit"),
        ("POST", "/admin/v1/audit/find", "audit"),
        ("POST", "/admin/v1/audit/replay/{chain}/{seq}", "audit"),
        ("GET", "/admin/v1/audit/rollouts/{name}", "audit"),
        ("POST", "/admin/v1/data/forget", "admin"),
        ("GET", "/admin/v1/alerts", "view"),
    ],
)
def test_the_scope_of_each_call(method: str, path: str, scope: str):
    needs = admin_needs(path, method)
    assert needs.scopes == {scope}
    # A key that is limited to some models sees none of it: a trail tells of all.
    assert not needs.model
    assert not needs.filters


def test_inputs_of_requests_are_for_those_who_may_read_the_decision_log():
    needs = admin_needs("/admin/v1/policies/{name}/shadow/samples", "GET")
    assert (needs.scopes, needs.model) == ({"audit"}, True)
    assert admin_needs("/admin/v1/policies/{name}/shadow", "GET").scopes == {"view"}
