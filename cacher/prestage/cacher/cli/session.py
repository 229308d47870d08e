"""Options that every command shares, and what is built from them: the one reader of flags and environment."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from prestage.cacher.errors import Misconfigured
from prestage.cacher.origins.ports import Selection
from prestage.cacher.quantities import read_bytes
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.schedule import Schedule, parse_schedule

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Size(click.ParamType[int]):
    """Bytes with a unit: 500G, 1.5Ti, 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """`value` in bytes."""
        if isinstance(value, int):
            return value
        try:
            return read_bytes(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Rate(click.ParamType[Schedule]):
    """A rate, or a schedule of rates: 200M, 22:00-06:00=unlimited, sat,sun=1G."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Schedule:
        """`value` as a schedule."""
        if isinstance(value, Schedule):
            return value
        try:
            return parse_schedule(str(value))
        except Misconfigured as exc:
            self.fail(f"{exc.message}; {exc.hint}", param, ctx)


class Duration(click.ParamType[float]):
    """Seconds with a unit: 90s, 15m, 2h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`value` in seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", str(value).lower())
        if found is None:
            self.fail(f"{value!r} is not a duration; write 90s, 15m, 2h or 7d", param, ctx)
        return float(found.group(1)) * _SECONDS[found.group(2) or "s"]


def root_option(command: _Command) -> _Command:
    """`--root DIR`, else PRESTAGE_ROOT."""
    return click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="PRESTAGE_ROOT",
        show_envvar=True,
        help="The store: a directory on the disk that is to hold the models.",
    )(command)


def json_option(command: _Command) -> _Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts (docs/cli.md).")(command)


def wait_option(command: _Command) -> _Command:
    """`--wait DURATION`."""
    return click.option(
        "--wait", "wait_s", type=Duration(), default="0s", help="How long to wait while another process owns the store."
    )(command)


def patterns_options(command: _Command) -> _Command:
    """`--include` and `--exclude`, each as often as needed."""
    command = click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave these files out.")(command)
    return click.option(
        "--include", multiple=True, metavar="PATTERN", help="Only these files; default: all but duplicate weight formats."
    )(command)


def selection_of(include: tuple[str, ...], exclude: tuple[str, ...]) -> Selection | None:
    """The patterns given, None when there were none."""
    return Selection(include, exclude) if include or exclude else None


def checked_root(root: Path | None) -> Path:
    """The store's root, absolute.

    Raises:
        Misconfigured: neither flag nor environment says where it is.
    """
    if root is None:
        raise Misconfigured("no store was named", hint="give --root DIR or set PRESTAGE_ROOT")
    return root.absolute()


@contextmanager
def reading(root: Path | None) -> Iterator[Store]:
    """The store to read and to hold in; does not become its owner."""
    with Store.open(checked_root(root), own=False) as store:
        yield store


@contextmanager
def owning(root: Path | None, *, wait_s: float = 0, budget_bytes: int | None = None) -> Iterator[Store]:
    """The store as its owner; Busy when another process is."""
    trusted = frozenset(os.environ.get("PRESTAGE_TRUSTED_AUTHORITIES", "").split())
    purpose = shlex.join(["prestage", *sys.argv[1:]])[:200]
    with Store.open(
        checked_root(root), own=True, wait_s=wait_s, budget_bytes=budget_bytes, trusted=trusted, purpose=purpose
    ) as store:
        for warning in store.warnings:
            click.echo(f"prestage: warning: {warning}", err=True)
        yield store
