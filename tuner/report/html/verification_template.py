"""Body and script of the page that shows the validation front beside the verified front. The frame is `page`'s."""

BODY = """@@SENTENCES@@
<div id="front"></div>
<div class="wide">@@TABLE@@</div>
<div class="wide">@@GAIN@@</div>
<h2><label for="trial">Robust accuracy of each class on test with its 95 % interval,</label>
<select id="trial"></select></h2>
<div id="classes"></div>
<p class="small">@@NOTE@@</p>
"""

SCRIPT = r"""
const [blue, grey, vermillion, purple, black, green] = D.colours;
const error = (some, i) => some.every(p => p.ci[i]) ? {type: "data", symmetric: false, thickness: 1, width: 3,
  array: some.map(p => p.ci[i][1] - p.test[i]), arrayminus: some.map(p => p.test[i] - p.ci[i][0])} : undefined;
const moves = {x: [], y: [], mode: "lines", line: {color: grey, width: 1, dash: "dot"}, hoverinfo: "skip",
               showlegend: false, meta: "moves"};
for (const p of D.points.filter(p => p.role === "front")) {
  moves.x.push(p.val[0], p.test[0], null);
  moves.y.push(p.val[1], p.test[1], null);
}
const places = (some, split) => ({x: some.map(p => p[split][0]), y: some.map(p => p[split][1]), mode: "markers+text",
                                  text: some.map(p => asText(p.tag)), customdata: some.map(p => p.id)});
const ours = D.points.filter(p => p.role === "front"), paper = D.points.filter(p => p.role === "paper"),
      plain = D.points.filter(p => p.role === "no_search"), foreign = D.points.filter(p => p.role === "model");
const before = {...places(ours, "val"), textposition: "top right", meta: "val", name: "validation front (searched)",
                marker: {color: grey, size: 11, symbol: "circle-open", line: {width: 2}}};
const after = (some, meta, name, color, symbol) => {
  return {...places(some, "test"), name, meta, textposition: "bottom right",
          visible: some.length > 0, marker: {color, size: 11, symbol},
          error_x: error(some, 0), error_y: error(some, 1)};
};
const spread = (some, i) => ({type: "data", array: some.map(p => p.seeds.std[i] ?? 0), thickness: 1, width: 3});
const anew = D.points.filter(p => p.seeds);
const retrained = anew.length ? [{x: anew.map(p => p.seeds.mean[0]), y: anew.map(p => p.seeds.mean[1]), meta: "anew",
  name: "trained anew (test), ± over seeds", mode: "markers+text", textposition: "top left",
  text: anew.map(p => asText(p.tag)), customdata: anew.map(p => p.id),
  marker: {color: purple, size: 11, symbol: "diamond-open", line: {width: 2}},
  error_x: spread(anew, 0), error_y: spread(anew, 1)}] : [];
drawPlane([moves, before, after(ours.filter(p => p.on), "test", "verified front (test)", blue, "circle"),
           after(ours.filter(p => !p.on), "fell", "fell off (test)", vermillion, "x"),
           after(paper, "paper", "default setting (test)", black, "star"),
           after(plain, "plain", "no search (test)", green, "square"),
           after(foreign, "model", "model (test)", blue, "diamond"), ...retrained], {});
const list = element("trial");
D.points.forEach(p => list.add(new Option(p.name, p.id)));
function choose(id) {
  list.value = id;
  const p = D.points.find(q => q.id === id), found = Object.entries(p.classes);
  drawClasses([{name: p.name, color: blue, y: Object.fromEntries(found.map(([name, c]) => [name, c[0]])),
    error_y: {type: "data", symmetric: false, array: found.map(([, c]) => c[2] - c[0]),
              arrayminus: found.map(([, c]) => c[0] - c[1])}}]);
}
list.onchange = () => choose(list.value);
element("front").on("plotly_click", e => choose(e.points[0].customdata));
choose(D.points[0].id);
"""
