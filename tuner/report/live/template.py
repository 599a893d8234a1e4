"""Style, body and script of the live pages. The front itself is drawn by the script of `front_template`.

Every text from outside becomes a text node (`textContent`), never HTML.
"""

STYLE = """<style>
  .badge { display: inline-block; padding: 1px 10px; border-radius: 10px; background: #e8e8e8; font-weight: 600 }
  .badge.running { background: #d5efe5; color: #00573f } .badge.failed { background: #f9ded0; color: #a33c00 }
  .badge.finished { background: #d9e8f5; color: #004a76 }
  #top { display: flex; gap: 10px; align-items: center; flex-wrap: wrap; margin: 6px 0 }
  #tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px; margin: 8px 0 }
  .tile { border: 1px solid #ddd; border-radius: 8px; padding: 6px 10px; min-width: 0 }
  .tile b { display: block; font-size: 1.5em; line-height: 1.2; white-space: nowrap }
  .tile span { color: #555; font-size: .85em; line-height: 1.25; display: block }
  #bar, .bar { height: 6px; border-radius: 3px; background: #e8e8e8; overflow: hidden }
  #bar div, .bar div { height: 100%; background: #009E73; width: 0 }
  #columns { display: grid; grid-template: "front now" auto "weights now" 1fr / minmax(0, 1.9fr) minmax(0, 1fr);
             gap: 0 28px }
  #columns > :nth-child(1) { grid-area: front } #columns > :nth-child(2) { grid-area: now }
  #columns > :nth-child(3) { grid-area: weights }
  @media (max-width: 900px) { #columns { display: block } #tiles { grid-template-columns: repeat(2, minmax(0, 1fr)) }
                              .tile:last-child:nth-child(odd) { grid-column: 1 / -1 } }
  .trial { padding: 5px 0; border-bottom: 1px solid #eee; overflow-wrap: anywhere }
  .trial .head { display: flex; gap: 10px; flex-wrap: wrap } .trial .head > :last-child { margin-left: auto }
  .trial .bar { margin: 3px 0 }
  #curves { height: 230px }
  .weights { width: 100%; border-collapse: collapse } .weights td { white-space: normal; vertical-align: middle }
  .weights .bar { height: 8px; min-width: 40px } .weights .second div { background: #56B4E9 }
  .weights .first div { background: #0072B2 } .weights .number { text-align: right; width: 3em }
  #remark { display: flex; gap: 6px; flex-wrap: wrap; margin: 6px 0 } #remark input { flex: 1 1 12em; min-width: 0 }
  #remark input, button { font: inherit; padding: 3px 8px } .star { color: #a86f00 }
  #list a { font-weight: 600 } #list td { padding: 6px 14px 6px 0; vertical-align: top }
  @media (max-width: 600px) { #list :is(td, th):is(:nth-child(4), :nth-child(6)) { display: none } }
  #gone { color: #a33c00; font-weight: 600 }
</style>
"""

BODY = (
    STYLE
    + """<div id="top"><b id="name"></b><span id="state" class="badge"></span><span id="counts" class="small"></span>
<span id="gone" role="status"></span></div>
<div id="tiles"></div>
<div id="bar"><div></div></div>
<div id="columns">
<section>
@@FIGURE@@
@@WORDS@@
</section>
<section>
<h2>Running now</h2>
<div id="running"></div>
<p class="small" id="gpus"></p>
<h2><label for="metric">Epoch by epoch:</label> <select id="metric"></select></h2>
<p class="small" id="whose"></p>
<div id="curves"></div>
<h2>Latest results</h2>
<div id="latest"></div>
</section>
<section>
<h2>How much each parameter matters</h2>
<div id="weights"></div>
</section>
</div>
<h2>Notes and stars</h2>
<form id="remark"><select id="about" aria-label="trial"></select>
<input id="text" maxlength="2000" placeholder="a note, kept in the history" aria-label="note">
<button id="add" type="submit">Add</button><button id="star" type="button">Star</button></form>
<p class="small" id="said" role="status"></p>
<div id="remarks"></div>
@@DETAILS@@
<p class="small" id="links"></p>
<p class="small">Renewed from the search's files; nothing here slows the search. <span id="asof"></span></p>
"""
)

COMMON = r"""
const made = (tag, text, className) => Object.assign(document.createElement(tag), {textContent: text ?? "",
                                                                                    className: className ?? ""});
const lasting = s => s >= 5400 ? `${(s / 3600).toFixed(1)} h` : s >= 90 ? `${Math.round(s / 60)} min`
                     : `${Math.round(s)} s`;
const clock = t => new Date(1000 * t).toLocaleTimeString([], {hour: "2-digit", minute: "2-digit", hourCycle: "h23"});
const day = t => new Date(1000 * t).toLocaleDateString([], {month: "short", day: "numeric"});
const badge = (node, state) => { node.textContent = state; node.className = `badge ${state}`; };

/* Ask again and again, with a pause of so many seconds; longer where nobody looks. */
function again(ask, seconds) {
  let waiting, asking = false;
  const next = async () => {
    clearTimeout(waiting);
    if (asking) return;
    asking = true;
    try { await ask(); element("gone").textContent = ""; }
    catch (error) { element("gone").textContent = error.message === "Failed to fetch"
      ? "not connected: is tuner ui still running?" : error.message; }
    asking = false;
    waiting = setTimeout(next, 1000 * (document.hidden ? 15 : seconds));
  };
  document.addEventListener("visibilitychange", () => document.hidden || next());
  next();
  return next;
}

async function fetched(path, options) {
  const answer = await fetch(D.root + path, options), found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}
"""

SCRIPT = (
    COMMON
    + r"""
const HERE = D, API = `/api/search/${encodeURIComponent(D.search)}`, POLL_S = 1;
let picture = null, version = "", pictureOf = -1, latest = null, ahead = 0;  // of the server's clock, in seconds

async function renew() {
  const now = await fetched(`${API}?seen=${encodeURIComponent(version)}&picture=${pictureOf}`, {cache: "no-store"});
  ahead = now.clock - Date.now() / 1000;
  if (now.picture) Object.assign(picture = now.picture, HERE);
  if (now.importances) drawWeights(now.importances);
  drawGpus(now);
  if (!now.same) {
    latest = now;
    drawNow(now);
    if (picture) drawPicture(now, Boolean(now.picture));
  }
  [version, pictureOf] = [now.version, now.picture_of];
  element("asof").textContent = now.problem ? `The picture cannot be made: ${now.problem}` : picture ? "" :
    "The picture is being made; of thousands of trials that takes a minute.";
  drawTimes();
}
const serverTime = () => Date.now() / 1000 + ahead;

/* What the slower picture shows, with what has come since: new points, the front, its slider. */
function drawPicture(now, whole) {
  const fresh = new Set(now.points.map(p => p.trial)), on = new Set(now.front.members);
  D = {...picture, points: [...picture.points.filter(p => !fresh.has(p.trial)), ...now.points]};
  for (const p of D.points) {
    p.front = on.has(p.id);
    p.style = p.front ? "front" : p.tau ? "curve" : p.state;
    p.label ??= p.front ? p.id : "";
  }
  D.members = now.front.members.filter(id => D.points.some(p => p.id === id));
  const best = D.points.filter(p => p.front);
  D.range = picture.range.map(([low, high], i) => [low, Math.max(high, ...best.map(p => (i ? p.y : p.x) + .01))]);
  if (now.front.stairs) D.stairs = picture.stairs.map(s => ({...s, x: now.front.stairs[0], y: now.front.stairs[1]}));
  if (!whole) { drawFront(); drawChoices(); return; }
  draw();
  element("gain").innerText = D.gain;
  element("note").textContent = D.note;
  element("effectsof").textContent = D.effectsOf;
  element("larger").textContent = D.effectsOf === "previews" ? "those that trained in full" : "on the front";
  drawAbout();
}

function tile(value, label) {
  const box = made("div", "", "tile");
  box.append(made("b", value), made("span", label));
  return box;
}

function drawNow(now) {
  element("name").textContent = HERE.search;
  document.title = `${HERE.search}: ${now.ended} of ${now.total}, ${now.state}`;
  badge(element("state"), now.state);
  element("counts").textContent = now.counts + (now.waiting ? `; ${now.waiting} asked for` : "");
  element("bar").firstElementChild.style.width = `${100 * Math.min(1, now.ended / Math.max(1, now.total))}%`;
  const [first, ...others] = now.front.best, best = [...others.reverse(), first];
  const bill = now.bill, spent = bill.trainings.toFixed(1);
  const whole = (bill.expected * bill.trainings / bill.trained || 0).toFixed(1);
  element("tiles").replaceChildren(
    ...best.map(b => tile(text3(b.value), `best ${b.name} on the front`)),
    tile(`${now.ended} of ${now.total}`, "trials have ended"),
    timeTile(now),
    tile(spent, now.state === "finished" || !bill.trained ? "trainings' worth spent"
                                                            : `trainings' worth spent, of about ${whole}`));
  element("tiles").title = `so far: ${bill.words}\nexpected: ${bill.expected_words}`;
  drawRunning(now);
  drawCurves(now);
  drawLatest(now);
  drawRemarks(now);
}

function timeTile(now) {
  if (now.state === "running") {
    if (now.seconds_left == null) return tile("–", "time left: not known yet");
    if (!now.seconds_left) return tile("soon", "all epochs that were expected are trained");
    const end = now.clock + now.seconds_left, far = now.seconds_left > 20 * 3600;
    return tile(lasting(now.seconds_left), `left, until about ${far ? day(end) + " " : ""}${clock(end)}`);
  }
  const took = now.latest_event - now.began;
  return took > 0 ? tile(lasting(took), "from the first start to the last event") : tile("–", "nothing has started");
}

const valuesOf = t => Object.entries(t.values).filter(([, v]) => v != null)
                            .map(([k, v]) => `${k} ${v.toFixed(3)}`).join(" · ");

function drawRunning(now) {
  const running = now.state === "running" ? now.running : [];
  element("running").replaceChildren(...running.map(t => {
    const box = made("div", "", "trial"), head = made("div", "", "head"), bar = made("div", "", "bar");
    const where = made("div", "", "small"), since = made("span", "", "since");
    since.dataset.time = t.began;
    head.append(made("b", t.label + (t.method ? ` (${t.method})` : "")),
                made("span", `${t.what}, epoch ${t.epoch} of ${t.of}`));
    bar.append(made("div"));
    bar.firstElementChild.style.width = `${100 * t.epoch / t.of}%`;
    where.append(t.host ? `on ${t.host}, for ` : "for ", since, valuesOf(t) ? " · " + valuesOf(t) : "");
    box.append(head, bar, where);
    return box;
  }));
  if (!running.length) element("running").append(made("p", now.state === "running" ? "Nothing trains at the moment." :
    `Nothing: the search is ${now.state}.`, "small"));
}

function drawGpus(now) {
  const gpus_ = latest?.bill.gpus ?? "0", share = Number(gpus_) === 0 ? "" : `A trial has ${gpus_} of a GPU. `;
  const nodes = {...latest?.nodes, ...(now.gpus.length ? {[now.machine]: now.gpus} : {})};
  const words = g => `${g.index} ${g.name}: ${g["utilization.gpu"] ?? "?"} %, ` +
    `${((g["memory.used"] ?? 0) / 1024).toFixed(0)} of ${((g["memory.total"] ?? 0) / 1024).toFixed(0)} GiB`;
  element("gpus").textContent = share + Object.entries(nodes).map(([host, gpus]) =>
    `GPUs of ${host}: ${gpus.map(words).join("; ")}`).join(". ");
}

function drawCurves(now) {
  const names = [...new Set(now.curves.flatMap(c => Object.keys(c.metrics)))], select = element("metric");
  if (select.dataset.names !== names.join()) {
    const before = select.value;
    select.replaceChildren(...names.map(n => new Option(n, n)));
    select.dataset.names = names.join();
    select.value = names.includes(before) ? before : names[1] ?? names[0] ?? "";
  }
  select.onchange = () => drawCurves(latest);
  const some = now.curves.filter(c => c.metrics[select.value]), alive = some.some(c => c.running);
  element("whose").textContent = !some.length ? "No trial has finished an epoch yet."
    : alive ? "Trials that train in full at the moment, on val." : "The latest trials that trained in full, on val.";
  element("curves").hidden = !some.length;
  if (!some.length) return;
  const palette = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  Plotly.react("curves", some.map((c, i) => ({x: c.epochs, y: c.metrics[select.value], name: asText(c.label),
    mode: "lines+markers", marker: {size: 4, color: palette[i % 6]},
    line: {width: 2, color: palette[i % 6], dash: ["solid", "dash", "dot"][Math.floor(i / 6) % 3]}})),
    {font: {...font, size: 11}, margin: {l: 44, r: 6, t: 6, b: 34}, hovermode: "closest", plot_bgcolor: "#fafafa",
     uirevision: select.value, showlegend: some.length > 1 && some.length < 7,
     legend: {orientation: "h", y: 1.02, yanchor: "bottom", font: {size: 10}},
     xaxis: {title: {text: "epoch"}, rangemode: "tozero"}, yaxis: {automargin: true}},
    {...config, displayModeBar: false});
}

function drawLatest(now) {
  element("latest").replaceChildren(...now.latest.map(t => {
    const box = made("div", "", "trial"), head = made("div", "", "head"), ago = made("span", "", "ago small");
    ago.dataset.time = t.ended;
    const outcome = t.front ? made("span", "on the front", "badge finished") : made("span", t.state);
    head.append(made("b", t.label), outcome, ago);
    box.append(head, made("div", valuesOf(t) || t.reason, "small"));
    return box;
  }));
  if (!now.latest.length) element("latest").append(made("p", "No trial has ended yet.", "small"));
}

function drawWeights(all) {
  const percent = v => v == null ? "–" : `${Math.round(100 * v)} %`;
  element("weights").replaceChildren(...all.flatMap(w => {
    const parts = all.length > 1 ? [made("b", w.method)] : [];
    if (w.ped_anova && w.fanova) {
      const table = made("table", "", "weights"), head = table.insertRow();
      for (const [text, span] of [["", 1], ["PED-ANOVA", 2], ["fANOVA", 2]])
        head.append(Object.assign(made("th", text), {colSpan: span}));
      for (const name of Object.keys(w.ped_anova)) {
        const row = table.insertRow();
        row.insertCell().textContent = name;
        for (const [share, which] of [[w.ped_anova[name], "first"], [w.fanova[name], "second"]]) {
          const bar = made("div", "", `bar ${which}`), number = row.insertCell();
          [number.textContent, number.className] = [percent(share), "number"];
          bar.append(made("div"));
          bar.firstElementChild.style.width = `${100 * (share ?? 0)}%`;
          row.insertCell().append(bar);
        }
      }
      parts.push(table);
    }
    return [...parts, made("p", w.words, "small")];
  }));
}

function drawAbout() {
  const about = element("about"), before = about.value;
  const known = [...D.points, ...latest.running].map(t => t.trial);
  const trials = [...new Set(known)].sort((a, b) => b - a);
  about.replaceChildren(...trials.map(n => new Option(n < 0 ? "no search" : `trial ${n}`, n)));
  if (trials.map(String).includes(before)) about.value = before;
}

function drawRemarks(now) {
  element("remarks").replaceChildren(...now.remarks.map(r => {
    const box = made("div", "", "trial"), head = made("div");
    head.append(made("b", r.label), made("span", r.stars.length ? ` ★ ${r.stars.join(", ")}` : "", "star"));
    box.append(head, ...r.notes.map(n => {
      const line = made("div", n.text);
      line.append(made("span", ` – ${n.by}, ${day(n.time)} ${clock(n.time)}`, "small"));
      return line;
    }));
    return box;
  }));
  if (!now.remarks.length) element("remarks").append(made("p", "None yet. They are kept in the search's history, " +
    "with who and when; tuner note writes them too.", "small"));
  drawStar();
}

const starred = () => (latest?.remarks ?? []).some(r => String(r.trial) === element("about").value
                                                        && r.stars.includes(HERE.user));
const drawStar = () => { element("star").textContent = starred() ? "Unstar" : "Star"; };

async function remark(about) {
  try {
    const said = await fetched(`${API}/note`, {method: "POST", body: JSON.stringify(about),
      headers: {"Content-Type": "application/json", "X-Tuner-Token": HERE.key}});
    element("said").textContent = said.done ? said.words : "Asked for: the search's driver takes it up within seconds.";
    element("text").value = "";
    renewNow();
  } catch (error) { element("said").textContent = error.message; }
}
element("remark").onsubmit = event => {
  event.preventDefault();
  const text = element("text").value.trim();
  if (text) remark({trial: Number(element("about").value), text});
};
element("star").onclick = () => remark({trial: Number(element("about").value), star: !starred()});
element("about").onchange = drawStar;

/* The trial that is chosen in the picture is the one that a note is about. */
const chosenOnly = choose;
choose = id => {
  chosenOnly(id);
  const point = everyPoint().find(p => p.id === id);
  if (point && document.activeElement !== element("text")) element("about").value = point.trial;
  drawStar();
};

function drawTimes() {
  for (const node of document.querySelectorAll(".since, .ago")) {
    const text = lasting(Math.max(0, serverTime() - node.dataset.time));
    node.textContent = node.classList.contains("ago") ? `${text} ago` : text;
  }
}

for (const [text, address] of [["all searches", HERE.root + "/"], ...Object.entries(HERE.links)]) {
  const link = Object.assign(made("a", text), {href: address});
  element("links").append(element("links").firstChild ? " · " : "", link);
}
for (const part of document.querySelectorAll(".more")) part.hidden = true;
const renewNow = again(renew, POLL_S);
"""
)

LIST_BODY = (
    STYLE
    + """<p id="gone" role="status"></p>
<div class="wide"><table id="list"></table></div>
"""
)

LIST_SCRIPT = (
    COMMON
    + r"""
again(async () => {
  const rows = await fetched("/api/searches", {cache: "no-store"}), table = element("list");
  table.replaceChildren();
  const head = table.insertRow();
  for (const name of ["search", "state", "trials", "method", "data", "begun"]) head.append(made("th", name));
  for (const row of rows) {
    const line = table.insertRow();
    const link = Object.assign(made("a", row.search), {href: `${D.root}/search/${encodeURIComponent(row.search)}`});
    line.insertCell().append(row.state === "unreadable" ? row.search : link);
    const state = made("span");
    badge(state, row.state);
    line.insertCell().append(state);
    const begun = row.created ? `${day(row.created)} ${clock(row.created)}` : "";
    for (const text of [row.trials, row.method, row.dataset, begun])
      line.insertCell().textContent = text ?? "";
    if (row.note) line.cells[1].append(made("div", row.note, "small"));
  }
  if (!rows.length) table.insertRow().insertCell().textContent = "This home has no search yet: tuner search makes one.";
}, 3);
"""
)
