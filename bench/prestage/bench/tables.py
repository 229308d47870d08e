"""Results as tables on a terminal, the formula and the doubts beside the figures."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prestage.bench.fetch import FetchResult
from prestage.bench.rivals.known import OURS
from prestage.bench.rounds import Summary, Verdict
from prestage.bench.start import COLD, FORMULA, PHASES, StartResult
from prestage.cacher.cli.terminal import human_bytes


def seconds(value: float) -> str:
    """0.042 -> 42 ms, 1.234 -> 1.23 s, 17.26 -> 17.3 s."""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def ratio(value: float) -> str:
    """2.34 -> 2.3x, 41.2 -> 41x."""
    return f"{value:.1f}x" if value < 9.95 else f"{value:.0f}x"


def start_table(result: StartResult) -> RenderableType:
    """Seconds by phase, and how much sooner."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("START")
    for name in (*(phase.replace("_", " ").upper() for phase in PHASES), "TOTAL", "RANGE", "SOONER"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in result.variants:
        total = result.total(name)
        phases = [seconds(result.phase(name, phase).median) for phase in PHASES]
        spread = f"{seconds(total.low)} - {seconds(total.high)}"
        table.add_row(name, *phases, Text(seconds(total.median), style="bold"), spread, _sooner(result, name))
    return Group(Text(_start_title(result), style="bold"), Text(), table, Text(), *_start_notes(result))


def _start_title(result: StartResult) -> str:
    link = f" over a link of {result.job.link_bytes_per_s * 8 / 1e9:g} Gbit/s" if result.job.link_bytes_per_s else ""
    return f"{result.job.ref}: {result.stage.files} files, {human_bytes(result.stage.bytes)}{link}"


def _sooner(result: StartResult, name: str) -> Text:
    if name == COLD:
        return Text("-")
    found = result.speedup(name)
    if found is None:
        return Text("-")
    quoted, verdict = found
    return Text(ratio(quoted.median) + ("?" if verdict.noisy else ""), style="yellow" if verdict.noisy else "bold green")


def _start_notes(result: StartResult) -> list[Text]:
    notes = [Text(f"{name}: {result.what(name)}", style="dim") for name in result.variants]
    fetched = sum(count for source, count in result.stage.bytes_by_source.items() if source == "origin")
    took = f"staged beforehand, outside the pod: {human_bytes(fetched)} from the origin in {seconds(result.stage.seconds)}"
    notes += [Text(took, style="dim"), Text(f"{FORMULA}; {result.job.rounds} rounds", style="dim")]
    doubts: dict[tuple[str, ...], list[str]] = {}
    for name in result.variants:
        found = result.speedup(name) if name != COLD else None
        if found and found[1].noisy:
            doubts.setdefault(found[1].reasons, []).append(name)
    notes += [_doubt(", ".join(names), reasons) for reasons, names in doubts.items()]
    return [*notes, Text(result.machine.line(), style="dim")]


def fetch_table(result: FetchResult) -> RenderableType:
    """GB/s, CPU and memory by tool, fastest first, and ours over each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("TOOL")
    for name in ("GB/s", "RANGE", "CPU s/GB", "RANGE", "RSS MiB", "OUR SPEED", "OUR CPU"):
        table.add_column(name, justify="right", no_wrap=True)
    for tool in result.tools:
        speed, cost = result.gb_per_s(tool), result.cpu_s_per_gb(tool)
        over = result.ours_over(tool) if tool != OURS else {}
        table.add_row(
            Text(tool, style="bold" if tool == OURS else ""),
            f"{speed.median:.2f}",
            _span(speed),
            f"{cost.median:.2f}",
            _span(cost),
            f"{result.rss_mib(tool).median:.0f}",
            *(_share(over.get(what)) for what in ("speed", "cpu")),
        )
    size, count = human_bytes(result.reference.size_bytes), result.job.target.connections
    title = f"{result.job.target.ref}: {size}, {count} connections, to disk, every byte verified"
    return Group(Text(title, style="bold"), Text(), table, Text(), *_fetch_notes(result))


def _fetch_notes(result: FetchResult) -> list[Text]:
    notes = [Text(f"{name} did not take part: {why}", style="dim") for name, why in result.skipped.items()]
    notes += [Text(f"{name} failed: {why[0]}", style="yellow") for name, why in result.failed.items()]
    if result.fastest_rival and OURS in result.tools:
        verdict = result.ours_over(result.fastest_rival).get("speed")
        if verdict and verdict[1].noisy:
            notes.append(_doubt(f"{OURS} against {result.fastest_rival}", verdict[1].reasons))
    return [*notes, Text(f"medians of {result.job.rounds} rounds; {result.machine.line()}", style="dim")]


def _doubt(name: str, reasons: Sequence[str]) -> Text:
    return Text(f"too noisy to conclude ({name}): {'; '.join(reasons)}", style="yellow")


def _span(summary: Summary) -> str:
    return f"{summary.low:.2f} - {summary.high:.2f}"


def _share(found: tuple[Summary, Verdict] | None) -> str:
    if found is None:
        return "-"
    return f"{found[0].median:.2f}x{'?' if found[1].noisy else ''}"


def show(console: Console, *parts: RenderableType) -> None:
    """Print with a blank line between."""
    for part in parts:
        console.print(part, highlight=False)
        console.print()
