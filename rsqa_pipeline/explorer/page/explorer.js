"use strict";
// Every text of the data is set as textContent, never as markup.

const { facts, columns } = DATA;
const SIZE = columns.key.length;
const byId = (id) => document.getElementById(id);
const format = new Intl.NumberFormat("en").format;
const code = (column, row) => columns[column].codes[row];
const name = (column, row) => (code(column, row) < 0 ? null : columns[column].names[code(column, row)]);
const words = (text) => text.replaceAll("_", " ");

const FILTERS = { state: "Decision", kind: "Kind", source: "Source", scene_class: "Class", task: "Task", reason: "Reason", fault: "Fault" };
const SORTS = { score: "score", clip_score: "CLIP score", source: "source", scene_class: "class", task: "task", fault: "fault", state: "decision", group: "near-duplicate group" };
const FACTS = { clip_score: "CLIP score", true_quality: "True quality, 1 to 5", source: "Source", scene_class: "Class", task: "Task", fault: "Fault", note: "The model saw", key: "Id" };

let view = []; // rows shown, in order
let selected = -1;
let haystacks = null;
let threshold = 0;

// ---- small helpers ----

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Text with control characters and direction overrides as escapes: none of them can hide or reorder what follows. */
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (found) =>
    "\\u" + found.charCodeAt(0).toString(16).padStart(4, "0"));
}

const digits = (value, places = 3) => (value === null ? "unknown" : value.toFixed(places).replace("-", "−"));

function thumbnail(row, large = false) {
  const index = columns.thumbnail[row];
  const fault = name("imageFault", row);
  const made = element("div", { class: large ? "thumbnail large" : "thumbnail" });
  if (index < 0) {
    made.textContent = fault === null ? "no image" : visible(large ? fault : words(fault.split(":")[0]));
    return made;
  }
  const cell = index % (facts.perSide * facts.perSide);
  const place = (n) => `${(100 * n) / (facts.perSide - 1)}%`;
  made.style.backgroundImage = `url("thumbnails/${Math.floor(index / facts.perSide ** 2)}.jpg")`;
  made.style.backgroundPosition = `${place(cell % facts.perSide)} ${place(Math.floor(cell / facts.perSide))}`;
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", "image of the sample");
  return made;
}

function whyDecided(row) {
  const reason = name("reason", row);
  const rule = name("rule", row);
  if (reason === null) return `kept by ${rule}`;
  const meaning = facts.reasons[reason] ? `${words(reason)}: ${facts.reasons[reason]}` : words(reason);
  const place = columns.rank[row] === null ? "" : ` (rank ${format(columns.rank[row])}, percentile ${columns.percentile[row].toFixed(1)})`;
  return meaning + place + (rule === null ? "" : ` · ${rule}`);
}

// ---- marks of a person ----

const STORE = `rsqa-explorer-${facts.version}`;
const marks = new Map();
const undone = [];

function restoreMarks() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    for (const [key, mark] of Object.entries(stored.marks ?? {})) marks.set(key, mark);
    byId("rater").value = stored.rater ?? "";
  } catch {
    marks.clear(); // no storage, or not ours: the page works without it
  }
}

function storeMarks() {
  try {
    localStorage.setItem(STORE, JSON.stringify({ rater: byId("rater").value, marks: Object.fromEntries(marks) }));
  } catch {
    byId("progress").title = "This browser keeps nothing for the page: download the marks before you close it.";
  }
}

function putMark(key, mark) {
  if (mark && (mark.decision || mark.mark || mark.note)) marks.set(key, mark);
  else marks.delete(key);
  storeMarks();
  showProgress();
  draw();
}

function change(changes) {
  if (selected < 0) return;
  const key = columns.key[selected];
  undone.push([key, marks.get(key)]);
  putMark(key, { ...marks.get(key), ...changes });
  showDetail();
}

function undo() {
  const last = undone.pop();
  if (!last) return;
  putMark(...last);
  const row = columns.key.indexOf(last[0]);
  if (row >= 0) select(row);
}

const isAgainst = (row, mark) => mark?.decision && (mark.decision === "keep") !== (name("state", row) === "kept");

function showProgress() {
  const against = columns.key.filter((key, row) => isAgainst(row, marks.get(key))).length;
  byId("progress").textContent = `${format(marks.size)} marked, ${format(against)} against the rule`;
  byId("undo").disabled = undone.length === 0;
  byId("csv").disabled = byId("jsonl").disabled = marks.size === 0;
}

function markRows() {
  const rater = byId("rater").value.trim();
  return columns.key.flatMap((key, row) => {
    const mark = marks.get(key);
    if (!mark) return [];
    return [{ key, decision: mark.decision ?? null, mark: mark.mark ?? null, note: mark.note ?? null, rater: rater || null,
      state: name("state", row), score: columns.score[row] }];
  });
}

/** A CSV cell. One that a spreadsheet would read as a formula gets a space, which `rsqa labels marks` takes off. */
function csvCell(value) {
  const text = value === null ? "" : String(value);
  const safe = typeof value === "string" && /^[ \t\r\n]*[=+\-@\t\r\n＝＋－＠]/.test(text) ? ` ${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}

function download(kind) {
  const rows = markRows();
  const text = kind === "csv"
    ? "\ufeff" + [Object.keys(rows[0]), ...rows.map(Object.values)].map((cells) => cells.map(csvCell).join(",")).join("\r\n") + "\r\n"
    : rows.map((row) => JSON.stringify(row)).join("\n") + "\n";
  const url = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/jsonl" }));
  element("a", { href: url, download: `marks.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// ---- filters, order, threshold ----

function haystack(row) {
  haystacks ??= new Array(SIZE);
  return (haystacks[row] ??= [columns.text[row], ...columns.before[row].map((turn) => turn[1]), columns.key[row], columns.detail[row],
    name("source", row), name("scene_class", row), name("task", row), name("fault", row)].join("\n").toLowerCase());
}

function matches() {
  const terms = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = Object.keys(FILTERS).flatMap((column) => {
    const value = byId(`filter-${column}`)?.value ?? "";
    return value === "" ? [] : [[columns[column].codes, Number(value)]];
  });
  const low = byId("low").valueAsNumber, high = byId("high").valueAsNumber, marked = byId("marked").value;
  const grouped = byId("filter-group")?.value ?? "";
  const test = (row) => {
    const score = columns.score[row], mark = marks.get(columns.key[row]);
    return chosen.every(([codes, value]) => codes[row] === value)
      && (Number.isNaN(low) || (score !== null && score >= low)) && (Number.isNaN(high) || (score !== null && score <= high))
      && (grouped === "" || code("group", row) >= 0)
      && (marked === "" || (marked === "yes" ? !!mark : marked === "no" ? !mark : isAgainst(row, mark)))
      && terms.every((term) => haystack(row).includes(term));
  };
  return Array.from({ length: SIZE }, (_, row) => row).filter(test);
}

const isAbove = (row) => columns.score[row] !== null && columns.score[row] >= threshold;
const SIDES = { kept: isAbove, dropped: (row) => !isAbove(row), changed: (row) => isAbove(row) !== (name("state", row) === "kept") };

function sorted(rows) {
  const [column, direction] = byId("sort").value.split(" ");
  const sign = direction === "up" ? 1 : -1;
  const missing = (value) => value === null || value === undefined;
  const value = column.includes("score") ? (row) => columns[column][row] : (row) => name(column, row);
  return rows.sort((a, b) => {
    const x = value(a), y = value(b);
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b; // missing values come last both ways
    return x < y ? -sign : x > y ? sign : (columns.score[b] ?? -Infinity) - (columns.score[a] ?? -Infinity) || a - b;
  });
}

function refresh() {
  const rows = matches();
  const kept = rows.filter(isAbove).length;
  const byRule = rows.filter((row) => name("state", row) === "kept").length;
  const share = rows.length ? ((100 * kept) / rows.length).toFixed(1) : "0.0";
  byId("outcome").textContent = `keeps ${format(kept)} of ${format(rows.length)} rows (${share} %); the rule keeps ${format(byRule)}`;
  drawHistogram(rows);
  const side = SIDES[byId("side").value];
  view = sorted(side ? rows.filter(side) : rows);
  byId("count").textContent = `${format(view.length)} of ${format(SIZE)} samples`;
  byId("list").scrollTop = 0;
  byId("rows").style.height = `${view.length * rowHeight()}px`;
  if (!view.includes(selected)) selected = view.length ? view[0] : -1;
  draw();
  showDetail();
}

let range = [0, 1];

function setThreshold(value, from) {
  if (Number.isNaN(value)) return;
  threshold = value;
  if (from !== "slider") byId("slider").value = Math.round((1000 * (value - range[0])) / (range[1] - range[0] || 1));
  if (from !== "number") byId("threshold").value = Number(value.toPrecision(6));
}

function startThreshold() {
  const scores = columns.score.filter((score) => score !== null).sort((a, b) => b - a);
  range = [scores.at(-1) ?? 0, scores[0] ?? 1];
  const kept = columns.score.filter((score, row) => score !== null && name("state", row) === "kept").length;
  setThreshold(scores[Math.max(0, kept - 1)] ?? 0, "start"); // keeps as many as the rule
  threshold = scores[Math.max(0, kept - 1)] ?? 0;
}

function drawHistogram(rows) {
  const canvas = byId("histogram");
  const width = (canvas.width = canvas.clientWidth || 300), height = canvas.height;
  const bins = 80, kept = new Array(bins).fill(0), all = new Array(bins).fill(0);
  for (const row of rows) {
    if (columns.score[row] === null) continue;
    const bin = Math.min(bins - 1, Math.floor((bins * (columns.score[row] - range[0])) / (range[1] - range[0] || 1)));
    all[bin] += 1;
    if (name("state", row) === "kept") kept[bin] += 1;
  }
  const style = getComputedStyle(document.documentElement), most = Math.max(1, ...all), pen = canvas.getContext("2d");
  const bars = (counts, colour) => {
    pen.fillStyle = style.getPropertyValue(colour);
    counts.forEach((count, bin) => pen.fillRect((bin * width) / bins, height - (height * count) / most, width / bins - 1, (height * count) / most));
  };
  bars(all, "--line");
  bars(kept, "--good");
  pen.fillStyle = style.getPropertyValue("--accent");
  pen.fillRect(((threshold - range[0]) / (range[1] - range[0] || 1)) * width - 1, 0, 2, height);
}

// ---- list ----

const rowHeight = () => parseInt(getComputedStyle(document.documentElement).getPropertyValue("--row"), 10);
const chip = (text, style = "") => (text === null ? null : element("span", { class: `chip ${style}` }, visible(text)));

function rowElement(row, position) {
  const mark = marks.get(columns.key[row]);
  const state = name("state", row), text = columns.text[row];
  const marked = mark && [mark.decision, mark.mark, mark.note && "note"].filter(Boolean).join(" · ");
  const question = columns.before[row].at(-1)?.[1];
  const chips = element("div", { class: "chips" }, chip(marked || null, "mark"), chip(state, state),
    chip(columns.score[row] === null ? "no score" : digits(columns.score[row]), "score"), chip(name("fault", row) && words(name("fault", row)), "fault"),
    ...["source", "scene_class", "task"].map((column) => chip(name(column, row) && words(name(column, row)))));
  const shown = text === null ? element("div", { class: "text unknown" }, visible(columns.detail[row] ?? `${columns.key[row]} (text unknown)`))
    : element("div", { class: "text", dir: "auto" }, visible(question ? `${question} — ${text}` : text));
  const side = columns.score[row] === null ? "" : isAbove(row) ? "above" : "below";
  const made = element("div", { class: `row ${side}`, id: `row-${row}`, role: "option", "aria-selected": String(row === selected),
    "aria-setsize": view.length, "aria-posinset": position + 1, onclick: () => { select(row); document.body.classList.add("reading"); } },
    thumbnail(row), element("div", {}, chips, shown, element("div", { class: "why", title: whyDecided(row) }, visible(whyDecided(row)))));
  made.style.top = `${position * rowHeight()}px`;
  return made;
}

/** Positions of the rows in sight, and some more above and below. */
function sight() {
  const list = byId("list"), height = rowHeight();
  const first = Math.max(0, Math.floor(list.scrollTop / height) - 3);
  return [first, Math.min(view.length, Math.ceil((list.scrollTop + list.clientHeight) / height) + 3)];
}

/** Makes elements for the rows in sight alone. */
function draw() {
  const [first, last] = sight();
  byId("rows").replaceChildren(...view.slice(first, last).map((row, n) => rowElement(row, first + n)));
  byId("list").setAttribute("aria-activedescendant", selected < 0 ? "" : `row-${selected}`);
}

/** Adds and removes rows alone: a tap on a row that is replaced between its press and its release does nothing. */
function drawScrolled() {
  const rows = byId("rows"), [first, last] = sight(), wanted = view.slice(first, last);
  const ids = new Set(wanted.map((row) => `row-${row}`));
  for (const child of [...rows.children]) if (!ids.has(child.id)) child.remove();
  wanted.forEach((row, n) => {
    if (rows.children[n]?.id !== `row-${row}`) rows.insertBefore(rowElement(row, first + n), rows.children[n] ?? null);
  });
}

function select(row) {
  selected = row;
  const list = byId("list"), height = rowHeight(), top = view.indexOf(row) * height;
  if (top >= 0) list.scrollTop = Math.min(top, Math.max(list.scrollTop, top + height - list.clientHeight));
  draw();
  showDetail();
}

function move(steps) {
  if (!view.length) return;
  const at = view.indexOf(selected);
  select(view[Math.max(0, Math.min(view.length - 1, at + steps))]);
}

// ---- detail of the selected sample ----

function showDetail() {
  const panel = byId("detail"), row = selected;
  if (row < 0) return panel.replaceChildren(element("p", { class: "unknown" }, "No sample matches the filters."));
  const mark = marks.get(columns.key[row]) ?? {};
  const turns = columns.text[row] === null ? [element("p", { class: "unknown turn" }, "The text is unknown.")]
    : [...columns.before[row], ["assistant", columns.text[row]]].map(([role, text]) =>
      element("div", { class: "turn" }, element("span", { class: "role" }, visible(role)), element("div", { dir: "auto", class: "turn" }, visible(text))));
  const entries = Object.entries(FACTS).map(([column, label]) => {
    const value = columns[column].codes ? name(column, row) : columns[column][row];
    return [label, value === null ? null : typeof value === "number" ? digits(value) : visible(column === "key" ? value : words(value))];
  }).filter(([, value]) => value !== null);
  const state = name("state", row);
  const button = (label, pressed, changes) => element("button", { type: "button", "aria-pressed": String(pressed), onclick: () => change(changes) }, label);
  const note = element("textarea", { id: "note", placeholder: "note", "aria-label": "Note" });
  note.value = mark.note ?? "";
  note.addEventListener("change", () => change({ note: note.value.trim() }));
  const parts = [
    element("button", { id: "close", type: "button", onclick: () => document.body.classList.remove("reading") }, "Close"),
    thumbnail(row, true), ...turns,
    element("p", { class: "decision" }, chip(state, state), " ", chip(columns.score[row] === null ? "no score" : `score ${digits(columns.score[row])}`, "score")),
    element("p", { class: "why-long" }, visible(whyDecided(row))),
    columns.detail[row] === null ? null : element("p", { class: "unknown" }, visible(columns.detail[row])),
    element("h2", {}, "Your mark"),
    element("div", { class: "buttons" }, button("keep (k)", mark.decision === "keep", { decision: "keep" }), button("drop (d)", mark.decision === "drop", { decision: "drop" }),
      ...[1, 2, 3, 4, 5].map((n) => button(String(n), mark.mark === n, { mark: n })), button("clear (0)", false, { decision: null, mark: null, note: null })),
    note,
    element("dl", {}, ...entries.flatMap(([label, value]) => [element("dt", {}, label), element("dd", {}, value)])),
    ...groupOf(row)];
  panel.replaceChildren(...parts.filter((part) => part !== null));
  panel.scrollTop = 0;
}

function groupOf(row) {
  const group = code("group", row);
  if (group < 0) return [];
  const members = columns.group.codes.flatMap((other, n) => (other === group ? [n] : []));
  const buttons = members.slice(0, 60).map((other) => element("button", { type: "button", "aria-pressed": String(other === row), onclick: () => select(other) },
    thumbnail(other), `${name("state", other)}, ${columns.score[other] === null ? "no score" : digits(columns.score[other], 2)}`));
  return [element("h2", {}, `Near-duplicates: ${format(members.length)} samples`), element("div", { class: "group" }, ...buttons)];
}

// ---- start ----

function fillControls() {
  const before = byId("marked").parentElement;
  for (const [column, label] of Object.entries(FILTERS)) {
    const { names, codes } = columns[column];
    if (names.length === 0) continue;
    const counts = new Map();
    for (const value of codes) counts.set(value, (counts.get(value) ?? 0) + 1);
    const order = names.map((text, n) => [text, n]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
    const options = order.map(([text, n]) => element("option", { value: n }, `${visible(words(text))} (${format(counts.get(n))})`));
    if (counts.has(-1)) options.push(element("option", { value: -1 }, `none (${format(counts.get(-1))})`));
    before.before(element("label", {}, label, " ", element("select", { id: `filter-${column}` }, element("option", { value: "" }, "any"), ...options)));
  }
  if (columns.group.names.length) {
    const options = [element("option", { value: "" }, "any"), element("option", { value: "yes" }, "near-duplicates")];
    before.before(element("label", {}, "Groups ", element("select", { id: "filter-group" }, ...options)));
  }
  const known = ([column]) => (columns[column].names ? columns[column].names.length : columns[column].some((value) => value !== null));
  byId("sort").append(...Object.entries(SORTS).filter(known).flatMap(([column, label]) => (column.includes("score") ? ["down", "up"] : ["up"]).map((way) =>
    element("option", { value: `${column} ${way}` }, column.includes("score") ? `${label}, ${way === "down" ? "highest" : "lowest"} first` : label))));
}

const KEYS = {
  ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(8), PageUp: () => move(-8), Home: () => move(-SIZE), End: () => move(SIZE),
  k: () => change({ decision: "keep" }), d: () => change({ decision: "drop" }), u: undo, 0: () => change({ decision: null, mark: null, note: null }),
  n: () => byId("note")?.focus(), "/": () => { byId("filters").open = true; byId("search").focus(); },
  Enter: () => document.body.classList.add("reading"), Escape: () => document.body.classList.remove("reading"),
};
for (const n of [1, 2, 3, 4, 5]) KEYS[n] = () => change({ mark: n });

function onKey(event) {
  const typing = event.target.matches("input, select, textarea");
  if (typing && event.key === "Escape") event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  if (event.key === "Enter" && event.target.matches("button, summary")) return;
  event.preventDefault();
  KEYS[event.key]();
}

function start() {
  document.title = facts.title;
  byId("title").textContent = facts.title;
  const counts = columns.state.names.map((state, n) => `${format(columns.state.codes.filter((value) => value === n).length)} ${state}`).join(", ");
  const part = facts.total > SIZE ? ` (of ${format(facts.total)}, drawn by hash)` : "";
  byId("summary").textContent = `${format(SIZE)} samples${part}: ${counts}. Rule: ${facts.rule}`;
  byId("filters").open = matchMedia("(min-width: 900px)").matches;
  restoreMarks();
  fillControls();
  startThreshold();
  byId("controls").addEventListener("input", refresh);
  byId("side").addEventListener("input", refresh);
  byId("slider").addEventListener("input", () => { setThreshold(range[0] + (byId("slider").value / 1000) * (range[1] - range[0]), "slider"); refresh(); });
  byId("threshold").addEventListener("input", () => { setThreshold(byId("threshold").valueAsNumber, "number"); refresh(); });
  byId("reset").addEventListener("click", () => {
    for (const control of document.querySelectorAll("#controls input, #controls select, #side")) control.value = control.id === "sort" ? control.options[0].value : "";
    refresh();
  });
  byId("rater").addEventListener("input", storeMarks);
  byId("undo").addEventListener("click", undo);
  byId("csv").addEventListener("click", () => download("csv"));
  byId("jsonl").addEventListener("click", () => download("jsonl"));
  byId("list").addEventListener("scroll", drawScrolled, { passive: true });
  addEventListener("keydown", onKey);
  addEventListener("resize", () => { byId("rows").style.height = `${view.length * rowHeight()}px`; draw(); });
  showProgress();
  refresh();
  performance.mark("samples-shown");
}

start();
