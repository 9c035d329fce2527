"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const items = data.strata.flatMap(stratum => stratum.rows.map(row => ({stratum, row})));
const store = "gristmill-audit " + data.run;
const by = id => document.getElementById(id);
// A mark is of a decision: the same document under another rule is not yet marked.
const key = (name, id) => name + " " + id;
let marks = Object.fromEntries(data.marks.map(one => [key(one.name, one.id), one.mark])), at = 0;
const given = ({stratum, row}) => marks[key(stratum.name, row.id)];

try {  // what this browser still knows, newer than what came with the page
  marks = {...marks, ...JSON.parse(localStorage.getItem(store) || "{}")};
} catch (error) { /* no storage: marks live as long as the page */ }

function save() {
  try { localStorage.setItem(store, JSON.stringify(marks)); } catch (error) { /* see above */ }
}

function marked(stratum) {
  return stratum.rows.filter(row => given({stratum, row})).length;
}

function list() {
  by("strata").replaceChildren(...data.strata.map(stratum => {
    const button = document.createElement("button"), note = document.createElement("small");
    button.type = "button";
    button.textContent = stratum.name;
    note.textContent = `${stratum.population.toLocaleString("en")} documents, ${marked(stratum)} of ${stratum.rows.length} marked`;
    button.append(note);
    button.disabled = !stratum.rows.length;
    button.setAttribute("aria-current", String(Boolean(items.length) && items[at].stratum === stratum));
    button.addEventListener("click", () => show(items.findIndex(item => item.stratum === stratum)));
    const entry = document.createElement("li");
    entry.append(button);
    return entry;
  }));
}

function show(index) {
  if (!items.length) {
    by("title").textContent = "No document to show";
    return;
  }
  at = Math.max(0, Math.min(items.length - 1, index));
  const {stratum, row} = items[at];
  by("title").textContent = stratum.fate === "kept" ? "Kept" : `${stratum.fate} by ${stratum.name}`;
  by("place").textContent = `${stratum.rows.indexOf(row) + 1} of ${stratum.rows.length} here, ${at + 1} of ${items.length} in all`;
  const facts = ["url", "source", "id", "value", "threshold", "similarity", "detail"].filter(name => row[name] !== null && row[name] !== undefined);
  by("facts").replaceChildren(...facts.flatMap(name => {
    const term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = name;
    value.textContent = row[name];
    return [term, value];
  }));
  by("text").textContent = row.text || "(no text)";
  by("kept").hidden = !row.kept;
  by("kept").textContent = row.kept ? "Kept instead:\n\n" + row.kept : "";
  by("more").textContent = row.more ? `${row.more.toLocaleString("en")} more characters` : "";
  for (const mark of ["right", "wrong", "unsure"]) by(mark).setAttribute("aria-pressed", String(given(items[at]) === mark));
  list();
}

function mark(word) {
  if (!items.length) return;
  const {stratum, row} = items[at], id = key(stratum.name, row.id);
  marks[id] = marks[id] === word ? "" : word;
  save();
  const open = items.findIndex((item, index) => index > at && !given(item));
  show(marks[id] ? (open < 0 ? at : open) : at);
  by("saved").textContent = `${items.filter(given).length} of ${items.length} marked`;
}

function download() {
  const rows = items.filter(given).map(({stratum, row}) => (
    {id: row.id, fate: stratum.fate, stage: stratum.stage, rule: stratum.rule, mark: given({stratum, row})}));
  const shown = new Set(items.map(({stratum, row}) => key(stratum.name, row.id)));  // earlier marks on others stay
  for (const one of data.marks) {
    if (!shown.has(key(one.name, one.id))) rows.push({id: one.id, fate: one.fate, stage: one.stage, rule: one.rule, mark: one.mark});
  }
  const blob = new Blob([JSON.stringify({format: data.format, run: data.run, marks: rows}, null, 1)], {type: "application/json"});
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "marks.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

for (const word of ["right", "wrong", "unsure"]) by(word).addEventListener("click", () => mark(word));
by("back").addEventListener("click", () => show(at - 1));
by("next").addEventListener("click", () => show(at + 1));
by("download").addEventListener("click", download);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    r: () => mark("right"), w: () => mark("wrong"), u: () => mark("unsure"), d: download,
    ArrowRight: () => show(at + 1), ArrowLeft: () => show(at - 1), j: () => show(at + 1), k: () => show(at - 1),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) { event.preventDefault(); act(); }
});
show(Math.max(0, items.findIndex(item => !given(item))));
