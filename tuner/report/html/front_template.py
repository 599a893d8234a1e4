"""The parts of the front's page, and its script. The frame is `page`'s; the data are of `figures` or
`comparison_figures`. ``draw`` may be called again with other data: a live page does (`tuner.report.live`)."""

WORDS = """<p id="gain">@@GAIN@@</p>
@@TABLE@@
<p class="small" id="note">@@NOTE@@</p>
"""
FIGURE = """<div id="front"></div>
<section class="more">
<div id="slide"><label for="tradeoff">How much reweighting?</label>
<div class="ends"><span>best @@SHORTX@@</span><input type="range" id="tradeoff" min="0" step="1">
<span>best @@SHORTY@@</span></div></div>
<p id="chosen"></p>
<p class="small" id="setting"></p>
</section>
"""
DETAILS = """<section class="more">
<h2><label for="trial">Robust accuracy of each class on val, trial</label> <select id="trial"></select></h2>
<div id="classes"></div>
<h2><label for="method">Effect of each searched parameter</label> <select id="method"></select></h2>
<p class="small"><span id="effectsof">@@EFFECTSOF@@</span> over the searched range, each with the offsets at which the
sum of both is largest. Blue circles: <span id="namex"></span>; vermillion triangles: <span id="namey"></span>; larger
ones are <span id="larger">@@LARGER@@</span>.</p>
<div id="params"></div>
<h2>The same trials as parallel coordinates</h2>
<p class="small">A line is a trial, from its parameters on the left to its objectives on the right; brighter lines have
a better <span id="namec"></span>. Drag along an axis to select; "–": the trial has no such parameter.</p>
<div class="wide"><div id="parallel"></div></div>
</section>
"""

SCRIPT = r"""
function stairTraces() {
  const area = b => ({x: b.x, y: b.y, mode: "none", fill: "toself", fillcolor: b.colour + "2e", meta: "band",
                      hoverinfo: "skip", name: asText(b.name || ""), showlegend: Boolean(b.name),
                      legendgroup: b.group});
  const line = s => ({x: s.x, y: s.y, mode: "lines", line: {color: s.colour, width: 3, dash: s.dash},
                      name: asText(s.name || ""), hoverinfo: "skip", meta: "staircase", legendgroup: s.group,
                      showlegend: s.legend});
  return [...D.bands.map(area), ...D.stairs.map(line)];
}

/* The trials as thin lines over their offsets: those without a point of the front are faint. */
function curveTraces() {
  const joined = (some, key) => some.flatMap(c => [...c[key], null]);
  const lines = (some, meta, colour, showlegend) => some.length ? [{x: joined(some, "x"), y: joined(some, "y"), meta,
    mode: "lines", line: {color: colour, width: 1}, hoverinfo: "skip", name: D.curveName, showlegend,
    legendgroup: "curves"}] : [];
  const [best, rest] = [true, false].map(front => D.curves.filter(c => c.front === front));
  return [...lines(rest, "faint curves", D.colours.grey + "55", !best.length),
          ...lines(best, "curves", D.colours.x + "88", true)];
}

/* A reference is a line over its offsets; the larger mark is without offsets. */
function referenceTraces() {
  return D.references.map(r => ({...places(r.points), mode: "lines+markers", meta: r.role, name: asText(r.long),
    line: {color: r.colour, width: 2, dash: r.dash},
    marker: {color: r.colour, symbol: r.symbol, size: r.points.map(p => p.tau ? 6 : 15)}}));
}

const places = some => ({x: some.map(p => p.x), y: some.map(p => p.y), customdata: some.map(p => p.id),
                         hovertext: some.map(p => p.text), hoverinfo: "text"});
const spread = (some, i) => ({type: "data", array: some.map(p => p.std ? p.std[i] : 0), thickness: 1, width: 3,
                              visible: some.some(p => p.std)});

// labels with the names of searches do not fit on a phone; there a tap shows them
const labelled = some => some.some(p => p.label) && !(narrow && D.comparison);

function pointTraces() {
  return Object.entries(D.styles).reverse().flatMap(([name, s]) => {
    const some = D.points.filter(p => p.style === name);
    const marker = {color: s.colour, symbol: s.symbol, size: s.size, line: {width: s.symbol.endsWith("open") ? 2 : 0}};
    return some.length ? [{...places(some), name: asText(`${s.name} (${some.length})`), meta: name, marker,
      opacity: s.opacity, text: some.map(p => asText(p.label)), textposition: "top right",
      mode: labelled(some) ? "markers+text" : "markers",
      error_x: spread(some, 0), error_y: spread(some, 1), legendgroup: s.group, showlegend: s.legend}] : [];
  });
}

// a comparison marks the settings of the papers; a single search draws them as lines
function paperTraces() {
  const some = D.comparison ? D.points.filter(p => p.paper) : [];
  return some.length ? [{...places(some), mode: "markers", meta: "paper", name: asText(D.paperName),
    marker: {symbol: "star-open", size: 20, color: "#000", line: {width: 2}}}] : [];
}

const ring = () => ({x: [null], y: [null], mode: "markers", meta: "chosen", hoverinfo: "skip", showlegend: false,
                     marker: {symbol: "circle-open", size: 24, color: D.colours.ring, line: {width: 4}}});

function drawFront() {
  const layout = {xaxis: {range: D.range[0]}, yaxis: {range: D.range[1]}, legend: {traceorder: "reversed"}};
  if (!D.points.length) layout.annotations = [{text: "no trial has reported yet", showarrow: false, font: {size: 16},
                                               xref: "paper", yref: "paper", x: .5, y: .5}];
  const points = pointTraces(), behind = points.filter(t => t.meta !== "front"),
        front = points.filter(t => t.meta === "front");
  drawPlane([...stairTraces(), ...curveTraces(), ...behind, ...front, ...referenceTraces(), ...paperTraces(), ring()],
            layout);
  if (!element("front").tapped)
    element("front").on("plotly_click", e => e.points[0].customdata && choose(e.points[0].customdata));
  element("front").tapped = true;
}

const shown = v => typeof v === "number" ? +v.toPrecision(3) : v;
const text3 = v => typeof v === "number" ? v.toFixed(3) : "-";
const listed = values => Object.entries(values).map(([k, v]) => `${k} ${v > 0 ? "+" : ""}${v}`).join(", ");
const everyPoint = () => [...D.points, ...D.references.flatMap(r => r.points)];

function choose(id) {
  const p = everyPoint().find(q => q.id === id);
  if (!p) return;
  element("trial").value = id;
  if (D.members.includes(id)) element("tradeoff").value = D.members.indexOf(id);
  const on = p.front ? ", on the front" + (p.p_front != null ? ` (probability ${Math.round(100 * p.p_front)} %)` : "")
                     : ", not on the front";
  const name = document.createElement("b"), plane = element("front");
  name.textContent = nameOf(p) + on;
  const values = Object.entries(p.values).map(([k, v]) => `${k} ${text3(v)}`);
  element("chosen").replaceChildren(name, ": " + values.join(" · "));
  const setting = p.seed == null ? p.params : {seed: p.seed, ...p.params};
  element("setting").textContent = [Object.entries(setting).map(([k, v]) => `${k} = ${shown(v)}`).join(", "),
    p.offsets && `class offsets (${p.offsets.kind}, tau ${p.offsets.tau}): ${listed(p.offsets.values)}`]
    .filter(Boolean).join(" — ");
  Plotly.restyle(plane, {x: [[p.x]], y: [[p.y]]}, [plane.data.findIndex(t => t.meta === "chosen")]);
  drawClasses([{name: nameOf(p), y: p.robust, color: D.colours.x}, ...barsBeside(p)], D.top);
}

const nameOf = p => p.trial < 0 ? `no search${p.tau ? ` @${p.tau}` : ""}` : `trial ${p.id}`;

/* What a point's bars stand beside: the references, or in a comparison the setting of its method's paper. */
function barsBeside(p) {
  const paper = D.comparison && D.points.find(q => q.search === p.search && q.method === p.method && q.paper);
  if (paper && paper !== p) return [{name: `${D.paperName} (trial ${paper.id})`, y: paper.robust,
                                     color: D.colours.grey, pattern: "/"}];
  return D.references.filter(r => r.shown && r.shown.id !== p.id).map(r => (
    {name: r.shownName, y: r.shown.robust, color: r.colour + "99", pattern: r.role === "paper" ? "/" : ""}));
}

/* The place of a value among the choices of an axis. */
const chosen = (s, v) => s.ticks.findIndex(t => t[0] === v);

function drawParams(method, full) {
  const grid = element("params");
  grid.replaceChildren(...method.searched.map(() => document.createElement("div")));
  // first all the places, so that the grid has set their width before anything is drawn
  method.searched.forEach((s, i) => {
    const some = full.filter(p => s.name in p.params);
    const trace = (key, color, symbol) => ({
      ...places(some), y: some.map(p => p[key]),
      x: some.map(p => s.choice ? s.ticks[chosen(s, p.params[s.name])][1] : p.params[s.name]),
      mode: "markers", name: D[key],
      marker: {color, symbol, size: some.map(p => p.front ? 11 : 7)}});
    const xaxis = {title: {text: asText(s.name)}, type: s.choice ? "category" : s.log ? "log" : "linear",
                   automargin: true, tickvals: s.ticks.map(t => t[s.choice ? 1 : 0]),
                   ticktext: s.ticks.map(t => asText(t[1])),
                   range: s.range};
    if (s.choice) Object.assign(xaxis, {categoryorder: "array", categoryarray: s.ticks.map(t => t[1])});
    Plotly.newPlot(grid.children[i], [trace("x", D.colours.x, "circle"), trace("y", D.colours.y, "triangle-up")],
      {font: {...font, size: 11}, margin: {l: 40, r: 8, t: 8, b: 40}, showlegend: false, hovermode: "closest",
       plot_bgcolor: "#fafafa", xaxis, yaxis: {range: D.paramRange}}, {...config, displayModeBar: false});
    grid.children[i].on("plotly_click", e => choose(e.points[0].customdata));
  });
}

/* One axis for each searched parameter, then the objectives. A trial without a parameter passes its axis at "–". */
function drawParallel(method, full) {
  const place = (s, v) => s.choice ? chosen(s, v) : s.log ? Math.log10(v) : v;
  const axis = s => {
    const [low, high] = s.range, none = low - .12 * (high - low), missing = full.some(p => !(s.name in p.params));
    const ticks = s.ticks.map(t => [place(s, t[0]), t[1]]).concat(missing ? [[none, "–"]] : []);
    return {label: s.name, range: [missing ? none : low, high],
            tickvals: ticks.map(t => t[0]), ticktext: ticks.map(t => t[1]),
            values: full.map(p => s.name in p.params ? place(s, p.params[s.name]) : none)};
  };
  const reached = key => ({label: D[key], values: full.map(p => p[key])});
  const dimensions = [...method.searched.map(axis), reached("x"), reached("y")];
  Object.assign(element("parallel").style, {minWidth: `${130 * dimensions.length}px`, height: "340px"});
  const line = {color: full.map(p => p.y), colorscale: "Cividis"};
  Plotly.react("parallel", [{type: "parcoords", dimensions, labelangle: -12, line}],
    {font: {...font, size: 11}, margin: {l: 60, r: 60, t: 70, b: 20}}, {...config, displayModeBar: false});
}

function chooseMethod(number) {
  const full = D.effects.filter(p => p.method === number);
  drawParams(D.methods[number], full);
  drawParallel(D.methods[number], full);
}

/* The lists and the slider of all points; what was chosen stays chosen. */
function drawChoices() {
  const every = everyPoint(), first = {};
  every.forEach((p, i) => { if (!(p.id in first)) first[p.id] = i; });
  const withClasses = every.filter((p, i) => Object.keys(p.robust).length && first[p.id] === i);
  for (const part of document.querySelectorAll(".more")) part.hidden = !withClasses.length;
  if (!withClasses.length) return;
  const list = element("trial"), slider = element("tradeoff"), before = list.value;
  const state = p => p.front ? "on the front" : p.state + (p.tau ? ", with offsets" : "");
  list.replaceChildren(...withClasses.map(p => new Option(`${p.trial < 0 ? nameOf(p) : p.id} (${state(p)})`, p.id)));
  list.onchange = () => choose(list.value);
  slider.max = Math.max(0, D.members.length - 1);
  slider.oninput = () => choose(D.members[Number(slider.value)]);
  element("slide").hidden = D.members.length < 2;
  choose([before, D.picked].find(id => withClasses.some(p => p.id === id)) ?? withClasses[0].id);
}

function drawEffects() {
  const methods = element("method"), before = Number(methods.value) || 0;
  if (!element("trial").value) return;
  methods.replaceChildren(...D.methods.map((m, i) => new Option(m.name, i)));
  methods.hidden = D.methods.length === 1;
  methods.onchange = () => chooseMethod(Number(methods.value));
  methods.value = before;
  for (const key of ["x", "y"]) element("name" + key).textContent = D[key];
  element("namec").textContent = D.y;
  chooseMethod(before);
}

function draw() {
  drawFront();
  drawChoices();
  drawEffects();
}
"""
