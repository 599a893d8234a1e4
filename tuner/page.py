"""The interactive page of a front, as text: `@@NAME@@` is filled in by `plots.page`; all drawing is plotly in the browser."""

TEMPLATE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@TITLE@@</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 12px; color: #222; background: #fff }
  h1 { font-size: 1.25em; margin: .2em 0 } h2 { font-size: 1.05em; margin: 1.4em 0 .2em }
  p { margin: .35em 0 } .small { color: #555; font-size: .9em; overflow-wrap: anywhere }
  #front { height: clamp(380px, 62vh, 600px) } #classes { height: 260px }
  #params { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 270px), 1fr)); gap: 4px }
  #params > div { height: 230px; min-width: 0; overflow: hidden }
  select { font: inherit; max-width: 100% }
</style>
</head>
<body>
<h1>@@TITLE@@</h1>
<p class="small">@@LINE@@</p>
<p id="gain">@@GAIN@@</p>
<p class="small" id="note">@@NOTE@@</p>
<div id="front"></div>
<section id="more">
<h2><label for="trial">Robust accuracy of each class on val, trial</label> <select id="trial"></select></h2>
<p class="small" id="chosen"></p>
<div id="classes"></div>
<h2>What each searched parameter buys</h2>
<p class="small">Trials of full budget, over the searched range. Blue circles: <span id="namex"></span>; vermillion triangles:
<span id="namey"></span>; larger ones are on the front.</p>
<div id="params"></div>
</section>
<script>@@PLOTLY@@</script>
<script>
const D = @@DATA@@;
const narrow = window.innerWidth < 600;
const config = {responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover"};
const font = {family: "system-ui, sans-serif", size: 12};
const title = (text) => ({text: narrow && text.length > 40 ? text.replace(" robust accuracy", "<br>robust accuracy") : text});

function frontTraces() {
  const traces = [{x: D.staircase[0], y: D.staircase[1], mode: "lines", line: {color: D.colours.x, width: 2},
                   name: "attained by the front", hoverinfo: "skip", meta: "staircase"}];
  for (const name of Object.keys(D.groups).reverse()) {
    const [label, color, symbol, size] = D.groups[name];
    const some = D.points.filter(p => p.group === name);
    if (!some.length) continue;
    traces.push({x: some.map(p => p.x), y: some.map(p => p.y), hovertext: some.map(p => p.text), hoverinfo: "text",
                 customdata: some.map(p => p.trial), text: some.map(p => String(p.trial)), textposition: "top right",
                 mode: name === "front" ? "markers+text" : "markers", name: `${label} (${some.length})`, meta: name,
                 marker: {color, symbol, size, line: {width: symbol.endsWith("open") ? 2 : 0}}});
  }
  const paper = D.points.find(p => p.trial === D.paper);
  if (paper) traces.push({x: [paper.x], y: [paper.y], mode: "markers", name: "the paper’s setting", hovertext: [paper.text],
                          hoverinfo: "text", customdata: [paper.trial], meta: "paper",
                          marker: {symbol: "star-open", size: 20, color: "#000", line: {width: 2}}});
  return traces;
}

function drawFront() {
  const layout = {font, margin: {l: 62, r: 12, t: 10, b: 50}, hovermode: "closest", plot_bgcolor: "#fafafa",
    xaxis: {title: title(D.axis[0]), range: D.range[0], automargin: true},
    yaxis: {title: title(D.axis[1]), range: D.range[1], automargin: true},
    legend: {orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", traceorder: "reversed"},
    hoverlabel: {align: "left"}};
  if (!D.points.length) layout.annotations = [{text: "no trial has reported yet", showarrow: false, font: {size: 16},
                                               xref: "paper", yref: "paper", x: .5, y: .5}];
  Plotly.newPlot("front", frontTraces(), layout, config);
  document.getElementById("front").on("plotly_click", e => choose(e.points[0].customdata));
}

function choose(trial) {
  const p = D.points.find(q => q.trial === trial);
  if (!p) return;
  document.getElementById("trial").value = trial;
  document.getElementById("chosen").textContent =
    Object.entries(p.params).map(([k, v]) => `${k} = ${typeof v === "number" ? +v.toPrecision(3) : v}`).join(", ");
  const bar = (q, name, color) => ({type: "bar", name, x: Object.keys(q.robust), y: Object.values(q.robust), marker: {color}});
  const traces = [bar(p, `trial ${trial}`, D.colours.x)];
  const paper = D.points.find(q => q.trial === D.paper);
  if (paper && paper !== p) traces.push(bar(paper, `the paper’s setting (trial ${D.paper})`, D.colours.grey));
  Plotly.react("classes", traces, {font, margin: {l: 50, r: 8, t: 8, b: 50}, showlegend: true,
    legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0}, xaxis: {type: "category", title: {text: "class"}, automargin: true},
    yaxis: {title: {text: "robust accuracy (fraction)"}, rangemode: "tozero"}}, config);
}

function drawParams() {
  const full = D.points.filter(p => p.group === "front" || p.group === "finished");
  const grid = document.getElementById("params");
  for (const key of ["x", "y"]) document.getElementById("name" + key).textContent = D[key];
  // all places first: the grid gives them their width before anything is drawn
  for (const s of D.searched) grid.appendChild(document.createElement("div"));
  D.searched.forEach((s, i) => {
    const some = full.filter(p => s.name in p.params);
    const trace = (key, color, symbol) => ({
      x: some.map(p => s.choice ? String(p.params[s.name]) : p.params[s.name]), y: some.map(p => p[key]),
      mode: "markers", name: D[key], hovertext: some.map(p => p.text), hoverinfo: "text", customdata: some.map(p => p.trial),
      marker: {color, symbol, size: some.map(p => p.group === "front" ? 11 : 7)}});
    const xaxis = {title: {text: s.name}, type: s.choice ? "category" : s.log ? "log" : "linear", automargin: true};
    if (s.choice) Object.assign(xaxis, {categoryorder: "array", categoryarray: s.ticks.map(t => t[1]), range: [-.5, s.ticks.length - .5]});
    else Object.assign(xaxis, {range: s.range, tickvals: s.ticks.map(t => t[0]), ticktext: s.ticks.map(t => t[1])});
    Plotly.newPlot(grid.children[i], [trace("x", D.colours.x, "circle"), trace("y", D.colours.y, "triangle-up")],
      {font: {...font, size: 11}, margin: {l: 40, r: 8, t: 8, b: 40}, showlegend: false, hovermode: "closest",
       plot_bgcolor: "#fafafa", xaxis, yaxis: {range: D.paramRange}}, {...config, displayModeBar: false});
    grid.children[i].on("plotly_click", e => choose(e.points[0].customdata));
  });
}

drawFront();
const withClasses = D.points.filter(p => Object.keys(p.robust).length);
if (withClasses.length) {
  const list = document.getElementById("trial");
  for (const p of withClasses) list.add(new Option(`${p.trial} (${p.group === "front" ? "on the front" : p.group})`, p.trial));
  list.onchange = () => choose(Number(list.value));
  choose(withClasses.some(p => p.trial === D.picked) ? D.picked : withClasses[0].trial);
  drawParams();
} else document.getElementById("more").hidden = true;
</script>
</body>
</html>
"""
