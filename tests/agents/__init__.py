"""The agent as an operator runs it: a process of its own on a root of its own. It must end well and without a traceback.

with Agent(tmp_path / "store") as agent:
    agent.ask("GET", "/v1/status")         # every answer is held against the agent's own OpenAPI document
    agent.prestage("stage", url)           # the command line, which finds the agent by the root
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from commands import Prestage

from agents.contract import Answer, Contract, Stream

_T = TypeVar("_T")
READY_S = 60.0
END_S = 20.0
"""What the drain may take on a busy machine; 5 s is what it is to take."""
_WITH_SETTINGS = """
import json, sys
from pathlib import Path
from prestage.cacher.agent import app, logs
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.errors import PrestageError
root, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
logs.set_up(as_json=True)
app.run(AgentConfig(root=root, socket=root / "agent.sock", **settings))
"""


class Agent:
    """See the module. `settings` are of AgentConfig, for what no flag sets."""

    def __init__(
        self,
        root: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, object] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.root, self.options, self.settings, self.within = root, options, settings, within
        self.env = {"NO_COLOR": "1", **(env or {})}
        self.socket = root / "agent.sock"
        self.prestage = Prestage(root, self.env)
        self.process: subprocess.Popen[bytes] | None = None
        self.logs: list[Path] = []
        self.logs_in = root.parent
        self._contract: Contract | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is None:
            return
        if error is not None:
            self.kill()
            error.add_note("".join(log.read_text()[-4000:] for log in self.logs))
        else:
            self.stop()

    @property
    def pid(self) -> int:
        """Of the agent itself, not of what it is wrapped in."""
        assert self.process is not None
        return self.process.pid

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it; ready later."""
        log = self.logs_in / f"{self.root.name}-{len(self.logs)}.log"
        self.logs.append(log)
        if self.settings is not None:
            command = [sys.executable, "-c", _WITH_SETTINGS, str(self.root), json.dumps(self.settings)]
        else:
            command = [sys.executable, "-m", "prestage.cacher.cli", "agent", "--root", str(self.root)]
            command += ["--listen", "127.0.0.1:0", "--log", "json", *self.options]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*self.within, *command], stderr=output, stdout=output, env={**os.environ, **self.env}
            )
        return self.process

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait_for_event("agent_ready", timeout_s=READY_S)

    def events(self) -> list[dict[str, Any]]:
        """What the running one has logged."""
        return [json.loads(line) for line in self.logs[-1].read_text().splitlines() if line.startswith("{")]

    def wait_for_event(self, name: str, *, timeout_s: float = 30.0, **fields: object) -> dict[str, Any]:
        """The first line of that name (and with these fields) of the running one's log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for event in self.events():
                if event["event"] == name and all(event.get(field) == value for field, value in fields.items()):
                    return event
            assert self.process is not None
            if self.process.poll() is not None and name != "agent_ended":
                raise AssertionError(f"the agent ended with {self.process.returncode}: {self.logs[-1].read_text()}")
            time.sleep(0.02)
        raise AssertionError(f"no {name} in {timeout_s} s: {self.logs[-1].read_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = END_S) -> float:
        """End it in an orderly way; returns the seconds that took."""
        assert self.process is not None
        process, self.process = self.process, None
        began = time.monotonic()
        process.send_signal(number)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"SIGTERM did not end it in {timeout_s} s: {self.logs[-1].read_text()[-3000:]}") from None
        took_s = time.monotonic() - began
        text = self.logs[-1].read_text()
        assert "Traceback" not in text, text
        assert code == 0, text
        assert self.events()[-1]["event"] == "agent_ended", text
        return took_s

    def kill(self) -> None:
        """As the OOM killer would."""
        assert self.process is not None
        process, self.process = self.process, None
        process.kill()
        process.wait()

    # -- asking it

    @property
    def contract(self) -> Contract:
        """Its own OpenAPI document, asked for once."""
        if self._contract is None:
            self._contract = Contract.of(self.socket)
        return self._contract

    def ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, query: Mapping[str, object] | None = None
    ) -> Answer:
        """One answer, checked against the contract."""
        return self.contract.ask(self.socket, method, path, body, query or {})

    @contextmanager
    def stream(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Iterator[Stream]:
        """Events as they come; leaving closes the connection."""
        with self.contract.stream(self.socket, method, path, body) as stream:
            yield stream

    def stage(self, ref: str, **fields: object) -> dict[str, Any]:
        """Stage it and wait: the last event."""
        with self.stream("POST", "/v1/stage", {"ref": ref, **fields}) as events:
            return events.last()

    def stages(self) -> dict[str, dict[str, Any]]:
        """By ref; the newest of each."""
        return {stage["ref"]: stage for stage in reversed(self.ask("GET", "/v1/stages").body)}

    def wait_for_stage(self, ref: str, is_so: Callable[[dict[str, Any]], bool], *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Until its view is so."""

        def look() -> dict[str, Any] | None:
            stage = self.stages().get(ref)
            return stage if stage is not None and is_so(stage) else None

        return wait_for(look, timeout_s=timeout_s)

    # -- looking at its process

    def rss_bytes(self) -> int:
        """Resident now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Open now."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - only how many

    def threads(self) -> int:
        """Running now."""
        return len(os.listdir(f"/proc/{self.pid}/task"))  # noqa: PTH208 - only how many

    def cpu_s(self) -> float:
        """Used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(look: Callable[[], _T | Literal[False] | None], *, timeout_s: float = 60.0) -> _T:
    """What `look` says, once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"it did not become so in {timeout_s} s"
        time.sleep(0.05)
    return seen
