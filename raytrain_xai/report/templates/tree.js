"use strict";
const C = TREE.concepts;
const AT = new Map(C.id.map((id, i) => [id, i]));
const KIDS = new Map();
const SAME = new Map();
C.id.forEach((id, i) => {
  C.parents[i].forEach(([parent, weight]) => KIDS.set(parent, [...(KIDS.get(parent) || []), [i, weight]]));
  if (C.same[i] !== id) SAME.set(C.same[i], [...(SAME.get(C.same[i]) || []), i]);
});
KIDS.forEach((list) => list.sort((a, b) => b[1] - a[1]));
const byFrequency = (a, b) => C.frequency[b] - C.frequency[a];
const stands = (i) => C.same[i] === C.id[i];
const ROOTS = [...C.id.keys()].filter((i) => stands(i) && !C.parents[i].length && KIDS.has(C.id[i])).sort(byFrequency);
const SINGLE = [...C.id.keys()].filter((i) => !C.parents[i].length && !KIDS.has(C.id[i]) && stands(i)).sort(byFrequency);
const AT_ONCE = 60;
const tree = document.getElementById("tree");
const more = document.getElementById("more");
const search = document.getElementById("search");
const kind = document.getElementById("kind");
const openAll = document.getElementById("open");
let shown = [];
let drawn = 0;

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}
const title = (i) => C.name[i] || `concept ${C.id[i]}`;
const percent = (share) => `${(100 * share).toPrecision(2).replace(/e.*/, "")} %`;

function patch([row, position]) {
  const [h, w] = TREE.size;
  const frame = make("span", "patch");
  const image = make("img");
  image.src = `data:image/jpeg;base64,${TREE.pictures[row]}`;
  image.alt = `image ${row}`;
  image.loading = "lazy";
  const mark = make("i");
  mark.style.cssText = `left:${(100 * (position % w)) / w}%;top:${(100 * Math.floor(position / w)) / h}%;` +
    `width:${100 / w}%;height:${100 / h}%`;
  frame.append(image, mark);
  return frame;
}

function link(i) {
  const button = make("button", "link", title(i));
  button.onclick = () => show(i);
  return button;
}

function listed(label, indices) {
  const line = make("p", "", `${label} `);
  indices.forEach((i, n) => line.append(n ? ", " : "", link(i)));
  return line;
}

function fill(body, i, above) {
  const many = make("div", "many");
  C.shown[i].forEach((one) => many.append(patch(one)));
  body.append(many);
  const same = SAME.get(C.id[i]) || [];
  if (same.length) body.append(listed("Same as", same));
  if (!stands(i)) body.append(listed("A synonym; see", [AT.get(C.same[i])]));
  const others = C.parents[i].map(([parent]) => AT.get(parent)).filter((parent) => parent !== above);
  if (others.length) body.append(listed(above === undefined ? "Below" : "Also below", others));
  const kids = KIDS.get(C.id[i]) || [];
  if (!kids.length) return;
  const list = make("ul");
  kids.forEach(([kid, weight]) => list.append(node(kid, i, weight)));
  body.append(list);
}

function node(i, above, weight) {
  const item = make("li");
  const details = make("details", "node");
  const summary = make("summary");
  const kids = (KIDS.get(C.id[i]) || []).length;
  const facts = [`no. ${C.id[i]}`, `group ${C.group[i] + 1}`, percent(C.frequency[i])];
  if (weight !== undefined) facts.push(`share ${weight.toFixed(2)}`);
  if (kids) facts.push(`${kids} below`);
  const few = make("span", "few");
  C.shown[i].slice(0, 4).forEach((one) => few.append(patch(one)));
  summary.append(make("h2", "", title(i)), make("span", "facts", facts.join(" · ")), few);
  const body = make("div", "body");
  details.append(summary, body);
  details.addEventListener("toggle", () => {
    if (details.open && !body.childNodes.length) fill(body, i, above);
  });
  item.append(details);
  return item;
}

function draw() {
  shown.slice(drawn, drawn + AT_ONCE).forEach((i) => tree.append(node(i)));
  drawn = Math.min(drawn + AT_ONCE, shown.length);
  more.hidden = drawn >= shown.length;
  if (openAll.getAttribute("aria-pressed") === "true") unfold(true);
}

function fits(i, text) {
  const number = text.replace(/^(concept|no\.?)\s*/, "");
  return /^\d+$/.test(number) ? String(C.id[i]) === number : C.name[i].toLowerCase().includes(text);
}

function list() {
  const text = search.value.trim().toLowerCase();
  const all = kind.value === "trees" ? ROOTS : kind.value === "single" ? SINGLE : [...C.id.keys()].sort(byFrequency);
  shown = text ? [...C.id.keys()].filter((i) => fits(i, text)).sort(byFrequency) : all;
  drawn = 0;
  tree.replaceChildren();
  draw();
  const what = text ? "found" : { trees: "trees", single: "without relations", all: "active concepts" }[kind.value];
  document.getElementById("count").textContent = `${shown.length.toLocaleString("en")} ${what}`;
}

function show(i) {
  search.value = String(C.id[i]);
  list();
  const details = tree.querySelector("details");
  if (details) {
    details.open = true;
    details.querySelector("summary").focus();
  }
}

function unfold(isOpen) {
  tree.querySelectorAll(":scope > li > details").forEach((one) => { one.open = isOpen; });
}

search.oninput = list;
kind.onchange = () => { search.value = ""; list(); };
openAll.onclick = () => {
  const isOpen = openAll.getAttribute("aria-pressed") !== "true";
  openAll.setAttribute("aria-pressed", String(isOpen));
  openAll.textContent = isOpen ? "close all" : "open all";
  unfold(isOpen);
};
more.onclick = draw;
if (!ROOTS.length) kind.value = "all";
list();
