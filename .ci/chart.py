"""`make chart`: writes what the chart takes from the code: the rights of each part, webhooks and policies.

Each part says in its rbac.py what it asks of the API server; manifests.py says what is registered there. Helm cannot ask Python,
so that both lie in daemonset/chart/generated as YAML; a test holds them against the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import yaml

TARGET: Final = Path(__file__).resolve().parents[1] / "daemonset" / "chart" / "generated"
NAMESPACE: Final = "@NAMESPACE@"
"""Replaced by the release's when it is rendered."""
RULES: Final = {
    "node": ("prestage.node.rbac:RULES",),
    "broker": ("prestage.control.broker.rbac:RULES",),
    "planner": ("prestage.control.planning.rbac:RULES", "prestage.control.admission.rbac:LEADER_RULES"),
    "admission": ("prestage.control.admission.rbac:RULES",),
    "uninstall": ("prestage.control.admission.rbac:UNGATE_RULES",),
}
OPTIONAL: Final = {
    "planner-capacity": ("prestage.control.capacity.rbac:RULES",),
    "uninstall-capacity": ("prestage.control.capacity.rbac:LETTING_GO_RULES",),
}
"""Rights that a value switches on, in a folder of their own."""
_HEAD: Final = "# Written by `make chart` from {source}.\n"


def rules(part: str) -> str:
    """`generated/rules/<part>.yaml`, or `generated/optional/<part>.yaml`."""
    from prestage.kube.rbac import policy_rules

    places = {**RULES, **OPTIONAL}[part]
    found = list(dict.fromkeys(rule for place in places for rule in _at(place)))
    made = {
        "part": part,
        "cluster": _compact(policy_rules(found, namespaced=False)),
        "namespaced": _compact(policy_rules(found, namespaced=True)),
    }
    return _HEAD.format(source=", ".join(places)) + yaml.safe_dump(made, sort_keys=False, default_flow_style=None, width=200)


def admission() -> dict[str, str]:
    """File to text: what every API server takes, and what those that serve MutatingAdmissionPolicy take."""
    source = import_module("prestage.control.admission.manifests")
    head = _HEAD.format(source="prestage.control.admission.manifests")
    always = source.manifests(source.Client(NAMESPACE), mutating=None)
    return {
        "registered.yaml": head + yaml.safe_dump(always, sort_keys=False, width=10_000),
        **{
            f"mutating-{version}.yaml": head + yaml.safe_dump(source.mutating_policy(version), sort_keys=False, width=10_000)
            for version in ("v1", "v1beta1")
        },
    }


def _at(place: str) -> Iterable[Any]:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]  # what a name in a module is, only its user knows


def _compact(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One rule for resources of a group with the same verbs and names; verbs of one resource together."""
    verbs: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for rule in found:
        key = (rule["apiGroups"][0], rule["resources"][0], tuple(rule.get("resourceNames", ())))
        verbs[key] = sorted({*verbs.get(key, ()), *rule["verbs"]})
    resources: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (group, resource, names), allowed in verbs.items():
        resources.setdefault((group, tuple(allowed), names), []).append(resource)
    return [
        {
            "apiGroups": [group],
            "resources": sorted(some),
            "verbs": list(allowed),
            **({"resourceNames": list(names)} if names else {}),
        }
        for (group, allowed, names), some in sorted(resources.items())
    ]


def main() -> None:
    for folder, parts in (("rules", RULES), ("optional", OPTIONAL)):
        (TARGET / folder).mkdir(parents=True, exist_ok=True)
        for part in parts:
            (TARGET / folder / f"{part}.yaml").write_text(rules(part))
    for name, text in admission().items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
