"""`kill -9` at every step: a child forked from the warm parent does the operation and kills itself at call number n."""

from __future__ import annotations

import os
import signal
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.store.store import Store
from stores.disks import CountingDisk, KillingDisk
from stores.making import Steps
from stores.scenarios import Scenario


@dataclass(frozen=True, slots=True)
class Crash:
    """What a killed child left."""

    root: Path
    acks: tuple[str, ...]
    point: str


def copied(base: Path, target: Path) -> Path:
    """A copy that keeps hard links; the copy of `base` that was there goes."""
    subprocess.run(["rm", "-rf", str(target)], check=True)
    subprocess.run(["cp", "-a", str(base), str(target)], check=True)
    return target


def calls_of(scenario: Scenario, base: Path, target: Path) -> int:
    """How many calls change the disk when nobody kills it; the operation ends well."""
    disk = CountingDisk()
    with Store.open(copied(base, target), own=True, budget_bytes=scenario.budget_bytes, disk=disk) as store:
        disk.armed = True
        scenario.act(store, Steps())
        disk.armed = False
    return disk.calls


def kills(scenario: Scenario, base: Path, target: Path, *, every: int = 1) -> Iterator[Crash]:
    """A crash before and after every call of the operation, or every so many."""
    for number in range(0, calls_of(scenario, base, target), every):
        for after in (False, True):
            disk = KillingDisk(number, after=after)
            yield killed(scenario, copied(base, target), disk, f"{'after' if after else 'before'} call {number}")


def killed(scenario: Scenario, root: Path, disk: KillingDisk, point: str) -> Crash:
    """Fork, act, die."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _act_and_die(scenario, root, disk, writer)
    os.close(writer)
    with os.fdopen(reader) as said:
        acks = tuple(said.read().splitlines())
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{point}: the child was to be killed and ended with {status}: {acks}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return Crash(root, acks, point)


def _act_and_die(scenario: Scenario, root: Path, disk: KillingDisk, writer: int) -> None:
    try:
        store = Store.open(root, own=True, budget_bytes=scenario.budget_bytes, disk=disk)
        disk.armed = True
        scenario.act(store, Steps(lambda ack: _say(writer, ack)))
    except BaseException:  # noqa: BLE001 - a forked child ends here, whatever happens
        _say(writer, traceback.format_exc())
    finally:
        os._exit(3)


def _say(writer: int, ack: str) -> None:
    os.write(writer, f"{ack}\n".encode())


def killed_in_recovery(root: Path, number: int) -> bool:
    """Open the store in a child that dies at call `number` of recovery. False: recovery took fewer calls."""
    child = os.fork()
    if child == 0:
        try:
            disk = KillingDisk(number, after=False)
            disk.armed = True
            Store.open(root, own=True, disk=disk)
        except BaseException:  # noqa: BLE001 - a forked child ends here, whatever happens
            os._exit(4)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)
