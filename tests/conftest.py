"""Rules that hold for every test: servers as fixtures, nothing left behind, what could not run here said at the end."""

from __future__ import annotations

import io
import os
import signal
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import settings
from lanes import order_of
from leaks import held, leaked_since

# A shell's background jobs ignore it, and so would their children: tests interrupt theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["servers.fixtures", "stores.fixtures", "cluster.fixtures"]

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if getattr(config.option, "loadgroup", False):  # how a worker sees --dist loadgroup
        items.sort(key=lambda item: order_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    if config.getvalue("dist") != "loadgroup":
        return None
    from scheduling import LaneScheduling

    return LaneScheduling(config, log)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.getbasetemp()
    before = held(folder)
    yield
    if leaked := leaked_since(before, folder):
        pytest.fail("left behind: " + "; ".join(leaked), pytrace=False)


@pytest.fixture(scope="session")
def fonts_are_open() -> None:
    """matplotlib keeps the fonts it has used open for the life of the process; no test leaks them."""
    from prestage.pictures.style import new_figure

    figure = new_figure(width=1, height=1)
    figure.suptitle("bold", fontweight="bold")
    figure.supxlabel("plain")
    figure.savefig(io.BytesIO())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _say_what_was_measured(terminalreporter)
    _say_what_did_not_run(terminalreporter)


def _say_what_was_measured(terminalreporter: pytest.TerminalReporter) -> None:
    """What passing tests handed to `record_property`."""
    told = [(report.nodeid, *pair) for report in terminalreporter.stats.get("passed", []) for pair in report.user_properties]
    if told:
        terminalreporter.section("measured")
    for test, name, value in told:
        terminalreporter.line(f"{test}: {name}")
        terminalreporter.line(f"{value}\n")


def _say_what_did_not_run(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = defaultdict[str, list[str]](list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")].append(report.nodeid)
    if not reasons:
        return
    terminalreporter.section("not run here")
    for reason, tests in sorted(reasons.items()):
        terminalreporter.line(f"{len(tests)} x {reason}")
        for test in tests:
            terminalreporter.line(f"      {test}")
