"""Runs as tables and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from prestage.bench import palette, plots
from prestage.bench.plan.outcome import Row, gaps


def plan_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """One for each store, share announced and scheduler."""
    closed = gaps(rows)
    for key in dict.fromkeys((row.ssd, row.share, row.scheduler) for row in rows):
        own = [row for row in rows if (row.ssd, row.share, row.scheduler) == key]
        store = f"store {key[0]:.0%} of the catalogue, " if key[0] else ""
        ahead = "as the trace says" if key[1] < 0 else f"{key[1]:.0%}"
        most = max(len(row.seeds) for row in own)
        title = f"{store}told ahead {ahead}, scheduler {key[2]}; means of {most}, ± spread"
        table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
        table.add_column("policy")
        is_queued = any(row.mean("queued_hours") > 0 for row in own)
        for name in (
            "warm starts",
            "bytes hit",
            "hours waited",
            "gap closed",
            "p95 s",
            "TB fetched",
            "TB wasted",
            "said: on time",
            "possible",
            "of those on time",
            "late p99 s",
            *(["hours for GPUs"] if is_queued else []),
        ):
            table.add_column(name, justify="right")
        for row in own:
            gap = closed.get((row.scheduler, row.share, row.ssd, row.policy))
            table.add_row(
                row.policy if len(row.seeds) == most else f"{row.policy} ({len(row.seeds)} of {most})",
                f"{row.mean('warm'):.3f} ±{row.spread('warm'):.3f}",
                f"{row.mean('bytes_hit'):.3f}",
                f"{row.mean('wait_hours'):.1f} ±{row.spread('wait_hours'):.1f}",
                "" if gap is None else f"{gap:.0%}",
                f"{row.mean('wait_p95_s'):.0f}",
                f"{row.mean('fetched_tb'):.1f}",
                f"{row.mean('wasted_tb'):.1f}",
                f"{row.mean('on_time'):.3f}",
                f"{row.mean('feasible'):.3f}",
                f"{row.mean('on_time_of_feasible'):.4f}",
                f"{row.mean('late_p99_s'):.1f}",
                *([f"{row.mean('queued_hours'):.1f}"] if is_queued else []),
            )
        yield table


def cost_lines(rows: Sequence[Row]) -> Iterator[str]:
    """What the planner took, where it ran."""
    for row in rows:
        cost, runs = row.cost, len(row.seeds)
        if cost.plans:
            about = f"{row.policy}, told ahead {max(0.0, row.share):.0%}, {row.scheduler}"
            each_ms, most_ms = 1000 * cost.plan_cpu_s / cost.plans, 1000 * cost.plan_cpu_most_s
            plans = f"{cost.plans / runs:.0f} plans a run, {each_ms:.1f} ms of CPU each, most {most_ms:.0f}"
            memory = f"{cost.peak_rss_bytes / 2**20:.0f} MiB of the process at most"
            yield f"{about}: {cost.cpu_s / runs:.1f} s of CPU a run; {plans}; {memory}"


def plot_plan(rows: Sequence[Row], file: Path) -> None:
    """Hours waited, a bar for each policy, a panel for each condition."""
    keys = list(dict.fromkeys((row.ssd, row.share, row.scheduler) for row in rows))
    most = max(len([row for row in rows if (row.ssd, row.share, row.scheduler) == key]) for key in keys)
    figure = plots.new_figure(width=10, height=1.2 + len(keys) * (0.9 + 0.34 * most))
    for panel, key in zip(figure.subplots(len(keys), 1, squeeze=False)[:, 0], keys, strict=True):
        own = [row for row in rows if (row.ssd, row.share, row.scheduler) == key][::-1]
        longest = max(row.mean("wait_hours") for row in own) or 1.0
        for place, row in enumerate(own):
            hours, spread = row.mean("wait_hours"), row.spread("wait_hours")
            panel.barh(place, hours, height=0.56, color=palette.OURS[0] if row.policy == "prestage" else palette.RIVAL[0])
            panel.plot([max(0.0, hours - spread), hours + spread], [place, place], color=palette.INK, linewidth=1.1)
            panel.text(hours + spread + longest * 0.02, place, f"{hours:.1f}", va="center", fontsize=10)
        panel.set_yticks(range(len(own)), [row.policy for row in own], fontsize=10, color=palette.INK)
        panel.set_xlim(0, longest * 1.25)
        panel.set_title(f"told ahead {key[1]:.0%}, store {key[0]:.0%}, {key[2]}", loc="left", fontsize=11, color=palette.INK)
        plots.plain_axes(panel, "hours that pods waited for bytes")
    figure.savefig(file, dpi=plots.DPI, facecolor="white")
