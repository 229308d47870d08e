"""`prestage bench`: its subcommands and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from prestage.bench import staged, usual
from prestage.bench.cli import bench
from prestage.cacher import errors


def test_help_names_every_subcommand() -> None:
    shown = CliRunner().invoke(bench, ["--help"])
    assert shown.exit_code == 0
    for name in ("start", "fetch", "load", "make-model"):
        assert name in shown.output


def test_make_model_writes_what_it_says(tmp_path: Path) -> None:
    made = CliRunner().invoke(bench, ["make-model", str(tmp_path / "m"), "--size", "1M", "--json"])
    assert made.exit_code == 0
    about = json.loads(made.output)
    assert about["bytes"] >= 10**6
    assert set(about["sha256"]) == {file.name for file in (tmp_path / "m").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["fetch", "hf://org/name"], "cannot compare tools"),
        (["fetch", "http://127.0.0.1:1/b/k", "--rivals", "wget"], "unknown rival"),
        (["start", "gopher://x", "--root", "/nowhere"], "no usual client is known for gopher"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments: list[str], why: str) -> None:
    outcome = CliRunner().invoke(bench, arguments)
    assert isinstance(outcome.exception, errors.Misconfigured)
    assert why in outcome.exception.message
    assert "\n" not in str(outcome.exception)


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(bench, ["fetch", "http://127.0.0.1:1/b/k", "--rivals", "none", "--dir", str(tmp_path)])
    assert isinstance(outcome.exception, errors.Unavailable)
    assert list(tmp_path.iterdir()) == []


def test_without_the_loader_load_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> object:
        raise ModuleNotFoundError("No module named 'prestage.loader'", name="prestage.loader")

    monkeypatch.setattr("prestage.bench.cli.importlib.import_module", absent)
    outcome = CliRunner().invoke(bench, ["load"])
    assert isinstance(outcome.exception, errors.Misconfigured)
    assert "prestage.loader" in outcome.exception.message


def test_an_error_of_the_command_keeps_its_class_and_words(tmp_path: Path) -> None:
    with pytest.raises(errors.Misconfigured, match=r"\S"):
        staged.stage("not a ref", tmp_path / "store")


@pytest.mark.parametrize(
    ("code", "words", "kind", "message"),
    [
        (3, "prestage: no such repository\n  check its name\n", errors.NotFound, "no such repository"),
        (7, "prestage: warning: old\nprestage: it does not fit\n", errors.Full, "it does not fit"),
        (1, "Traceback (most recent call last):\n  ...\nKeyError: 'x'\n", errors.Bug, "KeyError: 'x'"),
        (-9, "", errors.Bug, "it said nothing"),
    ],
)
def test_every_exit_code_comes_back_as_its_error(code: int, words: str, kind: type[Exception], message: str) -> None:
    failure = staged._failure("stage", code, words)
    assert type(failure) is kind
    assert message in failure.message


def test_output_without_done_is_a_bug() -> None:
    with pytest.raises(errors.Bug):
        staged.last_event('{"event": "progress"}\n')
    assert staged.last_event('noise\n{"event": "resolved"}\n{"event": "done", "bytes": 1}\n')["bytes"] == 1


@pytest.mark.parametrize(("ref", "client"), [("hf://a/b", "huggingface_hub"), ("s3://b/k", "boto3"), ("file:///x", "shutil")])
def test_each_kind_of_ref_has_its_usual_client(ref: str, client: str) -> None:
    assert usual.client_of(ref) == client
    usual.import_client(ref)
