"use strict";
// The grid of problems and runs, and the reader that opens from it. Nothing of a run is ever parsed
// as a part of this page: texts are put in as text, and of rendered replies only known elements.

const data = JSON.parse(document.getElementById("data").textContent);
const RIGHT = 1, CUT_OFF = 2, UNREAD = 4, FAILED = 8;
const PAGE = 120; // rows drawn at once
const MATHML = "http://www.w3.org/1998/Math/MathML";
const allowed = {
  html: new Set(data.allowed.html),
  math: new Set(data.allowed.math),
  attributes: new Set(data.allowed.attributes),
};

const rows = data.problems.map(([id, gold, groups, text, answers, cells, block, place], number) => {
  const samples = cells.map((letters) => Array.from(letters, (each) => each.charCodeAt(0) - 64));
  const shares = samples.map((each) =>
    each.length ? each.filter((state) => state & RIGHT).length / each.length : null);
  const known = shares.filter((share) => share !== null);
  return {
    number, id, gold, groups, text, samples, shares, block, place,
    hay: [id, text, ...answers].join("\n").toLowerCase(),
    differs: Math.max(...known) - Math.min(...known),
    share: known.reduce((sum, share) => sum + share, 0) / known.length,
  };
});

const has = (row, test) => row.samples.some((each) => each.some(test));
const FILTERS = {
  all: ["All", () => true, () => false],
  differ: ["Runs differ", (row) => row.differs > 0, () => false],
  wrong: ["Wrong", (row) => has(row, FILTERS.wrong[2]), (state) => !(state & RIGHT)],
  cut: ["Token limit", (row) => has(row, FILTERS.cut[2]), (state) => state & CUT_OFF],
  unread: ["Right value, not read", (row) => has(row, FILTERS.unread[2]), (state) => state & UNREAD],
  error: ["Errors", (row) => has(row, FILTERS.error[2]), (state) => state & FAILED],
};
const SORTS = {
  differ: ["where runs differ", (a, b) => b.differs - a.differs || a.share - b.share],
  hard: ["hardest first", (a, b) => a.share - b.share],
  easy: ["easiest first", (a, b) => b.share - a.share],
  name: ["by name", (a, b) => a.id.localeCompare(b.id, "en", { numeric: true })],
};

const chosen = { f: "all", q: "", g: "", s: "differ", p: null };
const find = (name) => document.getElementById(name);
const reader = find("reader"), body = find("grid-body"), search = find("search");
let shown = [], drawn = 0, at = 0;
const samplesOpen = new Map(); // by run, the sample that was chosen by hand
const blocks = new Map();

function make(name, given = {}, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "share") element.style.setProperty("--share", value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...inside);
  return element;
}

// ---- rendered replies ------------------------------------------------------------------------

function copy(node) {
  if (node.nodeType === Node.TEXT_NODE) return [document.createTextNode(node.data)];
  if (node.nodeType !== Node.ELEMENT_NODE) return [];
  const inside = [...node.childNodes].flatMap(copy);
  const math = node.namespaceURI === MATHML;
  if (!(math ? allowed.math : allowed.html).has(node.localName)) return inside;
  const element = document.createElementNS(math ? MATHML : "http://www.w3.org/1999/xhtml", node.localName);
  for (const { name, value } of math ? node.attributes : []) {
    if (allowed.attributes.has(name)) element.setAttribute(name, value);
  }
  element.append(...inside);
  return [element];
}

const show = (html) => [...new DOMParser().parseFromString(html, "text/html").body.childNodes].flatMap(copy);

// ---- the grid --------------------------------------------------------------------------------

function choose() {
  const fits = FILTERS[chosen.f][1], words = chosen.q.toLowerCase().split(/\s+/).filter(Boolean);
  const [group, value] = chosen.g ? JSON.parse(chosen.g) : [null, null];
  shown = rows.filter((row) => fits(row) && (group === null || row.groups[group] === value)
    && words.every((word) => row.hay.includes(word)));
  shown.sort((a, b) => SORTS[chosen.s][1](a, b) || a.number - b.number);
  body.replaceChildren();
  drawn = 0;
  at = 0;
  grow();
  find("count").textContent = shown.length === rows.length
    ? `${rows.length.toLocaleString("en")} problems`
    : `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} problems`;
  for (const button of document.querySelectorAll("[data-filter]")) {
    button.setAttribute("aria-pressed", String(button.dataset.filter === chosen.f));
  }
  mark(false);
}

function grow() {
  const next = shown.slice(drawn, drawn + PAGE);
  body.append(...next.map((row, place) => drawRow(row, drawn + place)));
  drawn += next.length;
  find("more").hidden = drawn >= shown.length;
}

function drawRow(row, place) {
  return make("tr", { "data-place": place, onclick: () => open(place) },
    make("th", { scope: "row" }, make("button", { type: "button", tabindex: -1 }, row.id),
      make("span", { class: "snippet" }, row.text)),
    make("td", { class: "gold" }, ...show(row.gold)),
    ...row.samples.map((samples, run) => drawCell(samples, row.shares[run])));
}

const MARKS = [[CUT_OFF, "cut off", "⊣"], [UNREAD, "right value, not read", "≈"], [FAILED, "error", "!"]];

function drawCell(samples, share) {
  if (share === null) return make("td", { class: "none" }, "–");
  const right = samples.filter((state) => state & RIGHT).length;
  const told = [`${right} of ${samples.length} right`], marks = [];
  for (const [bit, words, sign] of MARKS) {
    const count = samples.filter((state) => state & bit).length;
    if (count) { told.push(`${count} ${words}`); marks.push(sign); }
  }
  const text = samples.length === 1 ? (right ? "✓" : "✗") : `${right}/${samples.length}`;
  return make("td", { class: "cell", share, title: told.join(", ") },
    make("span", {}, text), marks.length ? make("span", { class: "marks" }, marks.join("")) : "");
}

function mark(scroll = true) {
  body.querySelector("tr.at")?.classList.remove("at");
  const row = body.children[at];
  row?.classList.add("at");
  if (scroll) row?.scrollIntoView({ block: "nearest" });
}

function move(by) {
  if (!shown.length) return;
  at = Math.min(Math.max(at + by, 0), shown.length - 1);
  while (at >= drawn) grow();
  mark();
  if (reader.open) open(at);
}

// ---- the reader ------------------------------------------------------------------------------

async function unpack(block) {
  if (!blocks.has(block)) {
    if (blocks.size > 40) blocks.clear();
    const packed = Uint8Array.from(atob(find(`block-${block}`).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    blocks.set(block, new Response(stream).json());
  }
  return blocks.get(block);
}

async function open(place) {
  at = place;
  const row = shown[at];
  chosen.p = row.number;
  mark();
  save();
  const told = (await unpack(row.block))[row.place];
  if (chosen.p !== row.number) return; // another one was opened meanwhile
  find("reader-name").textContent = row.id;
  find("reader-place").textContent = `${(at + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`;
  find("reader-problem").replaceChildren(...show(told.problem));
  find("reader-gold").replaceChildren("Gold answer ", make("strong", {}, ...show(row.gold)),
    ...row.groups.flatMap((value, group) => value ? [make("span", { class: "tag" }, `${data.groups[group]} ${value}`)] : []));
  find("reader-runs").replaceChildren(...data.runs.map((name, run) => drawRun(name, row, run, told.runs[run])));
  if (!reader.open) reader.showModal();
  reader.scrollTop = 0;
  find("reader-scroll").scrollTop = 0;
}

function pick(row, run) {
  const samples = row.samples[run], byHand = samplesOpen.get(run);
  if (byHand !== undefined && byHand < samples.length) return byHand;
  const fits = samples.findIndex((state) => FILTERS[chosen.f][2](state));
  return Math.max(fits >= 0 ? fits : samples.findIndex((state) => !(state & RIGHT)), 0);
}

function judge(state) {
  if (state & FAILED) return ["bad", "!", "error"];
  return state & RIGHT ? ["good", "✓", "right"] : ["bad", "✗", "wrong"];
}

function drawRun(name, row, run, rollouts) {
  const column = make("section", { class: "column", "aria-label": name });
  const draw = () => {
    const place = pick(row, run), rollout = rollouts[place];
    const right = row.samples[run].filter((state) => state & RIGHT).length;
    column.replaceChildren(make("header", {}, make("h4", {}, name),
      make("p", { class: "soft" }, rollouts.length ? `${right} of ${rollouts.length} right` : "not run"),
      make("div", { class: "pills" }, ...row.samples[run].map((state, sample) => make("button", {
        type: "button", class: judge(state)[0], "aria-pressed": String(sample === place),
        title: `sample ${rollouts[sample].sample}: ${judge(state)[2]}`,
        onclick: () => { samplesOpen.set(run, sample); draw(); },
      }, `${judge(state)[1]} ${rollouts[sample].sample}`)))));
    if (rollout) column.append(drawRollout(rollout, row.samples[run][place]));
  };
  draw();
  return column;
}

function drawRollout(rollout, state) {
  const count = (value, unit, digits = 0) => value === null ? []
    : [`${value.toLocaleString("en", { maximumFractionDigits: digits })} ${unit}`];
  const told = [...count(rollout.tokens, "tokens"), ...count(rollout.seconds, "s", 1)].join(", ");
  const answer = rollout.answer === null ? "no answer" : make("strong", {}, ...show(rollout.answer));
  return make("article", {},
    make("p", { class: "answer" }, make("span", { class: judge(state)[0] }, `${judge(state)[1]} ${judge(state)[2]}`),
      " ", answer, make("span", { class: "soft" }, ` ${told}`)),
    ...MARKS.slice(0, 2).filter(([bit]) => state & bit).map(([bit]) => make("p", { class: "flag" }, bit === CUT_OFF
      ? "⊣ A solution hit the token limit." : "≈ The right value is in the text, but was not read as the answer.")),
    ...rollout.notes.map((note) => make("p", { class: "flag" }, note)),
    ...rollout.steps.map(drawStep),
    make("p", { class: "soft" }, rollout.usage));
}

function drawStep(step, place) {
  const reasoning = step.reasoning ? [make("details", {},
    make("summary", {}, `Reasoning, ${step.length.toLocaleString("en")} characters`),
    make("div", { class: "raw" }, step.reasoning))] : [];
  return make("div", { class: step.system === 2 ? "step hard" : "step" },
    make("h5", {}, `${place + 1}. System ${step.system}`, make("span", { class: "soft" }, ` ${step.told}`)),
    make("div", { class: "asked" }, ...(step.asked === null ? ["The question itself."] : show(step.asked))),
    ...reasoning,
    make("div", { class: "text" }, ...show(step.solution)));
}

// ---- what is chosen, and how -----------------------------------------------------------------

function save() {
  const told = Object.entries(chosen).filter(([key, value]) => value !== null && value !== ""
    && !(key === "f" && value === "all") && !(key === "s" && value === "differ"));
  try {
    history.replaceState(null, "", `#${new URLSearchParams(told)}`);
  } catch { /* a page inside another one has no address of its own */ }
}

function change(key, value) {
  chosen[key] = value;
  samplesOpen.clear();
  choose();
  save();
}

function read() {
  const told = new URLSearchParams(location.hash.slice(1));
  if (FILTERS[told.get("f")]) chosen.f = told.get("f");
  if (SORTS[told.get("s")]) chosen.s = told.get("s");
  const groups = [...find("groups").options].map((option) => option.value);
  if (groups.includes(told.get("g"))) chosen.g = told.get("g");
  chosen.q = told.get("q") ?? "";
  [search.value, find("groups").value, find("sorts").value] = [chosen.q, chosen.g, chosen.s];
  choose();
  const place = told.has("p") ? shown.findIndex((row) => String(row.number) === told.get("p")) : -1;
  if (place >= 0) {
    while (place >= drawn) grow();
    open(place);
  }
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input, select");
  if (typing) {
    if (event.key === "Escape" && event.target === search && search.value) change("q", search.value = "");
    else if (event.key === "Escape" || (event.key === "Enter" && event.target === search)) event.target.blur();
    else return;
    event.preventDefault();
    return;
  }
  const steps = { j: 1, k: -1, ...(reader.open ? { ArrowRight: 1, ArrowLeft: -1 } : { ArrowDown: 1, ArrowUp: -1 }) };
  if (event.key in steps) move(steps[event.key]);
  else if (event.key === "Enter" && !reader.open && !event.target.matches?.("button, a, summary") && shown.length) open(at);
  else if (event.key === "/" && !reader.open) { search.focus(); search.scrollIntoView({ block: "center" }); }
  else if (reader.open && /^[0-9]$/.test(event.key)) {
    data.runs.forEach((_, run) => samplesOpen.set(run, Number(event.key)));
    open(at);
  } else return;
  event.preventDefault();
}

function begin() {
  for (const [name, [title, fits]] of Object.entries(FILTERS)) {
    const count = rows.filter(fits).length;
    if (name === "differ" && data.runs.length < 2) continue;
    find("filters").append(make("button", { type: "button", "data-filter": name, disabled: !count,
      onclick: () => change("f", name) }, title, make("span", { class: "soft" }, ` ${count.toLocaleString("en")}`)));
  }
  for (const [name, [title]] of Object.entries(SORTS)) find("sorts").append(make("option", { value: name }, title));
  data.groups.forEach((name, group) => {
    const counts = new Map();
    for (const row of rows) if (row.groups[group]) counts.set(row.groups[group], (counts.get(row.groups[group]) ?? 0) + 1);
    if (counts.size < 2 || counts.size > 60) return;
    find("groups").append(make("optgroup", { label: name }, ...[...counts].sort(([a], [b]) =>
      a.localeCompare(b, "en", { numeric: true })).map(([value, count]) =>
      make("option", { value: JSON.stringify([group, value]) }, `${name} ${value} (${count})`))));
  });
  find("groups").parentElement.hidden = find("groups").length < 2;
  find("sorts").addEventListener("change", (event) => change("s", event.target.value));
  find("groups").addEventListener("change", (event) => change("g", event.target.value));
  search.addEventListener("input", () => change("q", search.value));
  find("more").addEventListener("click", grow);
  new IntersectionObserver(([entry]) => entry.isIntersecting && drawn < shown.length && grow(),
    { rootMargin: "600px" }).observe(find("more"));
  find("reader-before").addEventListener("click", () => move(-1));
  find("reader-after").addEventListener("click", () => move(1));
  find("reader-close").addEventListener("click", () => reader.close());
  reader.addEventListener("click", (event) => event.target === reader && reader.close());
  reader.addEventListener("close", () => { chosen.p = null; samplesOpen.clear(); save(); });
  document.addEventListener("keydown", press);
  window.addEventListener("hashchange", () => location.hash.includes("=") && read());
  find("problems").hidden = false;
  read();
}

begin();
