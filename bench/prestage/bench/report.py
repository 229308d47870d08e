"""Results as one HTML file: no script, no outside resource, light and dark, readable on a phone and on paper."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from prestage.bench import palette
from prestage.bench.fetch import FetchResult
from prestage.bench.rivals.known import OURS
from prestage.bench.rounds import Summary
from prestage.bench.start import COLD, DISK, FORMULA, PHASES, WARM, StartResult
from prestage.bench.tables import ratio, seconds
from prestage.cacher.cli.terminal import human_bytes

_BAR_UNITS = 1000
"""Width of a bar's own coordinates."""


def write_report(file: Path, *, starts: Sequence[StartResult] = (), fetches: Sequence[FetchResult] = ()) -> None:
    """One page with a section for each result; at least one."""
    results: list[StartResult | FetchResult] = [*starts, *fetches]
    parts = [*(_start_section(result) for result in starts), *(_fetch_section(result) for result in fetches)]
    title = "From nothing to the first answer" if starts else "To disk, verified"
    page = _PAGE.format(
        title=title,
        lead=_LEAD_START if starts else _LEAD_FETCH,
        style=_style(),
        parts="".join(parts),
        machine=escape(results[0].machine.line()),
        date=escape(results[0].date.replace("T", " ").replace("+00:00", " UTC")),
        raw=escape(json.dumps([result.to_json() for result in results], indent=1)),
    )
    file.write_text(page, encoding="utf-8")


def _start_section(result: StartResult) -> str:
    longest = max(result.total(name).median for name in result.variants)
    rows = "".join(_start_row(result, name, longest) for name in result.variants)
    legend = "".join(f'<span><i class="{phase}"></i>{label}</span>' for phase, (label, _, _) in palette.PHASES.items())
    link = f" · link {result.job.link_bytes_per_s * 8 / 1e9:g} Gbit/s" if result.job.link_bytes_per_s else ""
    return f"""
<section>
  <div class="head"><div><h2>{escape(result.job.ref)}</h2>
    <p class="faint">{result.stage.files} files · {human_bytes(result.stage.bytes)}{link}</p></div>{_headline(result)}</div>
  <div class="chart">{rows}</div>
  <p class="legend">{legend}</p>
  {_start_table(result)}
  {_proof(result)}
</section>"""


def _headline(result: StartResult) -> str:
    found = result.speedup(WARM) if COLD in result.variants else None
    if found is None:
        return ""
    quoted, verdict = found
    doubt = f"<small>too noisy to conclude: {escape('; '.join(verdict.reasons))}</small>" if verdict.noisy else ""
    span = f"{ratio(quoted.low)} to {ratio(quoted.high)} in {len(quoted.values)} rounds"
    from_disk = result.speedup(DISK)
    span += f"; {ratio(from_disk[0].median)} with a cold page cache" if from_disk else ""
    kind = "big doubt" if verdict.noisy else "big"
    return f'<div class="{kind}"><b>{ratio(quoted.median)}</b> sooner when warm<small>{span}</small>{doubt}</div>'


def _start_row(result: StartResult, name: str, longest: float) -> str:
    at, shapes = 0.0, []
    for phase in PHASES:
        width = result.phase(name, phase).median / longest * _BAR_UNITS
        shapes.append(f'<rect class="{phase}" x="{at:.2f}" width="{width:.2f}" height="10"/>')
        at += width
    total = result.total(name)
    label = f"{name}: {seconds(total.median)}, of it " + ", ".join(
        f"{palette.PHASES[phase][0].lower()} {seconds(result.phase(name, phase).median)}" for phase in PHASES
    )
    return f"""<div class="row"><div class="name"><b>{name}</b><span>{escape(result.what(name))}</span></div>
<svg viewBox="0 0 {_BAR_UNITS} 10" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">{"".join(shapes)}</svg>
<div class="value">{seconds(total.median)}</div></div>"""


def _start_table(result: StartResult) -> str:
    heads = "".join(f"<th>{palette.PHASES[phase][0]}</th>" for phase in PHASES)
    rows = ""
    for name in result.variants:
        total = result.total(name)
        cells = "".join(f"<td>{seconds(result.phase(name, phase).median)}</td>" for phase in PHASES)
        found = result.speedup(name) if name != COLD else None
        sooner = f"{ratio(found[0].median)}{' (noisy)' if found[1].noisy else ''}" if found else "–"
        span = f"{seconds(total.low)} – {seconds(total.high)}"
        rows += f"<tr><th>{name}</th>{cells}<td><b>{seconds(total.median)}</b></td><td>{span}</td><td>{sooner}</td></tr>"
    head = f"<tr><th></th>{heads}<th>Total</th><th>Range</th><th>Sooner</th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _proof(result: StartResult) -> str:
    answer = base64.b64decode(result.answer())
    named = hashlib.sha256(answer).hexdigest()[:16]
    fetched = result.stage.bytes_by_source.get("origin", 0)
    runs = len(result.samples)
    return f"""<p class="faint">Same answer, byte for byte, in all {runs} starts ({len(answer)} bytes, SHA-256 {named}…).
Staging ran before the pods, outside their time: {human_bytes(fetched)} from the origin in {seconds(result.stage.seconds)}.
{escape(FORMULA[0].upper() + FORMULA[1:])}.</p>"""


def _fetch_section(result: FetchResult) -> str:
    size, count = human_bytes(result.reference.size_bytes), result.job.target.connections
    speed = {tool: result.gb_per_s(tool) for tool in result.tools}
    cost = {tool: result.cpu_s_per_gb(tool) for tool in result.tools}
    absent = {**result.skipped, **{name: f"failed: {why[0]}" for name, why in result.failed.items()}}
    notes = "".join(f"<br>{escape(name)}: {escape(why)}" for name, why in absent.items())
    return f"""
<section>
  <div class="head"><div><h2>{escape(result.job.target.ref)}</h2>
    <p class="faint">{size} · {count} connections · medians of {result.job.rounds} rounds, ticks: lowest and highest</p></div>
    {_fetch_headline(result)}</div>
  <h3>GB/s to disk <span class="faint">more is better</span></h3><div class="chart">{_fetch_rows(speed)}</div>
  <h3>CPU seconds per GB <span class="faint">less is better</span></h3><div class="chart">{_fetch_rows(cost)}</div>
  {_fetch_table(result)}
  <p class="faint">Process start and fsync are in the time; every byte was compared after it.{notes}</p>
</section>"""


def _fetch_headline(result: FetchResult) -> str:
    rival = result.fastest_rival
    over = result.ours_over(rival) if rival else {}
    if rival is None or "speed" not in over:
        return ""
    speed, verdict = over["speed"]
    doubt = f"<small>too noisy to conclude: {escape('; '.join(verdict.reasons))}</small>" if verdict.noisy else ""
    cost = f"at {over['cpu'][0].median:.2f}x of its CPU" if "cpu" in over else ""
    kind = "big doubt" if verdict.noisy else "big"
    return f'<div class="{kind}"><b>{speed.median:.1f}x</b> {escape(rival)}<small>the fastest rival, {cost}</small>{doubt}</div>'


def _fetch_rows(values: dict[str, Summary]) -> str:
    longest = max(value.high for value in values.values())
    rows = ""
    for tool, value in values.items():
        low, median, high = (point / longest * _BAR_UNITS for point in (value.low, value.median, value.high))
        kind = "ours" if tool == OURS else "rival"
        shapes = f'<rect class="{kind}" width="{median:.2f}" height="10"/>'
        shapes += f'<rect class="tick" x="{low:.2f}" y="4.4" width="{max(high - low, 1):.2f}" height="1.2"/>'
        label = f"{escape(tool)}: {value.median:.2f}"
        rows += f"""<div class="row"><div class="name"><b>{escape(tool)}</b></div>
<svg viewBox="0 0 {_BAR_UNITS} 10" preserveAspectRatio="none" role="img" aria-label="{label}">{shapes}</svg>
<div class="value">{value.median:.2f}</div></div>"""
    return rows


def _fetch_table(result: FetchResult) -> str:
    rows = ""
    for tool in result.tools:
        over = result.ours_over(tool) if tool != OURS else {}
        ours = "".join(f"<td>{over[what][0].median:.2f}x</td>" if what in over else "<td>–</td>" for what in ("speed", "cpu"))
        cells = f"<td>{result.gb_per_s(tool).median:.2f}</td><td>{result.cpu_s_per_gb(tool).median:.2f}</td>"
        memory = f"<td>{result.rss_mib(tool).median:.0f}</td>"
        rows += f"<tr><th>{escape(tool)} <small>{escape(result.about[tool][0])}</small></th>{cells}{memory}{ours}</tr>"
    head = "<tr><th></th><th>GB/s</th><th>CPU s/GB</th><th>RSS MiB</th><th>our speed</th><th>our CPU</th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _style() -> str:
    light = "".join(f"--{phase}:{colour};" for phase, (_, colour, _) in palette.PHASES.items())
    dark = "".join(f"--{phase}:{colour};" for phase, (_, _, colour) in palette.PHASES.items())
    light += f"--ours:{palette.OURS[0]};--rival:{palette.RIVAL[0]};"
    dark += f"--ours:{palette.OURS[1]};--rival:{palette.RIVAL[1]};"
    fills = "".join(f"rect.{name}{{fill:var(--{name})}}i.{name}{{background:var(--{name})}}" for name in palette.PHASES)
    return _STYLE.replace("/*light*/", light).replace("/*dark*/", dark) + fills


_LEAD_START = """How long a pod waits for its model: on a node that has nothing, and on one where Prestage put it beforehand.
Each bar is a fresh process, from its start to its first answer."""
_LEAD_FETCH = "One object from one server to one disk, each tool in a process of its own, in turns."

_STYLE = """
:root{color-scheme:light dark;--ground:#f6f7f9;--card:#fff;--ink:#1f2733;--faint:#667085;--line:#e4e7ec;
--good:#2b8a6e;--doubt:#b4690e;/*light*/}
@media (prefers-color-scheme:dark){:root{--ground:#0f141b;--card:#171e28;--ink:#e6eaf0;--faint:#94a0b5;--line:#2a3442;
--good:#4fc3a1;--doubt:#e0b04a;/*dark*/}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:960px;margin:0 auto;padding:40px 20px 60px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px;letter-spacing:-.02em}
h2{font-size:17px;margin:0;overflow-wrap:anywhere}h3{font-size:14px;margin:18px 0 4px}
p{margin:6px 0}.lead{font-size:17px;color:var(--faint);max-width:44em}.faint{color:var(--faint);font-size:13.5px;font-weight:400}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:22px 24px;margin:24px 0}
.head{display:flex;justify-content:space-between;gap:24px;flex-wrap:wrap}
.big{text-align:right;margin-left:auto;max-width:28em}
.big b{font-size:40px;line-height:1;color:var(--good);letter-spacing:-.03em}
.big.doubt b{color:var(--doubt)}.big small{display:block;color:var(--faint);font-size:12.5px}
.chart{margin:14px 0 6px}
.row{display:grid;grid-template-columns:200px 1fr 68px;gap:14px;align-items:center;padding:7px 0}
.name b{display:block;font-size:14px}.name span{display:block;color:var(--faint);font-size:12px;line-height:1.35}
svg{display:block;width:100%;height:24px;border-radius:5px;background:color-mix(in srgb,var(--line) 45%,transparent)}
rect.ours{fill:var(--ours)}rect.rival{fill:var(--rival)}rect.tick{fill:var(--ink)}
.value{font-weight:600;font-variant-numeric:tabular-nums;text-align:right}
.legend{display:flex;gap:18px;flex-wrap:wrap;font-size:13px;color:var(--faint);margin:0 0 14px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums;margin:8px 0 12px}
th,td{padding:6px 10px;text-align:right;border-top:1px solid var(--line);white-space:nowrap}
th{font-weight:600}th:first-child{text-align:left;padding-left:0}th small{color:var(--faint);font-weight:400}
thead th{border-top:0;color:var(--faint);font-weight:500}td:last-child,th:last-child{padding-right:0}
details{margin-top:16px}summary{cursor:pointer;color:var(--faint);font-size:13.5px}
pre{overflow:auto;max-height:420px;font-size:12px;line-height:1.4;background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:14px}
@media (max-width:640px){.row{grid-template-columns:1fr 64px}.name{grid-column:1/3}.big{text-align:left;margin-left:0}}
@media print{section{break-inside:avoid}details{display:none}}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Prestage: {title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{parts}
<p class="faint">{date} · {machine}</p>
<details><summary>Raw results (JSON, as <code>--json</code> prints them)</summary><pre>{raw}</pre></details>
</main>
</body>
</html>
"""
