"""What a publish may say, and what it is told when it says something else."""

from __future__ import annotations

import json

import pytest

from prestage.api.annotations import Layout
from prestage.cacher.errors import Misconfigured
from prestage.node.csi.asking import TOKENS, asked

DIGEST = "sha256:" + "a" * 64
KUBELET = {
    "csi.storage.k8s.io/pod.name": "one",
    "csi.storage.k8s.io/pod.namespace": "team",
    "csi.storage.k8s.io/pod.uid": "uid-1",
    "csi.storage.k8s.io/serviceAccount.name": "server",
    "csi.storage.k8s.io/ephemeral": "true",
}
MODEL = {"model.prestage.dev/llama": "hf://org/llama@main"}


def tokens(token: str, audience: str = "prestage.dev") -> dict[str, str]:
    return {TOKENS: json.dumps({audience: {"token": token, "expirationTimestamp": "2030-01-01T00:00:00Z"}})}


def test_attributes_and_the_kubelets_word_are_read() -> None:
    found = asked({**KUBELET, **MODEL, "artifact.prestage.dev/llama": DIGEST, "prestage.dev/layout": "Flat"}, tokens("t"))
    assert (found.pod.namespace, found.pod.uid, found.pod.service_account) == ("team", "uid-1", "server")
    [model] = found.models
    assert (model.alias, model.ref, model.artifact) == ("llama", "hf://org/llama@main", DIGEST)
    assert (found.layout, found.mount_path, found.token) == (Layout.FLAT, "/models", "t")
    assert "secret-token" not in repr(asked({**KUBELET, **MODEL}, tokens("secret-token")))


def test_a_token_among_the_attributes_counts_only_where_secrets_carry_none() -> None:
    assert asked({**KUBELET, **MODEL, **tokens("forged")}, tokens("real")).token == "real"
    assert asked({**KUBELET, **MODEL, **tokens("kubelets")}, {}).token == "kubelets"
    assert asked({**KUBELET, **MODEL}, {}).token is None


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({}, "names no model"),
        ({**MODEL, "model": "x"}, "'model', which means nothing here"),
        ({**MODEL, "prestage.dev/wait": "Auto"}, "'prestage.dev/wait', which means nothing here"),
        ({"model.prestage.dev/../x": "hf://org/llama"}, "directory name"),
        ({"model.prestage.dev/llama": "file:///etc"}, "file://"),
        ({**MODEL, "artifact.prestage.dev/other": DIGEST}, "goes with no model"),
        ({**MODEL, "artifact.prestage.dev/llama": "sha256:short"}, "not an artifact"),
        ({**MODEL, "prestage.dev/layout": "Round"}, "none of Directory, HuggingFace, Flat"),
        ({**MODEL, "model.prestage.dev/two": "hf://org/two", "prestage.dev/layout": "Flat"}, "Flat is one model"),
        ({**MODEL, "prestage.dev/mount-path": "relative"}, "no absolute path"),
        ({**MODEL, **tokens("t", "elsewhere")}, "no token for the audience"),
        ({**MODEL, TOKENS: "not json"}, "no token for the audience"),
    ],
)
def test_a_mistake_is_told(attributes: dict[str, str], told: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        asked({**KUBELET, **attributes}, {})
    assert told in str(caught.value)


@pytest.mark.parametrize("missing", ["pod.name", "pod.namespace", "pod.uid", "serviceAccount.name"])
def test_what_only_the_kubelet_can_say_must_be_there(missing: str) -> None:
    context = {name: value for name, value in KUBELET.items() if not name.endswith(missing)}
    with pytest.raises(Misconfigured, match="podInfoOnMount"):
        asked({**context, **MODEL}, {})


def test_a_persistent_volume_is_refused() -> None:
    with pytest.raises(Misconfigured, match="inline"):
        asked({**KUBELET, **MODEL, "csi.storage.k8s.io/ephemeral": "false"}, {})
