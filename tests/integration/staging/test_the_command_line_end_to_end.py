"""The commands of docs/cli.md as a user runs them: real processes, real servers, real disk."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Prestage

from prestage.cacher.digests import PIECE_BYTES
from servers import faults
from servers.hostile import Hostile

DATA = random.Random(3).randbytes(3 * PIECE_BYTES + 4321)


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile({"/model.safetensors": DATA}) as hostile:
        yield hostile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "config.json").write_text('{"a": 1}')
    (model / "empty").touch()
    (model / "sub" / "weights.bin").write_bytes(DATA[: PIECE_BYTES + 5])
    return model


def test_stage_path_ls_run_verify_pin_evict(prestage: Prestage, folder: Path) -> None:
    ref = folder.as_uri()
    staged = prestage("stage", ref, "--json")
    assert staged.code == 0, staged.err
    assert {"event", "artifact", "files", "bytes", "seconds", "bytes_by_source"} <= set(staged.last)
    assert (staged.last["event"], staged.last["files"], staged.last["bytes"]) == ("done", 3, 8 + PIECE_BYTES + 5)
    assert staged.last["bytes_by_source"] == {"origin": 8 + PIECE_BYTES + 5}
    artifact = staged.last["artifact"]

    view = Path(prestage("path", ref).out.strip())
    assert view == Path(prestage("path", artifact).out.strip())
    assert view.is_absolute()
    for file in ("config.json", "empty", "sub/weights.bin"):
        assert (view / file).read_bytes() == (folder / file).read_bytes()
        assert (view / file).stat().st_mode & 0o777 == 0o444
    sums = json.loads((view.parent / ".prestage" / view.name / "sums").read_text())
    assert sums["artifact"] == artifact
    assert len(bytes.fromhex(sums["files"]["sub/weights.bin"]["chunks"])) == 16 * 5

    rows = json.loads(prestage("ls", "--json").out)
    assert [(row["artifact"], row["ref"], row["files"], row["state"], row["holds"]) for row in rows] == [
        (artifact, ref, 3, "staged", [])
    ]
    assert "staged" in prestage("ls").out

    child = "import os, sys; print(sorted(os.listdir(os.environ['PRESTAGE_MODEL_PATH']))); sys.exit(7)"
    ran = prestage("run", ref, "--", sys.executable, "-c", child)
    assert (ran.code, ran.out.strip()) == (7, "['config.json', 'empty', 'sub']")

    assert prestage("pin", ref).code == 0
    refused = prestage("evict", ref)
    assert refused.code == 6
    assert "pin" in refused.err
    assert prestage("unpin", ref).code == 0
    assert prestage("verify", "--json").code == 0
    assert prestage("evict", ref).code == 0
    assert prestage("path", ref).code == 3
    assert json.loads(prestage("ls", "--json").out) == []


def test_staging_again_fetches_nothing_and_a_hold_keeps_it(prestage: Prestage, server: Hostile) -> None:
    url = server.url("/model.safetensors")
    assert prestage("stage", url).code == 0
    again = prestage("stage", url, "--json")
    assert again.last["bytes_by_source"] == {"store": len(DATA)}
    assert prestage("path", url, "--hold", "1h").code == 0
    assert prestage("evict", url).code == 6


def test_kill_9_anywhere_then_the_same_command_fetches_only_what_was_not_journaled(prestage: Prestage, server: Hostile) -> None:
    url = server.url("/model.safetensors")
    server.choose = lambda request: faults.Drip(6e6) if request.method == "GET" else None
    process = prestage.start("stage", url, "--connections", "1", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        # one piece whole and its second of journal over
        if event["event"] == "progress" and event["bytes"] > PIECE_BYTES + 8_000_000:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.choose = lambda request: None
    server.requests.clear()
    done = prestage("stage", url, "--json")
    assert done.code == 0, done.err
    assert done.last["bytes_by_source"] == {"journal": PIECE_BYTES, "origin": len(DATA) - PIECE_BYTES}
    assert sorted(request.range or () for request in server.gets()) == [
        (start, min(start + PIECE_BYTES, len(DATA))) for start in range(PIECE_BYTES, len(DATA), PIECE_BYTES)
    ]
    assert (Path(done.last["path"]) / "model.safetensors").read_bytes() == DATA


def test_ctrl_c_says_that_nothing_is_lost(prestage: Prestage, server: Hostile) -> None:
    server.choose = lambda request: faults.Drip(1e6) if request.method == "GET" else None
    process = prestage.start("stage", server.url("/model.safetensors"), "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["kind"] == "interrupted"
    assert "run the same command again" in err
    assert time.monotonic() - began < 10


def test_a_second_process_is_refused_by_name_or_waits_and_finds_it_done(prestage: Prestage, server: Hostile) -> None:
    url = server.url("/model.safetensors")
    server.choose = lambda request: faults.Drip(12e6) if request.method == "GET" else None
    first = prestage.start("stage", url, "--json")
    assert first.stdout is not None
    first.stdout.readline()
    refused = prestage("stage", url)
    assert refused.code == 6
    assert str(first.pid) in refused.err
    waited = prestage("stage", url, "--wait", "60s", "--json")
    first.communicate()
    assert waited.last["bytes_by_source"] == {"store": len(DATA)}
    assert len(server.gets()) == len({request.range for request in server.gets()})


def test_holds_and_reads_work_while_another_process_fetches(prestage: Prestage, server: Hostile, folder: Path) -> None:
    assert prestage("stage", folder.as_uri()).code == 0
    server.choose = lambda request: faults.Drip(6e5) if request.method == "GET" else None
    process = prestage.start("stage", server.url("/model.safetensors"), "--json")
    assert process.stdout is not None
    process.stdout.readline()
    assert prestage("path", folder.as_uri(), "--hold", "1h").code == 0
    assert prestage("run", folder.as_uri(), "--", "true").code == 0
    states = {row["state"] for row in json.loads(prestage("ls", "--json").out)}
    assert states == {"staged", "partial"}
    process.kill()
    process.communicate()


def test_a_run_hold_dies_with_its_process(prestage: Prestage, folder: Path) -> None:
    assert prestage("stage", folder.as_uri()).code == 0
    process = prestage.start("run", folder.as_uri(), "--", "sh", "-c", "echo held; exec sleep 30")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert prestage("evict", folder.as_uri()).code == 6
    child = int(subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()[0])
    process.kill()
    os.kill(child, signal.SIGKILL)
    process.communicate()
    assert prestage("evict", folder.as_uri()).code == 0


def test_too_big_is_refused_before_the_first_byte_and_says_what_holds_the_room(
    prestage: Prestage, server: Hostile, folder: Path
) -> None:
    assert prestage("stage", folder.as_uri()).code == 0
    assert prestage("pin", folder.as_uri()).code == 0
    full = prestage("stage", server.url("/model.safetensors"), "--budget", "50M", "--json")
    assert full.code == 7
    assert full.last["kind"] == "full"
    assert "pin" in full.err
    assert not server.gets()
    assert json.loads(prestage("ls", "--json").out)[0]["state"] == "staged"


def test_room_is_made_by_letting_go_of_what_was_used_longest_ago(prestage: Prestage, server: Hostile, folder: Path) -> None:
    assert prestage("stage", folder.as_uri()).code == 0
    assert prestage("stage", server.url("/model.safetensors"), "--budget", "60M").code == 0
    assert [row["ref"] for row in json.loads(prestage("ls", "--json").out)] == [server.url("/model.safetensors")]


def test_damage_is_found_quarantined_and_healed_by_staging_again(prestage: Prestage, server: Hostile) -> None:
    url = server.url("/model.safetensors")
    staged = prestage("stage", url, "--json")
    file = Path(staged.last["path"]) / "model.safetensors"
    file.chmod(0o644)
    with file.open("r+b") as damaged:
        damaged.seek(20_000_000)
        damaged.write(b"\0\1\2\3")
    report = prestage("verify", "--json")
    assert report.code == 5
    assert "model.safetensors" in report.out
    assert prestage("path", url).code == 5
    healed = prestage("stage", url, "--json")
    assert healed.code == 0, healed.err
    assert file.read_bytes() == DATA
    assert prestage("verify").code == 0


def test_a_corrupt_origin_is_told_with_both_digests(prestage: Prestage, server: Hostile) -> None:
    right = hashlib.sha256(DATA).hexdigest()
    server.always.append(faults.Flip(at=PIECE_BYTES + 17))
    server.put("/other", DATA)
    wrong = bytearray(DATA)
    wrong[PIECE_BYTES + 17] ^= 1
    corrupt = prestage("stage", f"{server.url('/other')}#sha256={right}", "--json")
    assert corrupt.code == 5
    assert right in corrupt.err
    assert hashlib.sha256(wrong).hexdigest() in corrupt.err
    assert len([request for request in server.gets("/other") if request.range == (0, PIECE_BYTES)]) == 2
    assert prestage("path", server.url("/other")).code == 3


def test_a_flip_on_the_way_is_cured_by_fetching_once_more(prestage: Prestage, server: Hostile) -> None:
    server.faults.append(faults.Flip(at=17))
    staged = prestage(
        "stage", f"{server.url('/model.safetensors')}#sha256={hashlib.sha256(DATA).hexdigest()}", "--connections", "1", "--json"
    )
    assert staged.code == 0, staged.err
    assert [event for event in staged.events if event["event"] == "trouble"]
    assert (Path(staged.last["path"]) / "model.safetensors").read_bytes() == DATA


def test_an_object_that_changes_under_the_download_is_fetched_anew_once(prestage: Prestage, server: Hostile) -> None:
    newer = random.Random(4).randbytes(len(DATA))
    process = prestage.start("stage", server.url("/model.safetensors"), "--connections", "1", "--json")
    server.choose = lambda request: faults.Drip(2e7) if request.method == "GET" else None
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    server.put("/model.safetensors", newer)
    server.choose = lambda request: None
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert (Path(json.loads(out.splitlines()[-1])["path"]) / "model.safetensors").read_bytes() == newer


REFUSED = {
    "no scheme": (["stage", "model"], 2, "write one of"),
    "unknown scheme": (["stage", "ftp://h/f"], 2, "unknown scheme"),
    "no such directory": (["stage", "file:///no/such/place"], 3, "/no/such/place"),
    "not staged": (["path", "hf://org/name"], 3, "stage"),
    "no artifact": (["path", "sha256:12"], 2, "64"),
    "unknown option": (["ls", "--bogus"], 2, "--bogus"),
    "bad size": (["stage", "file:///tmp", "--budget", "lots"], 2, "500G"),
    "no command": (["run", "file:///tmp"], 2, "no command"),
    "nobody listens": (["stage", "http://127.0.0.1:1/f"], 8, "refused"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_told_on_one_line_with_the_code_of_its_class(name: str, prestage: Prestage, folder: Path) -> None:
    assert prestage("stage", folder.as_uri()).code == 0
    words, code, says = REFUSED[name]
    result = prestage(*words)
    assert result.code == code, result.err
    assert says in result.err


def test_without_a_root_the_error_says_how_to_give_one(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if key != "PRESTAGE_ROOT"}
    done = subprocess.run(
        [sys.executable, "-m", "prestage.cacher.cli", "ls"], capture_output=True, text=True, env=environ, check=False
    )
    assert done.returncode == 2
    assert "PRESTAGE_ROOT" in done.stderr


def test_names_that_must_not_be_written_are_refused_and_named(prestage: Prestage, folder: Path) -> None:
    (folder / "a\nb").touch()
    refused = prestage("stage", folder.as_uri())
    assert refused.code == 2
    assert "a\\nb" in refused.err
    (folder / "a\nb").unlink()
    (folder / "link").symlink_to("/etc/passwd")
    refused = prestage("stage", folder.as_uri())
    assert refused.code == 2
    assert "link" in refused.err


def test_help_and_version_name_every_command(prestage: Prestage) -> None:
    shown = prestage("--help").out
    for command in ("stage", "path", "run", "ls", "verify", "pin", "unpin", "evict", "bench"):
        assert command in shown
    assert prestage("--version").out.startswith("prestage, version ")


def test_a_store_deleted_under_a_running_stage_is_a_clear_error_and_a_new_one_works(prestage: Prestage, server: Hostile) -> None:
    server.choose = lambda request: faults.Drip(2e7) if request.method == "GET" else None
    process = prestage.start("stage", server.url("/model.safetensors"), "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    shutil.rmtree(prestage.root)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 8
    assert "Traceback" not in err
    assert "deleted or unmounted" in err
    server.choose = lambda request: None
    assert prestage("stage", server.url("/model.safetensors")).code == 0
