"""What is registered with the API server, as data: the chart writes it out, tests apply it. Pure.

kind                                     from       when it is away
MutatingWebhookConfiguration             1.32       pods get what MutatingAdmissionPolicy gives, no gate (failurePolicy Ignore)
ValidatingWebhookConfiguration           1.32       mistakes in workloads are found when their pods are made
ValidatingAdmissionPolicy                1.32       the API server's own: never away
MutatingAdmissionPolicy (1.36)           probed     the API server's own: never away. Elsewhere the webhook does all of it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prestage.api.annotations import ENABLED_LABEL, PREFIX
from prestage.api.policies import STARTUP_TAINT
from prestage.control.admission import cel
from prestage.kube.ports import Object

GROUP: Final = "admissionregistration.k8s.io"
NAME: Final = "prestage"
PODS_WEBHOOK: Final = "pods.prestage.dev"
WORKLOADS_WEBHOOK: Final = "workloads.prestage.dev"
TIMEOUT_S: Final = 2
_SERVERS: Final = ["generation", "managedFields", "resourceVersion"]
"""What the API server itself writes at each change."""
_SELECTED: Final[Object] = {"matchLabels": {ENABLED_LABEL: "true"}}


@dataclass(frozen=True, slots=True)
class Client:
    """Where the webhook is: a Service, or (tests) a URL. `ca`: PEM in base64; None: admission writes it (authorities.py)."""

    namespace: str = "prestage"
    service: str = "prestage-admission"
    port: int = 443
    url: str | None = None
    ca: str | None = None

    def at(self, path: str) -> Object:
        """clientConfig."""
        ca = {} if self.ca is None else {"caBundle": self.ca}
        if self.url is not None:
            return {"url": self.url + path, **ca}
        return {"service": {"namespace": self.namespace, "name": self.service, "port": self.port, "path": path}, **ca}


def mutating_webhook(client: Client) -> Object:
    """Pods that are ours, as they are created."""
    hook = _hook(PODS_WEBHOOK, client.at("/mutate"), [_rule("", ["pods"], ["CREATE"])])
    conditions = [_condition("ours", cel.IS_OURS), _condition("not-a-mirror", cel.NOT_MIRROR)]
    return _configuration(
        "MutatingWebhookConfiguration", {**hook, "matchConditions": conditions, "reinvocationPolicy": "IfNeeded"}
    )


def validating_webhook(client: Client) -> Object:
    """Workloads whose templates are ours: their mistakes are told where they are made. Updates only where the template moved."""
    rules = [
        _rule("apps", ["deployments", "statefulsets", "daemonsets"], ["CREATE", "UPDATE"]),
        _rule("batch", ["jobs", "cronjobs"], ["CREATE", "UPDATE"]),
    ]
    template = "(has(object.spec.jobTemplate) ? object.spec.jobTemplate.spec.template : object.spec.template)"
    old = "(has(oldObject.spec.jobTemplate) ? oldObject.spec.jobTemplate.spec.template : oldObject.spec.template)"
    conditions = [
        _condition("ours", cel.asks(f"{template}.metadata.?annotations.orValue({{}})")),
        _condition("moved", f"request.operation == 'CREATE' || {template} != {old}"),
    ]
    hook = _hook(WORKLOADS_WEBHOOK, client.at("/validate"), rules)
    return _configuration("ValidatingWebhookConfiguration", {**hook, "matchConditions": conditions})


def mutating_policy(version: str = "v1") -> list[Object]:
    """Volume, mounts and environment without us. `version`: as the API server serves MutatingAdmissionPolicy."""
    spec = {
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": {"namespaceSelector": _SELECTED, "resourceRules": [_rule("", ["pods"], ["CREATE"], bare=True)]},
        "matchConditions": [
            _condition("wants-a-volume", cel.WANTS_VOLUME),
            _condition("has-none-yet", cel.NO_VOLUME_YET),
            _condition("not-a-mirror", cel.NOT_MIRROR),
        ],
        "variables": _variables(),
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": cel.mutation()}}],
    }
    binding = {"policyName": "pods.prestage.dev", "matchResources": {"namespaceSelector": _SELECTED}}
    return [
        _object("MutatingAdmissionPolicy", "pods.prestage.dev", spec, version),
        _object("MutatingAdmissionPolicyBinding", "pods.prestage.dev", binding, version),
    ]


def validating_policy() -> list[Object]:
    """The mistakes that an expression can tell, refused also while we are away."""
    spec = {
        "failurePolicy": "Ignore",
        "matchConstraints": {"namespaceSelector": _SELECTED, "resourceRules": [_rule("", ["pods"], ["CREATE"], bare=True)]},
        "matchConditions": [_condition("ours", cel.IS_OURS), _condition("not-a-mirror", cel.NOT_MIRROR)],
        "variables": _variables(),
        "validations": cel.validations(),
    }
    return _policy("pods.prestage.dev", spec, {"matchResources": {"namespaceSelector": _SELECTED}})


def node_policy(*, namespace: str, account: str) -> list[Object]:
    """An agent writes the status of its own node's NodeCache, and nothing else of ours: by the node-name claim of its token."""
    spec = {
        **_agents(namespace, account, "prestage.dev", ["nodecaches", "nodecaches/status"]),
        "validations": [
            {
                "expression": "request.?subResource.orValue('') == 'status'",
                "message": "an agent writes the status of a NodeCache only",
            },
            {
                "expression": "variables.node != '' && request.name == variables.node",
                "messageExpression": "'an agent writes the NodeCache of its own node only: its token is of node ' + "
                "(variables.node == '' ? '(none)' : variables.node)",
            },
        ],
    }
    return _policy("nodecaches.prestage.dev", spec, {})


def startup_policy(*, namespace: str, account: str) -> list[Object]:
    """An agent takes the startup taint off its own Node, and changes nothing else of any Node."""
    change = "request.operation != 'UPDATE' || "
    left = f"oldObject.spec.?taints.orValue([]).filter(t, t.key != {cel.text(STARTUP_TAINT)})"
    only = f"an agent takes {STARTUP_TAINT} off its Node and changes nothing else"
    of_spec = f"{_alike('spec', ['taints'])} && (object.spec.?taints.orValue([]) == {left} || {_same('taints')})"
    spec = {
        **_agents(namespace, account, "", ["nodes", "nodes/status"]),
        "validations": [
            {"expression": "request.operation == 'UPDATE' && request.?subResource.orValue('') == ''", "message": only},
            {
                "expression": "variables.node != '' && request.name == variables.node",
                "messageExpression": "'an agent changes its own Node only: its token is of node ' + "
                "(variables.node == '' ? '(none)' : variables.node)",
            },
            {"expression": f"{change}({of_spec})", "message": only},
            {"expression": f"{change}({_alike('metadata', _SERVERS)})", "message": only},
        ],
    }
    return _policy("nodes.prestage.dev", spec, {})


def _same(field: str) -> str:
    return f"object.spec.?{field}.orValue([]) == oldObject.spec.?{field}.orValue([])"


def _alike(part: str, but: list[str]) -> str:
    """Before and after, `but` for these fields: also of fields that a later Kubernetes adds."""
    new, old, named = f"dyn(object.{part})", f"dyn(oldObject.{part})", cel.names(but)
    kept = f"{new}.all(k, k in {named} || (k in {old} && {new}[k] == {old}[k]))"
    return f"{kept} && {old}.all(k, k in {named} || k in {new})"


def _agents(namespace: str, account: str, group: str, resources: list[str]) -> dict[str, object]:
    """What agents write of `resources`; `variables.node`: the node of the token, empty where it says none."""
    user = f"system:serviceaccount:{namespace}:{account}"
    claim = "request.userInfo.extra[?'authentication.kubernetes.io/node-name'].orValue([''])[0]"
    rule = {"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": resources}
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [_condition("an-agent", f"request.userInfo.username == {cel.text(user)}")],
        "variables": [{"name": "node", "expression": claim}],
    }


def artifact_policy(*, namespace: str, account: str) -> list[Object]:
    """What a namespace resolved is the broker's word: whoever could write it could grant himself what others have.

    Exempt is who may `restore` artifacts in the whole cluster: nobody but administrators, until a role says so (for backups).
    """
    user = f"system:serviceaccount:{namespace}:{account}"
    is_trusted = "authorizer.group('prestage.dev').resource('artifacts').check('restore').allowed()"
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": ["prestage.dev"],
                    "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["artifacts", "artifacts/status"],
                }
            ]
        },
        "validations": [
            {
                "expression": f"request.userInfo.username == {cel.text(user)} || {is_trusted}",
                "message": "an Artifact is written by the broker alone: name a model in an annotation or a StagedModel, "
                "and it is resolved with your namespace's credentials",
                "reason": "Forbidden",
            }
        ],
    }
    return _policy("artifacts.prestage.dev", spec, {})


def manifests(
    client: Client,
    *,
    node_account: str = "prestage-node",
    broker_account: str = "prestage-broker",
    mutating: str | None = "v1",
) -> list[Object]:
    """All. `mutating`: the version in which MutatingAdmissionPolicy is served, None where it is not."""
    return [
        mutating_webhook(client),
        validating_webhook(client),
        *validating_policy(),
        *node_policy(namespace=client.namespace, account=node_account),
        *startup_policy(namespace=client.namespace, account=node_account),
        *artifact_policy(namespace=client.namespace, account=broker_account),
        *(mutating_policy(mutating) if mutating else ()),
    ]


def _hook(name: str, client: Object, rules: list[Object]) -> dict[str, object]:
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": client,
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "timeoutSeconds": TIMEOUT_S,
        "matchPolicy": "Equivalent",
        "namespaceSelector": _SELECTED,
        "rules": rules,
    }


def _configuration(kind: str, hook: Object) -> Object:
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {"name": NAME}, "webhooks": [hook]}


def _policy(name: str, spec: Object, matching: Object) -> list[Object]:
    binding = {"policyName": name, "validationActions": ["Deny"], **matching}
    return [_object("ValidatingAdmissionPolicy", name, spec), _object("ValidatingAdmissionPolicyBinding", name, binding)]


def _object(kind: str, name: str, spec: Object, version: str = "v1") -> Object:
    return {"apiVersion": f"{GROUP}/{version}", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _variables() -> list[Mapping[str, str]]:
    return [{"name": name, "expression": expression} for name, expression in cel.VARIABLES]


def _condition(name: str, expression: str) -> Mapping[str, str]:
    return {"name": f"{PREFIX}{name}", "expression": expression}


def _rule(group: str, resources: list[str], operations: list[str], *, bare: bool = False) -> Object:
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": operations, "resources": resources}
    return rule if bare else {**rule, "scope": "Namespaced"}
