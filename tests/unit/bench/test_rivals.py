"""How each tool is called, and when it sits out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prestage.bench.rivals.known import OURS, RIVALS, TOOLS
from prestage.bench.rivals.ports import Target, Unfit

URL = "http://127.0.0.1:8080/bucket/folder/model%20one.bin"


@pytest.fixture(autouse=True)
def _everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/bin/{name}")


def test_a_url_with_a_folder_is_an_anonymous_path_style_object() -> None:
    found = Target(URL, 8).s3
    assert found is not None
    assert (found.endpoint, found.bucket, found.key, found.signed) == (
        "http://127.0.0.1:8080",
        "bucket",
        "folder/model one.bin",
        False,
    )


@pytest.mark.parametrize("url", ["http://host/file.bin", "http://host/b/file.bin?token=1"])
def test_a_url_without_folder_or_with_a_query_is_no_s3_object(url: str) -> None:
    assert Target(url, 8).s3 is None
    with pytest.raises(Unfit, match="/bucket/key"):
        TOOLS["s5cmd"](Target(url, 8), Path("/out"))


def test_an_s3_ref_needs_an_endpoint() -> None:
    assert Target("s3://b/k", 8).s3 is None
    found = Target("s3://b/k", 8, endpoint="http://127.0.0.1:7070").s3
    assert found is not None
    assert found.signed


@pytest.mark.parametrize("tool", sorted(RIVALS))
def test_every_rival_writes_into_the_folder_it_is_given(tool: str) -> None:
    invocation = TOOLS[tool](Target(URL, 8), Path("/out"))
    assert invocation.output == Path("/out/object")
    assert "/out" in " ".join(invocation.command)
    assert invocation.version_command


@pytest.mark.parametrize("tool", ["s5cmd", "rclone", "aria2c"])
def test_rivals_get_as_many_connections_as_we_do(tool: str) -> None:
    assert "13" in TOOLS[tool](Target(URL, 13), Path("/out")).command


def test_s3transfer_gets_as_many_connections_as_we_do() -> None:
    settings = json.loads(TOOLS["s3transfer"](Target(URL, 13), Path("/out")).command[-1])
    assert settings["connections"] == 13
    assert settings["signed"] is False


def test_ours_is_the_public_command_line() -> None:
    invocation = TOOLS[OURS](Target(URL, 8), Path("/out"))
    assert invocation.command[1:5] == ("-m", "prestage.cacher.cli", "stage", URL)
    assert invocation.command[-2:] == ("--connections", "8")
    assert invocation.output is None


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_an_own_ca_reaches_every_tool(tool: str) -> None:
    invocation = TOOLS[tool](Target(URL.replace("http:", "https:"), 8, Path("/ca.pem")), Path("/out"))
    assert "/ca.pem" in " ".join((*invocation.command, *invocation.environment.values()))


@pytest.mark.parametrize("tool", ["curl", "aria2c", "huggingface_hub"])
def test_plain_http_tools_sit_out_for_s3(tool: str) -> None:
    with pytest.raises(Unfit, match="S3"):
        TOOLS[tool](Target("s3://b/k", 8, endpoint="http://h"), Path("/out"))


def test_a_tool_that_is_not_installed_sits_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(Unfit, match="curl is not installed"):
        TOOLS["curl"](Target(URL, 8), Path("/out"))
