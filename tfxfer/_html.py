"""Self-contained HTML pages: escaping, tables, charts as SVG, one style, one short script."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# The page loads nothing; only its own style and script may run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 40

STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5c6470;--line:#d5d9e0;--paper:#fff;--field:#f4f6f9;--a:#2563eb;
--b:#d9480f}
@media(prefers-color-scheme:dark){:root{--ink:#e7e9ec;--soft:#a3abb8;--line:#3a404a;--paper:#16181c;--field:#22262c;
--a:#7aa7ff;--b:#ff9f6b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;padding:1rem 1.2rem 4rem;
max-width:72rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}
.soft,small{color:var(--soft)}.t{unicode-bidi:isolate;overflow-wrap:anywhere;white-space:pre-wrap}
.scroll{overflow:auto;max-width:100%;max-height:44rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
td.n,th.n{text-align:right}thead th{position:sticky;top:0;background:var(--paper)}
th button{all:unset;cursor:pointer;font-weight:600}
th button:focus-visible,td button:focus-visible{outline:2px solid var(--a)}
th[aria-sort=ascending] button::after{content:" \\25b2"}th[aria-sort=descending] button::after{content:" \\25bc"}
td button{font:inherit;color:inherit;background:none;border:0;padding:.1rem .4rem;cursor:pointer;border-radius:3px}
td button{text-decoration:underline dotted}td button:hover{text-decoration:underline}
.matrix td,.matrix th{padding:1px 2px;text-align:center;font-size:.8rem}
.matrix th.side{text-align:right;max-width:14rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.matrix th.top span{writing-mode:vertical-rl;max-height:11rem;overflow:hidden;text-overflow:ellipsis}
.matrix .t,.matrix th.top span{white-space:nowrap}
.charts{display:flex;flex-wrap:wrap;gap:1.5rem}figure{margin:0;max-width:100%}figcaption{font-size:.85rem;color:var(--soft)}
svg{max-width:100%;height:auto;background:var(--paper)}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
svg .axis{stroke:var(--soft)}svg .grid{stroke:var(--line)}.opened{border-left:3px solid var(--a);padding-left:.8rem}
.e{border-radius:3px;padding:0 .15em;background:rgba(37,99,235,.25)}.e.wrong{background:rgba(217,72,15,.3)}
.e sub{unicode-bidi:isolate;color:var(--soft);font-size:.7em;margin-left:.25em}
"""

SCRIPT = """
'use strict';
for(const table of document.querySelectorAll('table.sorts'))for(const th of table.tHead.rows[0].cells){
 const button=th.querySelector('button');if(!button)continue;
 button.addEventListener('click',()=>{
  const up=th.getAttribute('aria-sort')==='descending',k=th.cellIndex,body=table.tBodies[0];
  for(const each of table.tHead.rows[0].cells)each.removeAttribute('aria-sort');
  th.setAttribute('aria-sort',up?'ascending':'descending');
  const key=row=>{const v=row.cells[k].dataset.v;return v===undefined?row.cells[k].textContent:Number(v)};
  [...body.rows].sort((x,y)=>{const a=key(x),b=key(y),n=typeof a==='number'?a-b:a.localeCompare(b);return up?n:-n})
   .forEach(row=>body.append(row))})}
const stored=document.getElementById('rows'),data=stored?JSON.parse(stored.textContent):null;
function cell(row,text,kind){const td=row.insertCell();td.textContent=text;if(kind)td.className=kind;
 if(kind==='t')td.dir='auto'}
function reveal(title,rows){
 const box=document.getElementById('opened');box.replaceChildren();
 const h=document.createElement('h3');h.textContent=title+': '+rows.length+' rows';box.append(h);
 const table=document.createElement('table'),head=table.createTHead().insertRow();
 for(const name of ['row','text','true','predicted','confidence']){const th=document.createElement('th');
  th.textContent=name;head.append(th)}
 const body=table.createTBody();
 for(const r of rows.slice(0,200)){const row=body.insertRow();cell(row,r.i,'n');cell(row,r.t.join('\\n'),'t');
  cell(row,r.y.map(k=>data.labels[k]).join(', '),'t');cell(row,r.p.map(k=>data.labels[k]).join(', '),'t');
  cell(row,r.c.toFixed(3),'n')}
 box.append(table);
 if(rows.length>200){const p=document.createElement('p');p.className='soft';p.textContent='The first 200 are shown.';
  box.append(p)}
 box.scrollIntoView({block:'nearest'})}
document.addEventListener('click',event=>{
 const b=event.target.closest('button[data-open]');if(!b||!data)return;
 const y=Number(b.dataset.y),p=Number(b.dataset.p),name=k=>data.labels[k],has=(list,k)=>list.includes(k);
 const kinds={cell:[r=>has(r.y,y)&&has(r.p,p),name(y)+' predicted as '+name(p)],
  missed:[r=>has(r.y,y)&&!has(r.p,y),name(y)+', false negatives'],
  spurious:[r=>!has(r.y,y)&&has(r.p,y),name(y)+', false positives']};
 const [test,title]=kinds[b.dataset.open];reveal(title,data.rows.filter(test))});
"""


def escaped(value: Any) -> str:
    """Returns a value as escaped text."""
    return html.escape(str(value))


def text(value: Any) -> str:
    """Returns a user's text, isolated from its surroundings because it may change the writing direction."""
    return f'<span class="t" dir="auto">{html.escape(str(value))}</span>'


def json_block(name: str, value: Any) -> str:
    """Returns data for the page's script: JSON that cannot open or close a tag."""
    found = json.dumps(value, ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        found = found.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escaped(name)}">{found}</script>'


def number(value: Any, digits: int = 4) -> str:
    """Returns a number formatted for reading; empty for `None`."""
    return "" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def document(title: str, parts: Iterable[str]) -> str:
    """Returns a whole page."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>'
    )
    return "\n".join([head, f"<h1>{escaped(title)}</h1>", *parts, f"<script>{SCRIPT}</script></body></html>", ""])


def section(title: str, *parts: str) -> str:
    """Returns a section with a heading."""
    return "\n".join([f"<section><h2>{escaped(title)}</h2>", *parts, "</section>"])


def table(names: Sequence[str], rows: Iterable[Sequence[Any]], *, sorts: bool = False) -> str:
    """Returns a table. Cells are numbers or strings of HTML; with `sorts`, a click on a column name sorts the rows."""
    rows = [list(row) for row in rows]
    are_numbers = [
        bool(rows) and all(isinstance(row[k], (int, float)) or row[k] is None for row in rows)
        for k in range(len(names))
    ]
    heads = [f"<button>{escaped(name)}</button>" if sorts else escaped(name) for name in names]
    shown = [
        f'<th class="n">{head}</th>' if is_number else f"<th>{head}</th>"
        for head, is_number in zip(heads, are_numbers, strict=True)
    ]
    lines = [f'<div class="scroll"><table{" class=sorts" if sorts else ""}><thead><tr>{"".join(shown)}</tr></thead>']
    lines += ["<tbody>", *(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows), "</tbody></table></div>"]
    return "\n".join(lines)


def _cell(value):
    if value is None:
        return '<td class="n" data-v="-1"></td>'
    if isinstance(value, (int, float)):
        return f'<td class="n" data-v="{value!r}">{number(value)}</td>'
    return f"<td>{value}</td>"


# === Charts ===


def chart(
    shapes: Sequence[str], *, x: tuple[float, float], y: tuple[float, float], names: tuple[str, str], title: str
) -> str:
    """Returns a figure with axes around shapes with coordinates from `place`."""
    lines = [
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{escaped(title)}">'
    ]
    for value in _ticks(*x):
        px = place(value, 0, x, (0, 1))[0]
        lines.append(f'<line class="grid" x1="{px}" x2="{px}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        lines.append(f'<text x="{px}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{value:g}</text>')
    for value in _ticks(*y):
        py = place(0, value, (0, 1), y)[1]
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{py}" y2="{py}"/>')
        lines.append(f'<text x="{_LEFT - 5}" y="{py + 4}" text-anchor="end">{value:g}</text>')
    lines += shapes
    lines.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escaped(names[0])}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    lines.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escaped(names[1])}</text>'
    )
    return "".join([*lines, f"</svg><figcaption>{escaped(title)}</figcaption></figure>"])


def place(x: float, y: float, xs: tuple[float, float], ys: tuple[float, float]) -> tuple[float, float]:
    """Returns the coordinates in a chart for a data point."""
    across = (x - xs[0]) / ((xs[1] - xs[0]) or 1)
    up = (y - ys[0]) / ((ys[1] - ys[0]) or 1)
    inner = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return round(_LEFT + across * inner[0], 1), round(_HEIGHT - _BOTTOM - up * inner[1], 1)


def line(xs: Sequence[float], ys: Sequence[float], x: tuple, y: tuple, style: str = "stroke:var(--a)") -> str:
    """Returns a line through points; points that are not finite are left out."""
    points = [place(a, b, x, y) for a, b in zip(xs, ys, strict=True) if b is not None and math.isfinite(b)]
    shown = " ".join(f"{a},{b}" for a, b in points)
    return f'<polyline points="{shown}" style="fill:none;stroke-width:2;{style}"/>'


def bar(left: float, right: float, bottom: float, top: float, x: tuple, y: tuple, tip: str, style: str) -> str:
    """Returns a bar between four values, with a text shown on hover."""
    (x0, y0), (x1, y1) = place(left, bottom, x, y), place(right, top, x, y)
    return (
        f'<rect x="{x0}" y="{y1}" width="{max(x1 - x0 - 1, 1):.1f}" height="{max(y0 - y1, 0):.1f}" style="{style}">'
        f"<title>{escaped(tip)}</title></rect>"
    )


def dots(points: Iterable[tuple[float, float, str, str]], x: tuple, y: tuple) -> list[str]:
    """Returns points `(x, y, color, text on hover)`."""
    found = []
    for a, b, colour, tip in points:
        px, py = place(a, b, x, y)
        found.append(
            f'<circle cx="{px}" cy="{py}" r="3.5" style="fill:{colour};opacity:.75">'
            f"<title>{escaped(tip)}</title></circle>"
        )
    return found


def colour(number: int) -> str:
    """Returns a color that differs from those of adjacent numbers and is legible on light and dark backgrounds."""
    return f"hsl({number * 137.508 % 360:.0f} 62% 52%)"


def legend(names: Mapping[str, str]) -> str:
    """Returns names with their colors."""
    shown = [
        f'<span style="white-space:nowrap"><span style="color:{shade}">&#9679;</span> {text(name)}</span>'
        for name, shade in names.items()
    ]
    return f"<p>{' '.join(shown)}</p>"


def _ticks(low, high):
    """Returns round numbers between two numbers."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    step = 10 ** math.floor(math.log10(span))
    step = next(step * factor for factor in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if span / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


# === Texts with spans ===


def highlighted(content: str, spans: Iterable[tuple[int, int, str, bool]]) -> str:
    """Returns a text with spans `(start, end, label, is wrong)`; if spans overlap, the first is shown."""
    found, end = [], 0
    for start, stop, label, is_wrong in sorted(spans):
        if start < end:
            continue
        kind = "e wrong" if is_wrong else "e"
        found += [escaped(content[end:start]), f'<span class="{kind}">{escaped(content[start:stop])}']
        found.append(f"<sub>{escaped(label)}</sub></span>")
        end = stop
    return f'<span class="t" dir="auto">{"".join(found)}{escaped(content[end:])}</span>'
