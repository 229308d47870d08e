"""A stage that is killed again and again, anywhere, still ends whole; nothing partial is ever seen on the way."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from commands import Prestage

from prestage.cacher.digests import PIECE_BYTES
from servers import faults
from servers.hostile import Hostile

STARTING = ("_get_module_details", "_find_and_load")
"""The interpreter, before our code can handle a signal: on a busy machine that is a second."""
DATA = random.Random(9).randbytes(5 * PIECE_BYTES + 77)


def _is_whole(prestage: Prestage, row: dict[str, str]) -> bool:
    """Killed between its last file and its name: what is there is whole, though only the artifact names it yet."""
    found = prestage("path", row["artifact"])
    return (Path(found.out.strip()) / "model.safetensors").read_bytes() == DATA


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill", "term", "int"])
def test_killed_again_and_again_it_ends_whole(number: signal.Signals, prestage: Prestage) -> None:
    rng = random.Random(number)
    with Hostile({"/model.safetensors": DATA}) as server:
        server.choose = lambda request: faults.Drip(30e6) if request.method == "GET" else None
        url = server.url("/model.safetensors")
        for _ in range(25):
            process = prestage.start("stage", url, "--connections", "2", "--json")
            time.sleep(rng.uniform(0.15, 1.2))
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
            assert "Traceback" not in err or any(name in err for name in STARTING), err
            found = prestage("path", url)
            if found.code == 0:
                assert (Path(found.out.strip()) / "model.safetensors").read_bytes() == DATA
            elif (listed := prestage("ls", "--json")).code == 0:
                assert all(row["state"] == "partial" or _is_whole(prestage, row) for row in json.loads(listed.out))
        server.choose = lambda request: None
        done = prestage("stage", url, "--json")
    assert done.code == 0, done.err
    assert (Path(done.last["path"]) / "model.safetensors").read_bytes() == DATA
    assert prestage("verify").code == 0
    assert not list((prestage.root / "ingest").iterdir())
