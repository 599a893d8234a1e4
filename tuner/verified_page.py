"""The page of a verification, as text: validation front against verified front. Drawing is plotly in the browser."""

from __future__ import annotations

import re

TEMPLATE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@TITLE@@</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 12px; color: #222; background: #fff }
  h1 { font-size: 1.25em; margin: .2em 0 } h2 { font-size: 1.05em; margin: 1.4em 0 .2em }
  p { margin: .35em 0 } .small { color: #555; font-size: .9em } .alarm { color: #a33c00; font-weight: 600 }
  #front { height: clamp(380px, 60vh, 560px) } #classes { height: 280px } .wide { overflow-x: auto }
  table { border-collapse: collapse } td, th { padding: 2px 10px 2px 0; text-align: left; white-space: nowrap }
  select { font: inherit }
</style>
</head>
<body>
<h1>@@TITLE@@</h1>
<p class="small">@@LINE@@</p>
@@SENTENCES@@
<div id="front"></div>
<div class="wide"><table id="table">@@TABLE@@</table></div>
<h2><label for="trial">Robust accuracy of each class on test with its 95 % interval, trial</label> <select id="trial"></select></h2>
<div id="classes"></div>
<p class="small">@@NOTE@@</p>
<script>@@PLOTLY@@</script>
<script>
const D = @@DATA@@;
const config = {responsive: true, displaylogo: false, displayModeBar: window.innerWidth < 600 ? false : "hover"};
const font = {family: "system-ui, sans-serif", size: 12};
const [blue, grey, vermillion] = D.colours;
const error = (some, i) => some.every(p => p.ci[i]) ? {type: "data", symmetric: false, thickness: 1, width: 3,
  array: some.map(p => p.ci[i][1] - p.test[i]), arrayminus: some.map(p => p.test[i] - p.ci[i][0])} : undefined;
const moves = {x: [], y: [], mode: "lines", line: {color: grey, width: 1, dash: "dot"}, hoverinfo: "skip", showlegend: false};
for (const p of D.points) { moves.x.push(p.val[0], p.test[0], null); moves.y.push(p.val[1], p.test[1], null); }
const before = {x: D.points.map(p => p.val[0]), y: D.points.map(p => p.val[1]), text: D.points.map(p => String(p.trial)),
  mode: "markers+text", textposition: "top right", name: "validation front (as searched)",
  marker: {color: grey, size: 11, symbol: "circle-open", line: {width: 2}}};
const after = (on, name, color, symbol) => {
  const some = D.points.filter(p => p.on === on);
  return {x: some.map(p => p.test[0]), y: some.map(p => p.test[1]), text: some.map(p => String(p.trial)), name,
    mode: "markers+text", textposition: "bottom right", marker: {color, size: 11, symbol}, visible: some.length > 0,
    error_x: error(some, 0), error_y: error(some, 1)};
};
Plotly.newPlot("front", [moves, before, after(true, "verified front (test)", blue, "circle"),
                         after(false, "fell off (test)", vermillion, "x")],
  {font, margin: {l: 62, r: 12, t: 10, b: 50}, hovermode: "closest", plot_bgcolor: "#fafafa",
   xaxis: {title: {text: D.axis[0]}, automargin: true}, yaxis: {title: {text: D.axis[1]}, automargin: true},
   legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom"}}, config);
const select = document.getElementById("trial");
D.points.forEach(p => select.add(new Option(p.trial, p.trial)));
function choose() {
  const p = D.points.find(q => String(q.trial) === select.value), names = Object.keys(p.classes), v = Object.values(p.classes);
  Plotly.react("classes", [{type: "bar", x: names, y: v.map(c => c[0]), marker: {color: blue}, error_y: {type: "data",
    symmetric: false, array: v.map(c => c[2] - c[0]), arrayminus: v.map(c => c[0] - c[1])}}],
    {font, margin: {l: 50, r: 8, t: 8, b: 50}, xaxis: {type: "category", title: {text: "class"}, automargin: true},
     yaxis: {title: {text: "robust accuracy"}, range: [0, 1]}}, config);
}
select.onchange = choose;
choose();
</script>
</body>
</html>
"""


def fill(template: str, fields: dict[str, str]) -> str:
    """``@@NAME@@`` replaced in one pass, plotly included: the page opens from a disk, without a network."""
    from plotly.offline import get_plotlyjs

    fields = {**fields, "PLOTLY": get_plotlyjs()}
    return re.sub("@@([A-Z]+)@@", lambda found: fields[found[1]], template)
