"""What a load says: its report, the line, the explanation, and the word to the node's agent."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from loading import ARTIFACT, View, bytes_tensors, make_view

import prestage.loader
from prestage.bench.cold import make_cold
from prestage.loader import CorruptFile, damage, last_report, open_model
from prestage.loader.__main__ import main
from prestage.loader.model_report import ModelReport
from prestage.loader.numpy import load_file
from prestage.loader.report import Outcome

MIB = 1 << 20
CONTENT = bytes_tensors({"a": 9 * MIB, "b": 3 * MIB})


@pytest.fixture
def view(tmp_path: Path) -> View:
    return make_view(tmp_path, {"model.safetensors": CONTENT}, chunk_bytes=MIB)


def test_the_names_are_these() -> None:
    assert prestage.loader.__all__ == [
        "BadIndex", "Closed", "CorruptFile", "DeviceError", "InvalidCheckpoint", "InvalidFile", "OverBudget",
        "SafetensorError", "UnknownTensor", "Unsupported", "UnsupportedDtype", "VerifyUnavailable", "accelerate", "last_report",
        "open_model", "safe_open", "start",
    ]  # fmt: skip
    assert all(getattr(prestage.loader, name) for name in prestage.loader.__all__)
    assert set(prestage.loader.__all__) <= set(dir(prestage.loader))
    with pytest.raises(AttributeError, match="no attribute 'load_everything'"):
        getattr(prestage.loader, "load_" + "everything")


def test_a_load_says_one_line_and_leaves_a_report(view: View, capfd: pytest.CaptureFixture[str]) -> None:
    make_cold([Path(view.file())])
    with open_model(view.folder, framework="np") as model:
        assert len(dict(model.items())) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("prestage: current 0.0 GB in ")
    assert ", 0 % cached, verify " in lines[0]
    report = last_report()
    assert report is not None
    assert report["ways"] == {"O_DIRECT": len(CONTENT)}
    assert (report["verify"], report["verified_bytes"], report["artifact"]) == ("verified", len(CONTENT), ARTIFACT)
    assert json.loads(json.dumps(report)) == report


def test_the_environment_silences_the_line(
    view: View, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")
    with open_model(view.folder, framework="np") as model:
        assert len(dict(model.items())) == 2
    assert capfd.readouterr().err == ""
    assert last_report() is not None


def test_the_line_says_what_the_time_went_to() -> None:
    report = ModelReport(
        path="/m/llama", name="llama", artifact=None, size_bytes=141_000_000_000, outcome=Outcome.VERIFIED, verified_bytes=1,
        device="cuda", seconds=9.4, ways={"O_DIRECT": 124_080_000_000, "copied from the page cache": 16_920_000_000},
        disk_bytes=124_080_000_000, disk_s=9.1, verify_s=3.2, read_s=60.0, slot_s=0.8, waited_s=9.0, threads=8, limit="disk",
        host_peak_bytes=0,
    )  # fmt: skip
    assert report.line() == (
        "prestage: llama 141.0 GB in 9.4 s: disk 9.1 s at 13.6 GB/s, 12 % cached, H2D hidden, verify 0.4 s, limit=disk"
    )


def test_explain_names_each_file_its_residency_and_why(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    make_cold([Path(view.file())])
    assert main(["explain", str(view.folder)]) == 0
    said = capsys.readouterr().out
    for words in ("2 tensors", ARTIFACT, "model.safetensors  0 % resident  O_DIRECT 0.01 GB", "past the page cache"):
        assert words in said
    Path(view.file()).read_bytes()
    assert main(["explain", str(view.folder), "--json", "--readers", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    (file,) = found["files"]
    assert (file["ways"], file["resident_share"], file["sums"]) == ({"mapped": len(CONTENT)}, 1.0, True)


def test_explain_says_why_something_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(tmp_path)]) == 1
    assert "no *.safetensors here" in capsys.readouterr().err


class Agent:
    """Listens on a unix socket and keeps one request, or never answers."""

    def __init__(self, place: Path, *, answers: bool) -> None:
        self.request = b""
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(place))
        self._socket.listen(4)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._socket.accept()[0] as connection:
            self.request = connection.recv(65536)
            if self._answers:
                connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            else:
                self._done.wait()

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "_told", set())


def load_by_file(view: View) -> object:
    return load_file(view.file())


def load_by_model(view: View) -> object:
    with open_model(view.folder, framework="np") as model:
        return model["a"]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("load", [load_by_file, load_by_model])
@pytest.mark.parametrize("where", ["pod.sock", "environment"])
def test_wrong_bytes_are_told_to_the_agent_once(
    view: View, monkeypatch: pytest.MonkeyPatch, load: Callable[[View], object], where: str
) -> None:
    place = view.sums.parent.parent / "pod.sock"
    if where == "environment":
        place = view.folder.parent / "elsewhere"
        monkeypatch.setenv("PRESTAGE_SOCKET", str(place))
    agent = Agent(place, answers=True)
    try:
        view.damage(5 * MIB + 3)
        for _ in range(2):
            with pytest.raises(CorruptFile):
                load(view)
    finally:
        agent.close()
    head, body = agent.request.split(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/report HTTP/1.1\r\n")
    assert json.loads(body) == {"artifact": ARTIFACT, "path": view.file(), "offset": 5 * MIB}


@pytest.mark.usefixtures("fresh")
def test_an_agent_that_does_not_answer_or_is_not_there_delays_the_error_by_no_more_than_its_deadline(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    view.damage(5 * MIB + 3)
    monkeypatch.setenv("PRESTAGE_SOCKET", str(view.folder.parent / "absent"))
    with pytest.raises(CorruptFile):
        load_file(view.file())
    monkeypatch.setattr(damage, "_told", set())
    monkeypatch.setattr(damage, "_DEADLINE_S", 0.05)
    place = view.folder.parent / "mute"
    monkeypatch.setenv("PRESTAGE_SOCKET", str(place))
    agent = Agent(place, answers=False)
    try:
        with pytest.raises(CorruptFile):
            load_file(view.file())
    finally:
        agent.close()
