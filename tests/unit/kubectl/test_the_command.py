"""`kubectl prestage`: the group itself."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from prestage.cacher.cli import run
from prestage.cacher.errors import NotFound
from prestage.kubectl.cli import COMMANDS, kubectl_prestage


def test_every_command_is_there_and_says_what_it_does() -> None:
    said = CliRunner().invoke(kubectl_prestage, ["--help"])
    assert said.exit_code == 0, said.output
    for name in COMMANDS:
        command = kubectl_prestage.get_command(click.Context(kubectl_prestage), name)
        assert command is not None
        assert command.help
        assert name in said.output


def test_what_is_no_command_is_refused() -> None:
    assert CliRunner().invoke(kubectl_prestage, ["frobnicate"]).exit_code == 2


def test_errors_are_one_line_and_their_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def miss() -> None:
        raise NotFound("no such node n1", hint="kubectl prestage nodes")

    assert run([], miss, "kubectl prestage") == NotFound.exit_code
    assert capsys.readouterr().err == "prestage: no such node n1\n  kubectl prestage nodes\n"
