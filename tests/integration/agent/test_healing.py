"""Damage on the disk: found by a reader, by the scrubber or by `verify`; what somebody holds is fetched anew."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import pytest
from agents import Agent, wait_for
from agents.contract import UnixConnection

from prestage.cacher.agent.narrow import LISTENERS_MAX
from servers.hostile import Hostile

MODEL = "/model.safetensors"
OFFSET = 20_000_000


def damage(file: Path, offset: int = OFFSET) -> None:
    """One bit, on the disk and in the page cache."""
    file.chmod(0o644)
    with file.open("r+b") as open_file:
        open_file.seek(offset)
        byte = open_file.read(1)[0]
        open_file.seek(offset)
        open_file.write(bytes([byte ^ 1]))
        os.fsync(open_file.fileno())
    file.chmod(0o444)


@pytest.fixture
def staged(agent: Agent, origin: Hostile) -> tuple[str, Path]:
    """(artifact, its one file)."""
    done = agent.stage(origin.url(MODEL))
    return str(done["artifact"]), Path(str(done["path"])) / "model.safetensors"


def test_a_reader_who_reports_a_wrong_chunk_finds_the_right_file_at_his_next_open(
    agent: Agent, staged: tuple[str, Path], data: bytes
) -> None:
    artifact, file = staged
    with file.open("rb") as before:
        damage(file)
        answer = agent.ask("POST", "/v1/report", {"artifact": artifact, "path": "model.safetensors", "offset": OFFSET}).good
        assert answer["damaged"]
        wait_for(lambda: agent.ask("GET", "/v1/explain", query={"ref": artifact}).good["state"] == "staged")
        assert file.read_bytes() == data
        before.seek(OFFSET)
        assert before.read(1) != data[OFFSET : OFFSET + 1], "who has the old one open keeps its bytes"
    assert [event["event"] for event in agent.events()].count("healing") == 1
    assert agent.ask("POST", "/v1/report", {"artifact": artifact, "path": "model.safetensors", "offset": OFFSET}).good == {
        "damaged": False,
        "message": "its bytes are right, on the disk and in memory: open it again; if it stays, look at the reader's memory",
    }


def test_a_reader_in_the_hugging_face_layout_reports_the_path_he_sees(agent: Agent, staged: tuple[str, Path]) -> None:
    artifact, file = staged
    damage(file)
    seen = f"snapshots/{'0' * 40}/model.safetensors"
    assert agent.ask("POST", "/v1/report", {"artifact": artifact, "path": seen, "offset": OFFSET}).good["damaged"]


def test_what_nobody_holds_is_damaged_until_it_is_staged_again(agent: Agent, staged: tuple[str, Path], origin: Hostile) -> None:
    artifact, file = staged
    damage(file)
    assert agent.prestage("verify").code == 5
    assert agent.ask("GET", "/v1/explain", query={"ref": artifact}).good["state"] == "damaged"
    assert agent.stage(origin.url(MODEL))["event"] == "done"
    assert agent.prestage("verify").code == 0


def test_what_somebody_holds_is_fetched_anew_at_once(agent: Agent, staged: tuple[str, Path], data: bytes) -> None:
    artifact, file = staged
    assert agent.ask("POST", "/v1/holds", {"ref": artifact, "kind": "pin"}).status == 200
    damage(file)
    assert agent.prestage("verify").code == 5
    wait_for(lambda: agent.ask("GET", "/v1/explain", query={"ref": artifact}).good["state"] == "staged")
    assert file.read_bytes() == data


def test_the_scrubber_finds_it_at_idle(tmp_path: Path, origin: Hostile, data: bytes) -> None:
    settings = {"listen": None, "scrub_bytes_per_s": 1e9, "scrub_every_s": 0.0}
    with Agent(tmp_path / "store", settings=settings) as agent:
        done = agent.stage(origin.url(MODEL))
        assert agent.ask("POST", "/v1/holds", {"ref": done["artifact"], "kind": "pin"}).status == 200
        file = Path(str(done["path"])) / "model.safetensors"
        damage(file)
        agent.stop()
        agent.start()
        agent.wait_for_event("damaged")
        agent.wait_for_event("staged")
        assert file.read_bytes() == data


def test_what_was_damaged_before_a_restart_is_fetched_anew_after_it(tmp_path: Path, origin: Hostile, data: bytes) -> None:
    with Agent(tmp_path / "store", "--scrub-rate", "1M") as agent:
        done = agent.stage(origin.url(MODEL))
        file = Path(str(done["path"])) / "model.safetensors"
        damage(file)
        assert agent.prestage("verify").code == 5
        assert agent.prestage("pin", done["artifact"]).code == 0
        agent.stop()
        agent.start()
        agent.wait_for_event("staged")
        assert file.read_bytes() == data


class Narrow:
    """A narrow socket as a pod has it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        connection = UnixConnection(self.path)
        try:
            connection.request(method, path, body=body)
            answer: http.client.HTTPResponse = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    @contextmanager
    def listening(self) -> Iterator[http.client.HTTPResponse]:
        """Its events, a line each, from now on."""
        connection = UnixConnection(self.path)
        try:
            connection.request("GET", "/v1/events")
            yield connection.getresponse()
        finally:
            connection.close()


@pytest.fixture
def narrow(agent: Agent, staged: tuple[str, Path], tmp_path: Path) -> Iterator[Narrow]:
    path = tmp_path / "pod.sock"
    request = {"path": str(path), "artifacts": {"model": staged[0]}, "mount": "/models"}
    assert agent.ask("POST", "/v1/sockets", request).status == 204
    yield Narrow(path)
    assert agent.ask("DELETE", "/v1/sockets", query={"path": str(path)}).status == 204
    assert not path.exists()


def test_a_narrow_socket_answers_as_the_pod_sees_it_and_for_its_artifacts_only(
    agent: Agent, staged: tuple[str, Path], origin: Hostile, narrow: Narrow
) -> None:
    other = agent.stage(origin.url("/small-1"))
    assert narrow("GET", "/v1/resolve?ref=model") == (200, f'{{"artifact":"{staged[0]}","path":"/models/model"}}')
    assert narrow("GET", f"/v1/resolve?ref={other['artifact']}")[0] == 404
    for method, path, body in (
        ("GET", "/v1/status", None),
        ("GET", "/v1/artifacts", None),
        ("POST", "/v1/stage", '{"ref": "file:///etc"}'),
        ("POST", "/v1/evict", f'{{"ref": "{staged[0]}"}}'),
    ):
        assert narrow(method, path, body)[0] == 404, path
    status, said = narrow("POST", "/v1/report", f'{{"artifact": "{other["artifact"]}", "path": "small-1", "offset": 0}}')
    assert (status, "not among" in said) == (403, True)


def test_a_pod_reports_damage_and_reads_the_healed_file(staged: tuple[str, Path], data: bytes, narrow: Narrow) -> None:
    artifact, file = staged
    damage(file)
    report = f'{{"artifact": "{artifact}", "path": "model.safetensors", "offset": {OFFSET}}}'
    status, said = narrow("POST", "/v1/report", report)
    assert status == 200, said
    wait_for(lambda: file.read_bytes() == data if file.exists() else False)


def test_a_pod_that_listens_hears_of_its_own_artifacts_only(
    agent: Agent, staged: tuple[str, Path], origin: Hostile, narrow: Narrow
) -> None:
    artifact, file = staged
    with narrow.listening() as lines:
        agent.stage(origin.url("/small-1"))
        damage(file)
        narrow("POST", "/v1/report", f'{{"artifact": "{artifact}", "path": "model.safetensors", "offset": {OFFSET}}}')
        heard = [json.loads(line) for line in islice((line for line in lines if b"alive" not in line), 3)]
    assert [one["event"] for one in heard] == ["damaged", "healing", "staged"]
    assert {one["artifact"] for one in heard} == {artifact}
    assert heard[0]["path"] == "model.safetensors"
    assert set().union(*heard) == {"event", "at", "artifact", "path"}


def test_a_pods_listeners_are_few(narrow: Narrow) -> None:
    with ExitStack() as listening:
        for _ in range(LISTENERS_MAX):
            listening.enter_context(narrow.listening())
        wait_for(lambda: narrow("GET", "/v1/events")[0] == 423)
    wait_for(lambda: _is_let_in(narrow))


def _is_let_in(narrow: Narrow) -> bool:
    with narrow.listening() as lines:
        return lines.status == 200


def test_a_pod_cannot_keep_the_disk_busy_with_reports(staged: tuple[str, Path], narrow: Narrow) -> None:
    report = f'{{"artifact": "{staged[0]}", "path": "model.safetensors", "offset": 0}}'
    answers = [narrow("POST", "/v1/report", report)[0] for _ in range(30)]
    assert answers[0] == 200
    assert 423 in answers


def test_somebody_elses_socket_is_not_taken_over(agent: Agent, staged: tuple[str, Path], tmp_path: Path) -> None:
    answer = agent.ask("POST", "/v1/sockets", {"path": str(agent.socket), "artifacts": {"model": staged[0]}})
    assert (answer.status, "listens" in answer.body["message"]) == (400, True)
    file = tmp_path / "a-file"
    file.write_text("mine")
    assert agent.ask("POST", "/v1/sockets", {"path": str(file), "artifacts": {"model": staged[0]}}).status == 400
    assert file.read_text() == "mine"
