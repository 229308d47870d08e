"""Names of images: what is read, what is refused, and that nothing a user writes gets further than that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Misconfigured
from prestage.images.names import ImageName, parse_digest, parse_in_pod, parse_oci

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repository", "reference"),
    [
        ("oci://reg.example/app", "reg.example", "app", "latest"),
        ("oci://reg.example:5000/team/app:1.2", "reg.example:5000", "team/app", "1.2"),
        (f"oci://reg.example/app@{DIGEST}", "reg.example", "app", DIGEST),
        (f"oci://reg.example/app:1@{DIGEST}", "reg.example", "app", DIGEST),
        ("oci://[::1]:5000/a/b_c/d--e:T.1-x", "[::1]:5000", "a/b_c/d--e", "T.1-x"),
        ("oci://localhost/app:v", "localhost", "app", "v"),
    ],
)
def test_a_ref_names_registry_repository_and_what_is_asked_for(text: str, registry: str, repository: str, reference: str) -> None:
    name = parse_oci(text)
    assert (name.registry, name.repository, name.reference) == (registry, repository, reference)
    assert parse_oci(f"oci://{name}") == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reg.example/app",
        "oci://",
        "oci://reg.example",
        "oci:///app",
        "oci://reg.example/",
        "oci://reg.example/App",
        "oci://reg.example/a//b",
        "oci://reg.example/../secret",
        "oci://reg.example/app:",
        "oci://reg.example/app:-x",
        "oci://reg.example/app@sha256:ab",
        f"oci://reg.example/app@sha512:{'ab' * 64}",
        "oci://user:pw@reg.example/app",
        "oci://reg.example/app?x=1",
        "oci://reg.example/app#x",
        "oci://reg.example:123456/app",
        "oci://-reg/app",
        "oci://reg.example/" + "a" * 256,
        "oci://reg.example/app:" + "t" * 129,
        "oci://reg.example/app\n",
        "oci://reg.example/app:1\n",
    ],
)
def test_what_is_no_ref_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"write oci://registry"):
        parse_oci(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("team/app:1", "docker.io/team/app:1"),
        ("docker.io/nginx:1", "docker.io/library/nginx:1"),
        ("index.docker.io/team/app", "docker.io/team/app:latest"),
        ("ghcr.io/org/app:2", "ghcr.io/org/app:2"),
        ("localhost/app", "localhost/app:latest"),
        ("reg:5000/app:1", "reg:5000/app:1"),
        (f"reg.example/app:1@{DIGEST}", f"reg.example/app:1@{DIGEST}"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
    ],
)
def test_a_pods_image_is_completed_as_runtimes_complete_it(text: str, name: str) -> None:
    assert str(parse_in_pod(text)) == name


def test_docker_hub_answers_under_another_host() -> None:
    assert parse_in_pod("nginx").api_host == "registry-1.docker.io"


@pytest.mark.parametrize(
    ("registry", "is_loopback"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("[::1]:5000", True),
        ("127.0.0.1.example", False),
        ("reg", False),
    ],
)
def test_only_loopback_is_spoken_to_without_tls(registry: str, is_loopback: bool) -> None:
    assert ImageName(registry, "app").is_loopback is is_loopback


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    for parse, given_text in ((parse_oci, f"oci://{text}"), (parse_in_pod, text), (parse_digest, text)):
        try:
            found = parse(given_text)
        except Misconfigured:
            continue
        assert "\n" not in str(found)
        assert ".." not in str(found).partition("/")[2].split("/")


@given(
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?(:[0-9]{1,5})?", fullmatch=True),
    st.lists(st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+){0,2}", fullmatch=True), min_size=1, max_size=4),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
)
def test_what_the_specification_allows_is_read_back_as_it_was_written(registry: str, parts: list[str], tag: str) -> None:
    text = f"oci://{registry}/{'/'.join(parts)}:{tag}"
    assert f"oci://{parse_oci(text)}" == text
