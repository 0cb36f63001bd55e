"use strict";
// Draws the table and the curves of the JSON in the page. What is chosen lives in the address (#state=failed&q=d16&sort=
// loss), so that it outlives the reload by which the page follows its file.
const data = JSON.parse(document.getElementById("data").textContent);
const MOST_ROWS = 500;
const svgns = "http://www.w3.org/2000/svg";
const $ = id => document.getElementById(id);
const make = (name, attributes = {}, text) => {
  const it = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  if (text !== undefined) it.textContent = text;
  return it;
};
const draw = (name, attributes, text) => {
  const it = document.createElementNS(svgns, name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  if (text !== undefined) it.textContent = text;
  return it;
};

// ---------------------------------------------------------------------------------------------------------- numbers
const big = n => {
  if (n === null || n === undefined) return "";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (n >= size) return +(n / size).toPrecision(3) + unit;
  return String(Math.round(n));
};
const lasting = s => {
  if (s === null || s === undefined) return "";
  const m = Math.round(s / 60);
  if (s < 90) return Math.round(s) + " s";
  if (m < 90) return m + " min";
  if (m < 2880) return Math.floor(m / 60) + " h " + String(m % 60).padStart(2, "0") + " min";
  return Math.floor(m / 1440) + " d " + Math.floor(m % 1440 / 60) + " h";
};
const RAISED = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b";
const power = n => {
  if (n >= 0.01 && n < 1000) return String(+n.toPrecision(3));
  const e = Math.floor(Math.log10(n) + 1e-9), m = +(n / 10 ** e).toPrecision(2);
  return (m === 1 ? "" : m + "\u00b7") + "10" + [...String(e)].map(c => RAISED["0123456789-".indexOf(c)]).join("");
};

// ------------------------------------------------------------------------------------------------- what is chosen
const chosen = new URLSearchParams(location.hash.slice(1));
const choose = (key, value) => {
  if (value) chosen.set(key, value); else chosen.delete(key);
  history.replaceState(null, "", "#" + chosen.toString());
  render();
};
const wanted = run => {
  const state = chosen.get("state"), query = (chosen.get("q") || "").toLowerCase();
  if (state && run.state !== state && !(state === "alarm" && run.alarms.length)) return false;
  if (chosen.get("cause") && run.cause !== chosen.get("cause")) return false;
  return query.split(/\s+/).every(word => run.text.includes(word));
};

// --------------------------------------------------------------------------------------------------------- the table
const HAS_ARMS = data.runs.some(r => r.arm);
const COLUMNS = [
  ["state", "state", r => data.order.indexOf(r.state)], ["run", "run_id", r => r.run_id],
  ...(HAS_ARMS ? [["arm", "arm", r => r.arm]] : []), ["arch", "arch", r => r.arch],
  ["size", "size", r => r.size.replace(/\d+/g, digits => digits.padStart(9, "0"))],
  ["seed", "seed", r => r.seed], ["role", "role", r => r.role], ["step", "step", r => r.step / r.total_steps],
  ["tokens/s", "speed", r => r.tokens_per_second ?? -1], ["time left", "left", r => r.seconds_left ?? -1],
  ["attempts", "attempts", r => r.attempts], ["loss (nats)", "loss", r => r.loss ?? Infinity],
];
const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;
const sorted = runs => {
  const [name, down] = [(chosen.get("sort") || "").replace("-", ""), (chosen.get("sort") || "").startsWith("-")];
  const column = COLUMNS.find(c => c[1] === name);
  if (!column) return runs;
  return [...runs].sort((a, b) => (down ? -1 : 1) * compare(column[2](a), column[2](b)));
};
const cells = run => {
  const tr = make("tr", {"data-run": run.run_id});
  const add = (text, kind) => tr.appendChild(make("td", kind ? {class: kind} : {}, text));
  add("").append(make("span", {class: "state", style: `--s:var(--${run.state})`}, run.state));
  const silent = run.state === "stale" ? `silent for ${lasting(run.silent_seconds)}, ` : "";
  const why = `${run.cause ? run.cause + ": " : ""}${silent}${run.error || run.where}`;
  const named = add(run.run_id);
  if (why) named.append(make("div", {class: "why"}, why));
  for (const text of [...(HAS_ARMS ? [run.arm] : []), run.arch, run.size]) add(text);
  add(run.seed, "number");
  add(run.role);
  const step = add("", "number");
  if (run.attempts) step.append(make("progress", {max: run.total_steps, value: run.step}), `${run.step}/${run.total_steps}`);
  else step.textContent = `of ${run.total_steps}`;
  add(run.state === "pending" ? "" : big(run.tokens_per_second), "number");
  add(lasting(run.seconds_left), "number");
  add(run.attempts || "", "number");
  add(run.loss === null ? "" : run.loss.toPrecision(4), "number");
  return tr;
};
const drawTable = runs => {
  const head = make("tr");
  for (const [title, key] of COLUMNS) {
    const about = key === "loss" ? "held out when done, else of the newest training row" : `sort by ${title}`;
    const th = make("th", {"data-key": key, scope: "col", tabindex: 0, title: about}, title), sort = chosen.get("sort");
    if (sort === key || sort === "-" + key) th.setAttribute("aria-sort", sort === key ? "ascending" : "descending");
    th.onclick = () => choose("sort", sort === key ? "-" + key : key);
    th.onkeydown = event => { if (event.key === "Enter") th.onclick(); };
    head.append(th);
  }
  const most = chosen.get("all") ? runs.length : MOST_ROWS, shown = sorted(runs).slice(0, most);
  $("head").replaceChildren(head);
  $("rows").replaceChildren(...shown.map(cells));
  const first = shown.length < runs.length ? `, the first ${shown.length} in this table` : "";
  $("shown").textContent = `${runs.length} of ${data.runs.length} runs${first}`;
  $("all").hidden = shown.length === runs.length;
};

// -------------------------------------------------------------------------------------------------------- the curves
const groupOf = HAS_ARMS ? r => r.arm : r => r.arch;
const groups = [...new Set(data.runs.map(groupOf))].sort();
const colour = group => `--s:var(--c${groups.indexOf(group) % 8})`;
const AXES = {
  tokens: ["training tokens (positions)", (r, step) => step * r.tokens_per_step],
  flops: ["training compute of the whole path (FLOPs)", (r, step) => step * r.flops_per_step],
  step: ["optimizer step", (r, step) => step],
};
const W = 1180, H = 520, L = 76, R = 18, T = 16, B = 58;
let dots = [];
const ticks = (low, high) => {
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (let m = 1; m < 10; m++) if (m * 10 ** e >= low * 0.9999 && m * 10 ** e <= high * 1.0001) found.push([m, m * 10 ** e]);
  return found;
};
const labelled = (marks, room) => {  // powers of ten first; between them only where there is place
  const tens = marks.filter(([m]) => m === 1);
  if (tens.length > 2) return tens;
  const some = marks.filter(([m]) => [1, 2, 5].includes(m));
  const found = some.length > 2 ? some : marks;
  return found.filter((_, i) => i % Math.ceil(found.length / room) === 0);
};
const leaving = (run, curve) => {  // the trunk's newest point that a branch has in common with it
  const trunk = data.curves[run.parent];
  if (!trunk || !curve.kept[0].length) return null;
  const i = trunk.kept[0].findLastIndex(step => step <= run.parent_step);
  return i < 0 ? null : [trunk.kept[0][i], trunk.kept[1][i]];
};
const drawChart = runs => {
  const box = $("chart"), axis = AXES[chosen.get("x")] || AXES.tokens;
  const lines = runs.filter(r => data.curves[r.run_id]).map(r => [r, data.curves[r.run_id]]);
  box.querySelector("svg")?.remove();
  dots = [];
  $("nocurves").hidden = lines.length > 0;
  if (!lines.length) return;
  const all = lines.flatMap(([r, c]) => [c.kept, ...c.lost].flatMap(([s, l]) => s.map((step, i) => [axis[1](r, step), l[i]])));
  let [x0, x1, y0, y1] = [Infinity, 0, Infinity, 0];
  for (const [x, y] of all) { if (x < x0) x0 = x; if (x > x1) x1 = x; if (y < y0) y0 = y; if (y > y1) y1 = y; }
  [x0, x1, y0, y1] = [x0 / 1.06, x1 * 1.06, y0 / 1.04, y1 * 1.04];
  const px = x => L + (W - L - R) * Math.log(x / x0) / Math.log(x1 / x0);
  const py = y => T + (H - T - B) * (1 - Math.log(y / y0) / Math.log(y1 / y0));
  const svg = draw("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `training loss of ${lines.length} runs against ${axis[0]}`});
  const xt = ticks(x0, x1), yt = ticks(y0, y1);
  for (const [m, x] of xt) svg.append(draw("line", {class: m === 1 ? "grid" : "grid minor", x1: px(x), x2: px(x), y1: T, y2: H - B}));
  for (const [m, y] of yt) svg.append(draw("line", {class: m === 1 ? "grid" : "grid minor", x1: L, x2: W - R, y1: py(y), y2: py(y)}));
  for (const [, x] of labelled(xt, 9)) svg.append(draw("text", {x: px(x), y: H - B + 20, "text-anchor": "middle"}, power(x)));
  for (const [, y] of labelled(yt, 9)) svg.append(draw("text", {x: L - 8, y: py(y) + 5, "text-anchor": "end"}, power(y)));
  svg.append(draw("text", {x: (L + W - R) / 2, y: H - 10, "text-anchor": "middle"}, axis[0]));
  svg.append(draw("text", {x: 18, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 18 ${(T + H - B) / 2})`}, "training loss (nats per token)"));
  for (const [run, curve] of lines) {
    const group = draw("g", {"data-run": run.run_id, style: colour(groupOf(run))});
    const path = ([steps, losses], kind) => {
      const at = steps.map((step, i) => [px(axis[1](run, step)), py(losses[i])]);
      for (const [x, y] of at) dots.push([x, y, run, kind]);
      if (at.length) group.append(draw("path", {class: kind, d: "M" + at.map(([x, y]) => x.toFixed(1) + " " + y.toFixed(1)).join("L")}));
      if (at.length === 1) group.append(draw("circle", {cx: at[0][0], cy: at[0][1], r: 2.5}));
    };
    for (const part of curve.lost) path(part, "lost");
    const from = leaving(run, curve);
    if (from) path([[from[0], curve.kept[0][0]], [from[1], curve.kept[1][0]]], "joint");
    path(curve.kept, "kept");
    for (const step of curve.resumed_at) {
      const i = curve.kept[0].indexOf(step);
      if (i >= 0) group.append(draw("circle", {class: "resumed", cx: px(axis[1](run, step)), cy: py(curve.kept[1][i]), r: 4}));
    }
    svg.append(group);
  }
  svg.addEventListener("mousemove", point);
  svg.addEventListener("mouseleave", () => name(null));
  box.prepend(svg);
};
const point = event => {
  const area = event.currentTarget.getBoundingClientRect(), k = W / area.width;
  const [x, y] = [(event.clientX - area.left) * k, (event.clientY - area.top) * k];
  let best = null, least = 900;
  for (const dot of dots) {
    const d = (dot[0] - x) ** 2 + (dot[1] - y) ** 2;
    if (d < least) [best, least] = [dot, d];
  }
  name(best, event.clientX - area.left, event.clientY - area.top, area.width);
};
const name = (dot, x, y, width) => {
  const tip = $("tip"), run = dot && dot[2];
  for (const it of document.querySelectorAll("#chart g")) it.classList.toggle("dim", !!run && it.dataset.run !== run.run_id);
  for (const it of document.querySelectorAll("#rows tr")) it.classList.toggle("at", !!run && it.dataset.run === run.run_id);
  tip.style.display = run ? "block" : "none";
  if (!run) return;
  const also = dot[3] === "lost" ? "\nlost work: a later attempt made these steps again" : "";
  tip.textContent = `${run.run_id}\n${run.state}, step ${run.step}/${run.total_steps}, ${run.attempts} attempt${run.attempts === 1 ? "" : "s"}${also}`;
  tip.style.left = (x > width / 2 ? Math.max(0, x - tip.offsetWidth - 14) : x + 14) + "px";
  tip.style.top = y + 14 + "px";
};
const drawLegend = () => {
  const line = (style, text, kind = "") => {
    const it = make("span");
    it.append(make("i", {style, class: kind}), text);
    return it;
  };
  const named = groups.map(group => line(colour(group), group));
  const lost = Object.values(data.curves).some(c => c.lost.length), resumed = Object.values(data.curves).some(c => c.resumed_at.length);
  if (resumed) named.push(make("span", {}, "\u25cb a later attempt went on"));
  if (lost) named.push(line("--s:var(--soft)", "lost work, made again", "lost"));
  $("legend").replaceChildren(...named);
};

// --------------------------------------------------------------------------------------------------- all of it, again
const render = () => {
  const runs = data.runs.filter(wanted);
  drawTable(runs);
  drawChart(runs);
  for (const it of document.querySelectorAll(".counts a")) it.classList.toggle("on", it.dataset.state === (chosen.get("state") || ""));
};
let touched = -Infinity;
const again = () => {
  if (performance.now() - touched < 2500 || String(getSelection())) return;  // somebody is reading or typing
  sessionStorage.setItem("at", String(scrollY));
  location.reload();
};
const start = () => {
  for (const run of data.runs) run.text = [run.run_id, run.arm, run.arch, run.size, run.role, run.state, run.cause, run.error, run.where].join(" ").toLowerCase();
  for (const it of document.querySelectorAll(".counts a"))
    it.onclick = event => { event.preventDefault(); choose("state", chosen.get("state") === it.dataset.state ? "" : it.dataset.state); };
  $("q").value = chosen.get("q") || "";
  $("q").oninput = () => choose("q", $("q").value);
  $("x").value = chosen.get("x") in AXES ? chosen.get("x") : "tokens";
  $("x").onchange = () => choose("x", $("x").value);
  $("all").onclick = () => choose("all", "1");
  for (const kind of ["mousemove", "keydown", "wheel", "touchstart"]) addEventListener(kind, () => { touched = performance.now(); }, {passive: true});
  drawLegend();
  render();
  scrollTo(0, Number(sessionStorage.getItem("at") || 0));
  if (data.refresh_seconds) setInterval(again, data.refresh_seconds * 1000);
};
start();
