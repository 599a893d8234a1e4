"""The frame of all interactive pages: style, plotly, and the drawing they share. A page needs no network."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from tuner import escape

# Okabe and Ito's palette, which is safe for colour-blind readers. Shapes and dashes differ as well.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#8A8A8A"

FRAME = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@TITLE@@</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 12px; color: #222;
         background: #fff }
  h1 { font-size: 1.25em; margin: .2em 0 } h2 { font-size: 1.05em; margin: 1.4em 0 .2em }
  p { margin: .35em 0 } .small { color: #555; font-size: .9em; overflow-wrap: anywhere }
  .alarm { color: #a33c00; font-weight: 600 }
  #slide { margin: 6px 0 } #slide label { font-weight: 600 } .ends { display: flex; gap: 10px; align-items: center }
  .ends input { flex: 1; min-width: 0; accent-color: #E69F00 } #chosen { font-size: 1.05em }
  @media (max-width: 600px) { .ends { flex-wrap: wrap; justify-content: space-between }
                              .ends input { order: -1; flex-basis: 100% } }
  #front { height: clamp(400px, 62vh, 600px) } #classes { height: 280px } .wide { overflow-x: auto }
  table { border-collapse: collapse } td, th { padding: 2px 12px 2px 0; text-align: left; white-space: nowrap }
  #params { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 270px), 1fr)); gap: 4px }
  #params > div { height: 230px; min-width: 0; overflow: hidden }
  select { font: inherit; max-width: 100% }
</style>
</head>
<body>
<h1>@@TITLE@@</h1>
<p class="small">@@LINE@@</p>
@@BODY@@
@@PLOTLY@@
<script type="application/json" id="data">@@DATA@@</script>
<script@@NONCE@@>
let D = JSON.parse(document.getElementById("data").textContent);
// plotly takes <b> for bold, and loses a category that is called as something that every object has
const category = text => (text in {} ? "\u200b" : "") + asText(text);
const asText = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const narrow = window.innerWidth < 600;
const config = {responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover"};
const font = {family: "system-ui, sans-serif", size: 12};
const element = id => document.getElementById(id);
const broken = text => text.replace(" robust accuracy", "<br>robust accuracy");
const title = text => ({text: narrow && text.length > 40 ? broken(asText(text)) : asText(text)});

/* The scatter of two objectives. Its legend stands above it; on a phone below it, where each entry takes a line. */
function drawPlane(traces, layout) {
  const below = 80 + 20 * traces.filter(t => t.showlegend !== false).length;
  const legend = narrow ? {orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom"}
                        : {orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom"};
  const size = narrow ? {height: 320 + below} : {};
  if (narrow) element("front").style.height = `${size.height}px`;
  Plotly.react("front", traces, {  // again with other data, a zoom stays
    uirevision: "same", ...size,
    font, margin: {l: 62, r: 12, t: 10, b: narrow ? below : 50}, hovermode: "closest", plot_bgcolor: "#fafafa",
    hoverlabel: {align: "left"}, modebar: {orientation: "v"}, ...layout, legend: {...legend, ...layout.legend},
    xaxis: {title: title(D.axis[0]), automargin: true, ...layout.xaxis},
    yaxis: {title: title(D.axis[1]), automargin: true, ...layout.yaxis}}, config);
}

/* Bars over the classes; each of `series` is {name, y: {class: accuracy}, color, pattern?, error_y?}. `top`: the end of
   the axis where it is to stay the same for other series. */
function drawClasses(series, top) {
  const bars = series.map(s => ({
    type: "bar", name: asText(s.name), x: Object.keys(s.y).map(category), y: Object.values(s.y), error_y: s.error_y,
    marker: {color: s.color, pattern: {shape: s.pattern || ""}}}));
  Plotly.react("classes", bars, {
    font, margin: {l: 50, r: 8, t: 8, b: 50}, showlegend: series.length > 1,
    legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0},
    xaxis: {type: "category", title: {text: "class"}, automargin: true},
    yaxis: {title: {text: "robust accuracy (fraction)"}, rangemode: "tozero",
            ...(top ? {range: [0, 1.05 * top]} : {})}}, config);
}
@@SCRIPT@@
</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Served:
    """Of a page that a server sends: the address of plotly's script, and the nonce without which no script runs."""

    plotly: str
    nonce: str


def page(title: str, line: str, body: str, data: dict, script: str, served: Served | None = None) -> str:
    """A whole page as HTML, which opens from a disk and in MLflow's sandboxed frame, unless it is ``served``.

    ``line`` stands below the title. ``body`` is HTML; ``data`` becomes ``D`` of ``script``.
    """
    from plotly.offline import get_plotlyjs

    nonce = f' nonce="{served.nonce}"' if served else ""
    plotly = f'<script{nonce} src="{escape.html(served.plotly)}">' if served else f"<script>{get_plotlyjs()}"
    fields = {
        "TITLE": escape.html(title),
        "LINE": escape.html(line),
        "BODY": body,
        "PLOTLY": f"{plotly}</script>",
        "NONCE": nonce,
        "DATA": escape.script(plain(data)),
        "SCRIPT": script,
    }
    return re.sub("@@([A-Z]+)@@", lambda match: fields[match[1]], FRAME)  # one pass: a value may contain @@


def table(header: list[str], rows: list[list[str]]) -> str:
    """The cells as an HTML table that scrolls sideways on a narrow screen."""
    lines = "".join(
        f"<tr>{''.join(f'<{tag}>{escape.html(cell)}</{tag}>' for cell in cells)}</tr>"
        for tag, cells in [("th", header), *(("td", row) for row in rows)]
    )
    return f'<div class="wide"><table id="table">{lines}</table></div>'


def plain(value: Any) -> Any:
    """``value`` with None for NaN and infinity, which JSON does not have, and with printable texts."""
    if isinstance(value, str):
        return escape.printable(value)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
