"""The narrowest session policy for a manifest, and what STS is asked for it."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Denied, Misconfigured, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.origins.minting import Role, mint, mint_for_listing
from prestage.cacher.origins.session_policy import MAX_CHARS, SessionPolicy, listing_policy, session_policy

ROLE = Role("arn:aws:iam::123456789012:role/stage")


def model(*paths: str, base: str = "team/llama/", versions: bool = False, bucket: str = "models") -> Manifest:
    files = [FileEntry(path, 10, version=f"v-{index:030}" if versions else None) for index, path in enumerate(paths)]
    return manifest_of(f"s3:https://s3.amazonaws.com/{bucket}", base, files)


def shards(count: int) -> list[str]:
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def statement(policy: SessionPolicy) -> dict[str, object]:
    document = json.loads(policy.document)
    assert document["Version"] == "2012-10-17"
    (only,) = document["Statement"]
    return cast("dict[str, object]", only)


def allows(policy: SessionPolicy, key: str, bucket: str = "models") -> bool:
    """As IAM matches a resource: `*` and `?` are wild, `${*}` `${?}` `${$}` are not."""
    for arn in cast("list[str]", statement(policy)["Resource"]):
        parts = re.split(r"(\$\{[*?$]\}|\*|\?)", arn)
        pattern = "".join({"*": ".*", "?": "."}.get(part, re.escape(part[2] if part[:2] == "${" else part)) for part in parts)
        if re.fullmatch(pattern, f"arn:aws:s3:::{bucket}/{key}", re.DOTALL):
            return True
    return False


def test_a_few_objects_are_named_one_by_one() -> None:
    policy = session_policy(model("config.json", "model.safetensors"))
    assert statement(policy) == {
        "Effect": "Allow",
        "Action": ["s3:GetObject"],
        "Resource": ["arn:aws:s3:::models/team/llama/config.json", "arn:aws:s3:::models/team/llama/model.safetensors"],
    }
    assert (policy.is_exact, policy.pins_versions) == (True, False)


def test_pinned_versions_are_the_only_ones() -> None:
    policy = session_policy(model("a", "b", versions=True))
    said = statement(policy)
    assert said["Action"] == ["s3:GetObjectVersion"]
    assert said["Condition"] == {"StringEquals": {"s3:VersionId": [f"v-{0:030}", f"v-{1:030}"]}}
    assert policy.pins_versions


def test_where_only_some_have_versions_reading_either_way_is_allowed() -> None:
    files = [FileEntry("a", 1, version="v1"), FileEntry("b", 1)]
    policy = session_policy(manifest_of("s3:https://s3.amazonaws.com/models", "", files))
    assert statement(policy)["Action"] == ["s3:GetObject", "s3:GetObjectVersion"]
    assert not policy.pins_versions


def test_many_shards_become_patterns_that_are_as_narrow_as_fits() -> None:
    paths = ["config.json", *shards(200), "tokenizer.json"]
    policy = session_policy(model(*paths))
    assert len(policy.document) <= MAX_CHARS
    assert not policy.is_exact
    assert all(allows(policy, f"team/llama/{path}") for path in paths)
    assert "team/llama/config.json" in policy.resources, "what shares nothing with its neighbours stays exact"
    assert not allows(policy, "team/llama/secret.bin")
    assert not allows(policy, "team/other/config.json")


def test_versions_stay_pinned_under_patterns_as_long_as_they_fit() -> None:
    policy = session_policy(model(*shards(40), versions=True))
    assert (policy.pins_versions, policy.is_exact) == (True, True)
    assert len(cast("dict[str, dict[str, list[str]]]", statement(policy)["Condition"])["StringEquals"]["s3:VersionId"]) == 40
    more = session_policy(model(*shards(100), versions=True))
    assert (more.pins_versions, more.is_exact) == (False, False)
    assert statement(more)["Action"] == ["s3:GetObject", "s3:GetObjectVersion"]


def test_a_key_with_wildcards_stands_for_itself() -> None:
    policy = session_policy(model("a*b?c$d", base=""))
    assert policy.resources == ("a${*}b${?}c${$}d",)
    assert policy.is_exact
    assert allows(policy, "a*b?c$d")
    assert not allows(policy, "axxbxcxd")


def test_the_roles_partition_is_the_objects_too() -> None:
    sts = Asked()
    mint(model("a"), Role("arn:aws-cn:iam::123456789012:role/r"), sts, session_name="n")
    assert '"arn:aws-cn:s3:::models/team/llama/a"' in str(sts.calls[0]["Policy"])


@pytest.mark.parametrize(
    "manifest",
    [manifest_of("https://host", "/", [FileEntry("f", 1)]), model("x" * 200, base="/".join(["y" * 100] * 20) + "/")],
    ids=["no S3", "a base too long"],
)
def test_what_no_policy_can_say_is_a_mistake(manifest: Manifest) -> None:
    with pytest.raises(Misconfigured):
        session_policy(manifest)


def test_a_hundred_thousand_objects_take_no_time_to_give_up_naming() -> None:
    policy = session_policy(model(*(f"{number % 991:03}/part-{number:06}" for number in range(100_000))))
    assert len(policy.document) <= MAX_CHARS
    assert allows(policy, "team/llama/007/part-000007")


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="/\\"), min_size=1, max_size=40)


@given(st.sets(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=60), st.booleans(), NAMES)
def test_every_object_of_a_manifest_may_be_read_and_nothing_outside_its_prefix(
    names: set[str], versions: bool, other: str
) -> None:
    try:
        manifest = model(*names, versions=versions)
    except PrestageError:
        return  # a name that no manifest takes
    policy = session_policy(manifest)
    assert len(policy.document) <= MAX_CHARS
    assert all(allows(policy, f"team/llama/{name}") for name in names)
    assert not allows(policy, f"team/{other}")
    if policy.is_exact and not policy.pins_versions:
        assert allows(policy, f"team/llama/{other}") == (other in names)


@dataclass
class Asked:
    """STS that notes what it is asked; refuses with each of `refusals` first."""

    refusals: list[Exception] = field(default_factory=list)
    calls: list[Mapping[str, object]] = field(default_factory=list)

    def assume_role(self, **settings: object) -> Mapping[str, object]:
        self.calls.append(settings)
        if self.refusals:
            raise self.refusals.pop(0)
        keys = {"AccessKeyId": "ASIA", "SecretAccessKey": "hush", "SessionToken": "hush-too", "Expiration": datetime.now(UTC)}
        return {"Credentials": keys, "PackedPolicySize": 12}

    def assume_role_with_web_identity(self, **settings: object) -> Mapping[str, object]:
        return self.assume_role(**settings)

    def close(self) -> None:
        return


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}}, "AssumeRole")


def test_what_is_minted_shows_no_secret() -> None:
    sts = Asked()
    minted = mint(model("a"), Role(ROLE.arn, external_id="x"), sts, session_name="team/serve pod é")
    assert (minted.access_key, minted.secret_key, minted.packed_percent) == ("ASIA", "hush", 12)
    assert "hush" not in repr(minted)
    (call,) = sts.calls
    assert (call["RoleSessionName"], call["ExternalId"], call["DurationSeconds"]) == ("team-serve-pod--", "x", 3600)
    assert call["Policy"] == minted.policy.document


def test_a_web_identity_proves_who_asks_and_is_not_shown() -> None:
    sts, role = Asked(), Role(ROLE.arn, web_identity="jwt.of.pod")
    mint(model("a"), role, sts, session_name="n")
    assert sts.calls[0]["WebIdentityToken"] == "jwt.of.pod"
    assert "jwt" not in repr(role)


def test_a_policy_that_packs_badly_is_asked_for_again_wider_and_shorter() -> None:
    sts = Asked([refusal("PackedPolicyTooLarge")] * 2)
    minted = mint(model(*shards(20)), ROLE, sts, session_name="n")
    lengths = [len(str(call["Policy"])) for call in sts.calls]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 3
    assert not minted.policy.is_exact
    with pytest.raises(Misconfigured):
        mint(model("a"), ROLE, Asked([refusal("PackedPolicyTooLarge")] * 9), session_name="n")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (refusal("AccessDenied"), Denied),
        (refusal("ExpiredTokenException"), Denied),
        (EndpointConnectionError(endpoint_url="https://sts"), Unavailable),
    ],
)
def test_what_sts_says_has_its_class(raised: Exception, kind: type[PrestageError]) -> None:
    with pytest.raises(kind):
        mint(model("a"), ROLE, Asked([raised]), session_name="n")


@pytest.mark.parametrize("settings", [{"arn": "role"}, {"arn": ROLE.arn, "life_s": 60}, {"arn": ROLE.arn, "life_s": 10**6}])
def test_a_role_that_cannot_be_one_is_a_mistake(settings: dict[str, object]) -> None:
    with pytest.raises(Misconfigured):
        Role(**settings)  # type: ignore[arg-type] # by the table


def test_a_stage_does_not_even_load_what_mints() -> None:
    code = "import sys, prestage.cacher.cli.stage, prestage.cacher.origins.registry; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "prestage.cacher.origins.registry" in loaded
    assert not fnmatch.filter(loaded, "prestage.cacher.origins.minting")


def test_resolving_a_prefix_needs_listing_there_and_reading_there_and_nothing_else() -> None:
    document = json.loads(listing_policy("models", "team/a*b/").document)
    reading, listing = document["Statement"]
    assert reading["Resource"] == ["arn:aws:s3:::models/team/a${*}b/*"]
    assert reading["Action"] == ["s3:GetObject", "s3:GetObjectVersion"]
    assert (listing["Action"], listing["Resource"]) == (["s3:ListBucket"], ["arn:aws:s3:::models"])
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["team/a${*}b/*"]}}
    one = listing_policy("models", "team/file", partition="aws-cn")
    assert (one.resources, one.is_exact) == (("team/file",), True)
    assert '"arn:aws-cn:s3:::models/team/file"' in one.document
    with pytest.raises(Misconfigured):
        listing_policy("models", "x" * 3000)


def test_keys_for_resolving_are_asked_for_with_that_policy() -> None:
    sts = Asked()
    minted = mint_for_listing("models", "team/llama/", ROLE, sts, session_name="n")
    assert sts.calls[0]["Policy"] == listing_policy("models", "team/llama/").document == minted.policy.document
    with pytest.raises(Denied):
        mint_for_listing("models", "x/", ROLE, Asked([refusal("AccessDenied")]), session_name="n")
