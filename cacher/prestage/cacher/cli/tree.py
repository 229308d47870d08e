"""`prestage tree`: several artifacts as one read-only directory, for clients that know nothing of prestage."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import click

from prestage.cacher.cli.session import Duration, json_option, reading, root_option
from prestage.cacher.errors import Misconfigured, NotFound
from prestage.cacher.store.composing import Part
from prestage.cacher.store.holds import HoldId
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms, Tree


@click.command()
@click.argument("wanted", nargs=-1, metavar="NAME=REF...")
@root_option
@click.option(
    "--repo",
    "repos",
    multiple=True,
    metavar="NAME=ORG/NAME",
    help="As which repository .hf/ shows NAME; default: where it came from.",
)
@click.option("--hold", "hold_s", type=Duration(), default="24h", show_default=True, help="How long it stays.")
@click.option("--drop", "dropped", metavar="DIR", help="Let go of a tree: its directory, or the last part of it.")
@json_option
def tree(
    wanted: tuple[str, ...], root: Path | None, repos: tuple[str, ...], hold_s: float, dropped: str | None, as_json: bool
) -> None:
    """Put staged artifacts together as one read-only directory and print it.

    \b
    prestage tree base=hf://org/name@main adapter=s3://bucket/lora/ --hold 2h
      DIR/base/, DIR/adapter/     their files
      DIR/.hf/                    HF_HUB_CACHE for HF_HUB_OFFLINE=1

    Nothing in it is evicted as long as it stays. NAME may be left out where there is one REF: then it is `model`.
    """
    with reading(root) as store:
        if dropped is not None:
            _drop(store, dropped)
            return
        names = dict(_split(text, "--repo NAME=ORG/NAME") for text in repos)
        pairs = [_named(text, alone=len(wanted) == 1) for text in wanted]
        if unknown := names.keys() - {name for name, _ in pairs}:
            raise Misconfigured(f"--repo names {min(unknown)!r}, which is no part", hint="use the NAME of a NAME=REF")
        parts = [store.part(name, ref, repo=names.get(name)) for name, ref in pairs]
        expires_at = time.time() + hold_s
        made = store.compose(parts, Terms("ttl", expires_at=expires_at, note="prestage tree"))
    click.echo(json.dumps(_as_json(made, expires_at)) if as_json else str(made.path))


def _named(text: str, *, alone: bool) -> tuple[str, str]:
    """`NAME=REF`; a ref may have `=` in it, a name has no `:`."""
    name, equals, ref = text.partition("=")
    if equals and ":" not in name:
        return name, ref
    if alone:
        return "model", text
    raise Misconfigured(f"{text[:120]!r} has no name", hint="write NAME=REF")


def _split(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Misconfigured(f"{text[:120]!r} has no '='", hint=f"write {form}")
    return name, value


def _drop(store: Store, text: str) -> None:
    hold = HoldId(Path(text).name)
    if all(found.hold != hold for found in store.trees()):
        raise NotFound(f"{text} is no tree of this store", hint="give what `prestage tree` printed")
    store.drop_tree(hold)
    click.echo(f"{hold} dropped")


def _as_json(made: Tree, expires_at: float) -> Mapping[str, object]:
    return {
        "path": str(made.path),
        "hf_hub_cache": str(made.hub) if made.hub is not None else None,
        "hold": made.hold,
        "expires_at": expires_at,
        "parts": [_part(made, part) for part in made.parts],
    }


def _part(made: Tree, part: Part) -> Mapping[str, object]:
    return {
        "name": part.name,
        "path": str(made.path / part.name),
        "artifact": part.artifact,
        "repo": part.repo,
        "revision": part.revision,
    }
