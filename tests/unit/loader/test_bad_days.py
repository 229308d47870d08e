"""What disks, kernels, signals and forks do to a load: an error that names the place, no hang, no signal, no wrong tensor."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from loading import View, bytes_tensors, data_start, encode, entry, make_view

from prestage.bench.cold import make_cold
from prestage.loader import (
    Closed,
    CorruptFile,
    InvalidFile,
    checkpoint,
    header,
    open_model,
    pages,
    residency,
    started,
)
from prestage.loader.crew import Crew
from prestage.loader.host_load import HostLoad
from prestage.loader.options import Options
from prestage.loader.plan import Block

MIB = 1 << 20
SIZES = {"a": 9 * MIB, "b": 3 * MIB}
CONTENT = bytes_tensors(SIZES)
FUZZED = int(os.environ.get("PRESTAGE_FUZZ", "10000"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")


@pytest.fixture
def view(tmp_path: Path) -> View:
    return make_view(tmp_path, {"model.safetensors": CONTENT}, chunk_bytes=MIB)


def load(view: View, **options: object) -> dict[str, bytes]:
    with open_model(view.folder, framework="np", **options) as model:  # type: ignore[arg-type] # of the test
        return {name: array.tobytes() for name, array in model.items()}


@pytest.mark.timeout(3600)
def test_ten_thousand_damaged_headers_are_tables_that_fit_or_refused() -> None:
    """PRESTAGE_FUZZ says how many; `make fuzz` runs a million."""
    dice = random.Random(20261126)
    table = {f"t{at}": entry(code, [2, 3], at * 48, at * 48 + 48) for at, code in enumerate(["F64", "I64", "U64", "C64"])}
    good = encode({"__metadata__": {"format": "pt"}, **table}, bytes(48 * 4))
    alphabet = b'{}[]",:0123456789eE.-+\\u \x00\xffabtrueFU'
    refused = 0
    for _ in range(FUZZED):
        raw = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(header.header_end(good[:8], len(good)))
            what = dice.randrange(4)
            if what == 0:
                raw[at] = dice.choice(alphabet)
            elif what == 1:
                del raw[at : at + dice.randint(1, 9)]
            elif what == 2:
                raw[at:at] = bytes(dice.choices(alphabet, k=dice.randint(1, 9)))
            else:
                raw[at : at + 8] = raw[dice.randrange(len(raw)) :][:8]
        try:
            end = header.header_end(bytes(raw[:8]), len(raw))
            found = header.parse(bytes(raw[8:end]), len(raw))
        except InvalidFile:
            refused += 1
            continue
        spans = [(info.start, info.stop) for info in found.tensors.values()]
        assert all(end <= start <= stop <= len(raw) for start, stop in spans)
        assert sum(stop - start for start, stop in spans) == len(raw) - end
    assert FUZZED * 0.5 < refused < FUZZED


@pytest.mark.parametrize("destination", ["auto", "mapped", "private"])
@pytest.mark.parametrize("state", ["cold", "hot"])
def test_an_io_error_at_any_read_names_the_file_and_returns_nothing(
    view: View, monkeypatch: pytest.MonkeyPatch, destination: str, state: str
) -> None:
    real = os.preadv
    failed = 0
    for fail_at in range(40):
        make_cold([Path(view.file())]) if state == "cold" else Path(view.file()).read_bytes()
        reads = threading.Lock(), [0]

        def preadv(fd: int, targets: list[memoryview], offset: int, flags: int = 0) -> int:
            with reads[0]:  # noqa: B023 - called before the next round
                reads[1][0] += 1  # noqa: B023
                if reads[1][0] == fail_at + 1:  # noqa: B023
                    raise OSError(errno.EIO, "Input/output error")
            return real(fd, targets, offset, flags)

        monkeypatch.setattr(os, "preadv", preadv)
        try:
            with open_model(view.folder, framework="np", destination=destination) as model:
                held = {name: array.tobytes() for name, array in model.items()}
        except OSError as exc:
            failed += 1
            assert exc.errno == errno.EIO
            continue
        finally:
            monkeypatch.setattr(os, "preadv", real)
        assert held == {"a": CONTENT[data_start(CONTENT) :][: 9 * MIB], "b": CONTENT[data_start(CONTENT) + 9 * MIB :]}
        if reads[1][0] <= fail_at:
            break
    assert failed


def test_an_io_error_of_the_disk_names_the_bytes(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cold([Path(view.file())])

    def preadv(fd: int, targets: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(OSError, match=r"bytes \d+-\d+ cannot be read") as caught:
        load(view)
    assert caught.value.filename == view.file()


def between_header_and_data(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    real = checkpoint.read

    def read(path: str, verify: str = "auto") -> checkpoint.Checkpoint:
        found = real(path, verify)
        act()
        return found

    monkeypatch.setattr(checkpoint, "read", read)


@pytest.mark.parametrize("destination", ["auto", "mapped", "private"])
@pytest.mark.parametrize("verify", ["require", "off"])
def test_a_file_replaced_or_cut_after_its_header_was_read_is_refused(
    view: View, monkeypatch: pytest.MonkeyPatch, destination: str, verify: str
) -> None:
    between_header_and_data(monkeypatch, lambda: os.truncate(view.file(), 4 * MIB))
    with pytest.raises(OSError, match="replaced or changed while it was being loaded"):
        load(view, destination=destination, verify=verify)


@pytest.mark.parametrize("destination", ["auto", "mapped", "private"])
@pytest.mark.parametrize("state", ["cold", "hot"])
def test_a_file_cut_while_it_is_read_is_an_error_and_no_signal(
    view: View, monkeypatch: pytest.MonkeyPatch, destination: str, state: str
) -> None:
    make_cold([Path(view.file())]) if state == "cold" else Path(view.file()).read_bytes()
    real = HostLoad._bring
    cut = threading.Lock()

    def bring(self: HostLoad, number: int, block: Block, landing: object) -> object:
        landing.source.cached()  # type: ignore[attr-defined] # opened, then cut
        with cut:
            os.truncate(view.file(), 2 * MIB)
        return real(self, number, block, landing)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(HostLoad, "_bring", bring)
    with pytest.raises((OSError, CorruptFile)):
        load(view, destination=destination, verify="require")


def test_bytes_changed_before_they_were_read_are_corrupt(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    times = Path(view.file()).stat()

    def damage() -> None:
        view.damage(7 * MIB)
        os.utime(view.file(), ns=(times.st_atime_ns, times.st_mtime_ns))

    between_header_and_data(monkeypatch, damage)
    with pytest.raises(CorruptFile, match="bytes 7340032-8388608"):
        load(view)


def test_no_address_space_is_the_systems_error(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    def reserve(size: int, *, at: int | None = None) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(pages, "reserve", reserve)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        load(view)


def test_file_systems_without_o_direct_are_read_through_the_page_cache(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def without(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", without)
    make_cold([Path(view.file())])
    assert load(view, destination="private")["b"] == CONTENT[-3 * MIB :]


RUN = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PRESTAGE_LOADER_QUIET": "1", "PYTHONUNBUFFERED": "1"}

STUCK = """
import signal, sys, threading
from prestage.loader import open_model
from prestage.loader.host_load import HostLoad
real, ready, held = HostLoad._bring, threading.Event(), threading.Event()
def bring(*args):
    ready.set()
    if args[1]:
        held.wait(1.0)
    return real(*args)
HostLoad._bring = bring
if sys.argv[2] == "handled":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with open_model(sys.argv[1], framework="np", verify="off", destination="private") as model:
    ready.wait()
    print("READING", flush=True)
    model["b"]
    held.wait()
"""


@pytest.mark.parametrize(("handled", "status"), [("handled", 143), ("default", -signal.SIGTERM)])
def test_sigterm_in_mid_load_ends_the_process(view: View, handled: str, status: int) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK, str(view.folder), handled], env=RUN, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"READING\n"
        process.terminate()
        assert process.wait(60) == status


LEFT = "import sys, prestage.loader as l; l.start(sys.argv[1]); print(len(sys.argv))"


def test_a_started_load_that_nobody_takes_ends_with_the_process(view: View) -> None:
    done = subprocess.run([sys.executable, "-c", LEFT, str(view.folder)], env=RUN, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


FORKED = """
import os, sys
import numpy as np
from prestage.loader import Closed, open_model
model = open_model(sys.argv[1], framework="np")
first = model["a"].copy()
child = os.fork()
if not child:
    try:
        model["b"]
    except Closed as exc:
        assert "before a fork" in str(exc)
    else:
        os._exit(2)
    with open_model(sys.argv[1], framework="np") as own:
        os._exit(0 if np.array_equal(own["a"], first) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
model["b"], model.close()
"""


def test_after_a_fork_the_child_opens_its_own_model(view: View) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, str(view.folder)], env=RUN, timeout=60, check=False)
    assert done.returncode == 0


def test_many_threads_may_ask_one_model(view: View) -> None:
    results: list[bool] = []
    with open_model(view.folder, framework="np") as model:
        threads = [threading.Thread(target=lambda: results.append(model["b"] is model["b"])) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [True] * 16


def test_twenty_thousand_tensors_are_loaded(tmp_path: Path) -> None:
    content = bytes_tensors({f"t{number:05}": 1 + number % 97 for number in range(20_000)})
    (tmp_path / "model.safetensors").write_bytes(content)
    with open_model(tmp_path, framework="np") as model:
        whole = b"".join(array.tobytes() for _, array in model.items())
    assert whole == content[data_start(content) :]


def test_start_reads_ahead_and_open_model_takes_it_only_if_it_asks_for_the_same(view: View) -> None:
    started.begin(_options(view))
    waiting = started._waiting[str(view.folder)]
    with open_model(view.folder, framework="np", verify="off") as model:
        assert model._running is not waiting._running
        assert np.array_equal(model["a"], np.frombuffer(CONTENT, np.uint8)[data_start(CONTENT) :][: 9 * MIB])
    started.begin(_options(view))
    waiting = started._waiting[str(view.folder)]
    with open_model(view.folder, framework="np") as model:
        assert model._running is waiting._running
        assert len(dict(model.items())) == 2
    assert started._waiting == {}


def test_what_start_met_is_raised_by_open_model(view: View) -> None:
    Path(view.file()).unlink()
    started.begin(_options(view))
    with pytest.raises(Exception, match=r"no \*.safetensors here"):
        open_model(view.folder, framework="np")


def test_a_model_is_closed_for_whoever_waits(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    real, go = HostLoad._bring, threading.Event()

    def bring(self: HostLoad, *args: object) -> object:
        go.wait()
        return real(self, *args)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(HostLoad, "_bring", bring)
    model = open_model(view.folder, framework="np")
    caught: list[Closed] = []

    def wait() -> None:
        try:
            next(model.items())
        except Closed as exc:
            caught.append(exc)

    waiter = threading.Thread(target=wait)
    waiter.start()
    closer = threading.Thread(target=model.close)
    closer.start()
    waiter.join()
    go.set()
    closer.join()
    assert len(caught) == 1


def test_a_load_that_cannot_begin_leaves_no_descriptor(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bool:
        raise OSError(errno.EIO, "the disk is gone")

    Path(view.file()).read_bytes()
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as they are
    monkeypatch.setattr(residency, "sampled", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        open_model(view.folder, framework="np", verify="off", destination="mapped")
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_fewer_threads_than_wanted_will_do_and_none_is_an_error(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = threading.Thread.start, [1, 0]

    def begin(thread: threading.Thread) -> None:
        if not left.pop(0):
            raise RuntimeError("can't start new thread")
        real(thread)

    make_cold([Path(view.file())])
    monkeypatch.setattr(threading.Thread, "start", begin)
    with open_model(view.folder, framework="np") as model:
        assert b"".join(array.tobytes() for array in dict(model.items()).values()) == CONTENT[data_start(CONTENT) :]
    left[:] = [0]
    with pytest.raises(RuntimeError, match="can't start new thread"):
        open_model(view.folder, framework="np")


FORKED_UNDER_THE_LOCK = """
import os, sys, threading
from prestage.loader import open_model
model = open_model(sys.argv[1], framework="np")
with model._running._queue._changed:  # as a reading thread holds it now and then
    child = os.fork()
    if not child:
        closing = threading.Thread(target=model.close, daemon=True)
        closing.start()
        closing.join(30)
        os._exit(closing.is_alive())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
model.close()
"""


def test_a_child_lets_go_of_a_model_though_its_lock_was_held_at_the_fork(view: View) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED_UNDER_THE_LOCK, str(view.folder)]
    assert subprocess.run(command, env=RUN, timeout=60, check=False).returncode == 0


def interrupted_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """As by a second Ctrl-C."""
    real, failures = getattr(owner, name), [KeyboardInterrupt()]

    def interrupted(held: object) -> object:
        if failures:
            raise failures.pop()
        return real(held)

    monkeypatch.setattr(owner, name, interrupted)


def until_nothing_is_left(threads: int, descriptors: list[str]) -> bool:
    ends_at = time.monotonic() + 10
    while time.monotonic() < ends_at:
        if threading.active_count() == threads and sorted(os.listdir("/proc/self/fd")) == descriptors:  # noqa: PTH208
            return True
        time.sleep(0.01)
    return False


UNENDING = {"destination": "private", "host_bytes": 8 * MIB}
"""Its second block waits for room."""


@pytest.mark.parametrize(("owner", "name"), [(Crew, "end"), (HostLoad, "close")])
@pytest.mark.parametrize("begun", [False, True])
def test_a_close_that_is_interrupted_leaves_nothing(
    view: View, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, begun: bool
) -> None:
    make_cold([Path(view.file())])
    before = threading.active_count(), sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    if begun:
        started.begin(_options(view, **UNENDING))
        close = started._waiting.pop(str(view.folder)).drop
    else:
        close = open_model(view.folder, framework="np", **UNENDING).close  # type: ignore[arg-type] # of the test
    interrupted_once(monkeypatch, owner, name)
    with pytest.raises(KeyboardInterrupt):
        close()
    assert until_nothing_is_left(*before)


def test_a_start_that_is_dropped_in_an_interrupt_leaves_nothing(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    real = checkpoint.read

    def read(path: str, verify: str = "auto") -> checkpoint.Checkpoint:
        go.wait()
        return real(path, verify)

    before = threading.active_count(), sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr(checkpoint, "read", read)
    started.begin(_options(view, **UNENDING))
    interrupted_once(monkeypatch, threading.Thread, "join")
    with pytest.raises(KeyboardInterrupt):
        open_model(view.folder, framework="np", **UNENDING)  # type: ignore[arg-type] # as above
    go.set()
    assert until_nothing_is_left(*before)


def test_a_load_that_start_could_not_begin_onto_a_device_is_not_taken(view: View) -> None:
    started.begin(_options(view, device="xpu"))
    waiting = started._waiting.pop(str(view.folder))
    assert waiting.taken(waiting.options) is None


def _options(view: View, **more: object) -> Options:
    return Options(str(view.folder), **more)  # type: ignore[arg-type] # of the test
