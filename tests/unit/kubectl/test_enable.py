"""`kubectl prestage enable NS`: offline, and never more than what was named."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner

from prestage.cacher.errors import Misconfigured
from prestage.kubectl.cli import kubectl_prestage


def enabled(*arguments: str) -> list[dict[str, object]]:
    said = CliRunner().invoke(kubectl_prestage, ["enable", *arguments], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return [one for one in yaml.safe_load_all(said.output) if one]


def test_a_namespace_without_credentials_gets_its_label_and_no_role() -> None:
    [only] = enabled("team-a")
    assert only == {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "team-a", "labels": {"prestage.dev/enabled": "true"}},
    }


def test_the_broker_reads_the_named_secrets_and_no_others() -> None:
    made = enabled("team-a", "--secret", "hf-token", "--secret", "s3", "--secret", "s3", "--control-namespace", "infra")
    role = next(one for one in made if one["kind"] == "Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["hf-token", "s3"]}]
    binding = next(one for one in made if one["kind"] == "RoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "prestage-broker", "namespace": "infra"}]


def test_workload_identity_is_one_service_account_and_its_tokens() -> None:
    made = enabled("team-a", "--fetcher")
    assert [one["kind"] for one in made] == ["Namespace", "ServiceAccount", "Role", "RoleBinding"]
    assert made[2]["rules"] == [
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": ["prestage-fetcher"]}
    ]


def test_json_is_one_list() -> None:
    said = CliRunner().invoke(kubectl_prestage, ["enable", "team-a", "-o", "json"])
    assert json.loads(said.output)["kind"] == "List"


@pytest.mark.parametrize("arguments", [("Team_A",), ("team-a", "--secret", "../etc"), ("team-a", "--control-namespace", "")])
def test_what_is_no_name_is_refused(arguments: tuple[str, ...]) -> None:
    said = CliRunner().invoke(kubectl_prestage, ["enable", *arguments])
    assert isinstance(said.exception, Misconfigured)
