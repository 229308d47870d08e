"""How a command comes to its API server: flags, one loop, one connection; and lists of which nobody may read a part."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table

from prestage.api import reading
from prestage.api.values import Stored
from prestage.kube.client import KubeApi
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.listing import all_of
from prestage.kube.ports import EVERYTHING, Api, Object, Resource, Selection, name_of, namespace_of
from prestage.kube.settings import KubeSettings

Answer = TypeVar("Answer")
Kind = TypeVar("Kind", bound=Stored)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def cluster_options(command: _Command) -> _Command:
    """`--kubeconfig`, `--context`, `--json`."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)
    command = click.option("--context", help="Of the kubeconfig; default: its current one.")(command)
    return click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Default: as kubectl.")(command)


def namespace_options(command: _Command) -> _Command:
    """`-n`, `-A`: of one namespace, or of all."""
    command = click.option("-A", "--all-namespaces", is_flag=True, help="Of every namespace.")(command)
    return click.option("-n", "--namespace", help="Of this namespace. Default: as kubectl.")(command)


def ask(kubeconfig: Path | None, context: str | None, question: Callable[[KubeApi], Awaitable[Answer]]) -> Answer:
    """The answer to `question`, asked with the rights of whoever runs the command."""

    async def asked() -> Answer:
        settings = KubeSettings(kubeconfig=kubeconfig, context=context, deadline_s=15.0, user_agent="kubectl-prestage")
        async with await KubeApi.connect(settings) as api:
            return await question(api)

    return asyncio.run(asked())


async def allowed(api: Api, resource: Resource, selection: Selection = EVERYTHING) -> list[Object] | None:
    """The same; None where the caller may not, or where there is no such kind."""
    try:
        return await all_of(api, resource, selection)
    except (Forbidden, Missing):
        return None


async def kinds(api: Api, resource: Resource, kind: type[Kind], selection: Selection = EVERYTHING) -> list[Kind] | None:
    """The same, read. What this version cannot read is left out, and named on stderr."""
    found = await allowed(api, resource, selection)
    return None if found is None else [made for one in found if (made := _read(kind, one, resource.kind)) is not None]


def _read(kind: type[Kind], one: Object, called: str) -> Kind | None:
    try:
        return reading.read(kind, one)
    except reading.Invalid as exc:
        name = "/".join(filter(None, (namespace_of(one), name_of(one))))
        click.echo(f"{called} {name}: this plugin cannot read it ({exc}); update it", err=True)
        return None


def show(rows: Sequence[object], columns: Sequence[str], *, as_json: bool, nothing: str) -> None:
    """`rows`, all of one dataclass, as a table of `columns` (attribute names), or all of them as JSON."""
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(list(rows)), indent=2))
        return
    if not rows:
        click.echo(nothing, err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="")
    for name in columns:
        table.add_column(name.upper().replace("_", "-"), overflow="fold")
    for row in rows:
        table.add_row(*(_shown(getattr(row, name)) for name in columns))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 240, highlight=False, markup=False).print(table)


def _shown(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
