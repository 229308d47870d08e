"""How the command starts, and what it says when it cannot."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import trustme
from brokers import Broker, Cluster, play
from click.testing import CliRunner

from prestage.cacher.errors import Unavailable
from prestage.control.broker.cli import broker
from prestage.wire.broker_client import BrokerClient, BrokerSettings


def started(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "prestage.cacher.cli", "control", "broker", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_without_a_cluster_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = started("--kubeconfig", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "kubeconfig" in done.stderr
    wrong = CliRunner().invoke(broker, ["--listen", "here", "--kubeconfig", str(tmp_path / "none")])
    assert wrong.exit_code == 2
    assert "'here' is no HOST:PORT" in wrong.output


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    named = {"clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:9"}}], "users": [{"name": "u", "user": {}}]}
    context = {"name": "c", "context": {"cluster": "k", "user": "u"}}
    kubeconfig.write_text(json.dumps({"kind": "Config", "current-context": "c", "contexts": [context], **named}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = started("--health", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0", "--kubeconfig", str(kubeconfig))
    assert done.returncode == 2
    assert f"127.0.0.1:{port} cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_what_trusts_its_authority_and_speaks_tls_gets_an_answer(tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(broker.url.replace("https", "http") + "/healthz")
        token = tmp_path / "token"
        token.write_text(broker.cluster.account("prestage-planner"))
        other = tmp_path / "other.crt"
        trustme.CA().cert_pem.write_to_path(str(other))
        async with BrokerClient(BrokerSettings(broker.url, token, other)) as stranger:
            with pytest.raises(Unavailable, match="certificate"):
                await stranger.manifest("sha256:" + "0" * 64)

    play(Cluster(), tmp_path, test)
