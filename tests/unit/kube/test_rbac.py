"""Rights as data."""

from __future__ import annotations

from prestage.kube.rbac import READ, Rule, policy_rules

RULES = (
    Rule("", "pods", READ, namespaced=False),
    Rule("coordination.k8s.io", "leases", ("get", "update"), namespaced=True, names=("prestage-planner",)),
)


def test_a_cluster_role_and_a_role_get_each_their_own() -> None:
    assert policy_rules(RULES, namespaced=False) == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    assert policy_rules(RULES, namespaced=True) == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "update"],
            "resourceNames": ["prestage-planner"],
        }
    ]


def test_a_rule_allows_its_verbs_on_its_resource_only() -> None:
    assert RULES[0].allows("list", "", "pods")
    assert not RULES[0].allows("patch", "", "pods")
    assert not RULES[0].allows("list", "", "pods/status")
    assert not RULES[0].allows("list", "apps", "pods")
