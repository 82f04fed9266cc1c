"use strict";
// CATALOGUE (data/concepts.js): columns of all concepts, -1 and null for none. Details of CATALOGUE.chunk concepts at a
// time are scripts of their own, since pages opened from a disk may load scripts but not read files.
const all = CATALOGUE.concepts, classes = CATALOGUE.classes, total = all.images.length;
const $ = (id) => document.getElementById(id);
const list = $("list"), page = $("concept"), search = $("search"), sort = $("sort"), kind = $("kind"), byClass = $("class");
let order = [], drawn = new Map(), grid = null, scrolled = 0;

const element = (tag, text, name) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
};
const named = (k) => all.name[k] || `concept ${k}`;
const percent = (x, digits = 0) => x === null ? "–" : x > 0 && x < 0.01 && !digits ? "< 1 %" : `${(100 * x).toFixed(digits)} %`;
const short = (x) => Number(x.toPrecision(3)).toLocaleString("en");
const signed = (x) => {
  if (x === null) return "–";
  if (Math.abs(x) < 1e-4) return x === 0 ? "0" : x < 0 ? "> −0.0001" : "< 0.0001";
  return (x < 0 ? "−" : "+") + Number(Math.abs(x).toPrecision(2)).toLocaleString("en", { maximumFractionDigits: 6 });
};
const className = (c) => c < 0 ? "no label" : classes[c];

// one image with its map: the maps of a concept are cells of one picture, each with an edge of one pixel
function picture(k, place, row, cells, alt) {
  const shown = element("span", undefined, "shown"), image = new Image(), map = element("i");
  image.alt = alt;
  image.src = `thumbs/${Math.floor(row / 1000)}/${row}.jpg`;
  const side = CATALOGUE.mapSide, pitch = side + 2, width = pitch * cells / side;
  map.style.cssText = `background: url(maps/${Math.floor(k / 1000)}/${k}.png) ${100 * (pitch * place + 1) / side / (width - 1)}% 50% / ${100 * width}% ${100 * pitch / side}% no-repeat`;
  shown.append(image, map);
  return shown;
}

function card(k) {
  const made = element("a", undefined, "card"), strip = element("div", undefined, "strip"), title = element("h3", named(k));
  made.href = `#${k}`;
  title.append(element("span", `${all.given[k] ? " ✎" : ""} ${all.name[k] ? k : ""}`, "id"));
  all.shown[k].forEach((row, place) => strip.append(picture(k, place, row, all.cells[k], "")));
  const alive = all.images[k] > 0;
  const first = alive ? `${percent(all.share[k])} ${className(all.label[k])}` : "never active";
  const second = alive ? `in ${percent(all.frequency[k])} of the images · ${signed(all.contribution[k])}` : "";
  made.append(title, strip, element("p", first), element("p", second));
  return made;
}

const collator = new Intl.Collator("en", { numeric: true });
const orders = {
  activation: (a, b) => all.activation[b] - all.activation[a],
  frequency: (a, b) => all.images[b] - all.images[a],
  rare: (a, b) => all.images[a] - all.images[b],
  specific: (a, b) => (all.entropy[a] ?? 99) - (all.entropy[b] ?? 99),
  contribution: (a, b) => (all.contribution[b] ?? -Infinity) - (all.contribution[a] ?? -Infinity),
  against: (a, b) => (all.contribution[a] ?? Infinity) - (all.contribution[b] ?? Infinity),
  small: (a, b) => (all.size[a] ?? 2) - (all.size[b] ?? 2),
  large: (a, b) => (all.size[b] ?? -1) - (all.size[a] ?? -1),
  name: (a, b) => !all.name[a] - !all.name[b] || collator.compare(named(a), named(b)),
  id: () => 0,
};
const kinds = {
  "": () => true,
  alive: (k) => all.images[k] > 0,
  named: (k) => all.given[k],
  always: (k) => all.always[k],
  dead: (k) => all.images[k] === 0,
};

function choose() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), wanted = byClass.value, is = kinds[kind.value];
  order = [];
  for (let k = 0; k < total; k++) {
    if (!is(k) || (wanted !== "" && all.label[k] !== +wanted && all.top[k] !== +wanted)) continue;
    const text = words.length ? `${named(k)} ${k} ${className(all.label[k])}`.toLowerCase() : "";
    if (words.every((word) => text.includes(word))) order.push(k);
  }
  const compare = orders[sort.value];
  order.sort((a, b) => compare(a, b) || a - b);
  $("count").textContent = `${order.length.toLocaleString("en")} of ${total.toLocaleString("en")} concepts`;
  clear();
  draw();
}

function clear() {
  drawn.forEach((node) => node.remove());
  drawn.clear();
  grid = null;
}

function measure() {
  const width = list.clientWidth, gap = 12, columns = Math.max(1, Math.floor((width + gap) / (300 + gap)));
  const side = (width - (columns - 1) * gap) / columns;
  return { columns, side, gap, height: Math.round((side - 34) / 4 + 98) };
}

// only the cards in view and a few around them exist, whatever the number of concepts
function draw() {
  if (list.hidden) return;
  grid = grid || measure();
  const pitch = grid.height + grid.gap, rows = Math.ceil(order.length / grid.columns);
  list.style.height = `${Math.max(rows * pitch, 120)}px`;
  const top = -list.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / pitch) - 2) * grid.columns;
  const last = Math.min(order.length, (Math.ceil((top + innerHeight) / pitch) + 2) * grid.columns);
  drawn.forEach((node, place) => {
    if ((place < first || place >= last) && node !== document.activeElement) { node.remove(); drawn.delete(place); }
  });
  for (let place = first; place < last; place++) {
    if (drawn.has(place)) continue;
    const node = card(order[place]), column = place % grid.columns;
    Object.assign(node.style, {
      left: `${column * (grid.side + grid.gap)}px`, top: `${Math.floor(place / grid.columns) * pitch}px`,
      width: `${grid.side}px`, height: `${grid.height}px`,
    });
    const after = [...drawn.keys()].filter((other) => other > place).reduce((a, b) => Math.min(a, b), Infinity);
    list.insertBefore(node, drawn.get(after) || null);  // the tab key follows the order on the screen
    drawn.set(place, node);
  }
  let none = list.querySelector(".empty");
  if (!order.length && !none) list.append(element("p", "No concept is like that.", "empty"));
  if (order.length && none) none.remove();
}

const chunks = new Map();
let arrived = new Map();
function detail(number, content) { arrived.get(number)(content); }
function load(k) {
  const number = Math.floor(k / CATALOGUE.chunk);
  if (!chunks.has(number)) {
    chunks.set(number, new Promise((resolve, reject) => {
      arrived.set(number, resolve);
      const script = document.createElement("script");
      script.src = `data/detail-${number}.js`;
      script.onerror = () => { chunks.delete(number); reject(new Error(`${script.src} is missing`)); };
      document.head.append(script);
    }));
  }
  return chunks.get(number).then((content) => [content.concepts[k % CATALOGUE.chunk], content.images]);
}

function bars(entries, text) {
  const made = element("ul", undefined, "bars"), most = Math.max(...entries.map(([, value]) => Math.abs(value)));
  for (const [name, value] of entries) {
    const row = element("li"), track = element("span"), bar = element("b");
    bar.style.width = `${100 * Math.abs(value) / most}%`;
    bar.className = value < 0 ? "against" : "";
    track.append(bar);
    row.append(element("span", name), track, element("em", text(value)));
    made.append(row);
  }
  return made;
}

function section(title, note, content) {
  const made = element("section");
  made.append(element("h3", title), content);
  if (note) made.append(element("p", note, "soft"));
  return made;
}

function facts(k, own) {
  const made = element("dl", undefined, "facts");
  const rows = [
    ["active in images", `${all.images[k].toLocaleString("en")} (${percent(all.frequency[k], 1)})`],
    ["active at positions", own.positions.toLocaleString("en")],
    ["entropy of labels", all.entropy[k] === null ? "–" : `${all.entropy[k].toFixed(2)} of at most ${Math.log(classes.length).toFixed(2)}`],
    ["takes part in answers", own.answers.toLocaleString("en")],
    ["mean contribution", signed(all.contribution[k])],
    ["size", all.size[k] === null ? "–" : `${percent(all.size[k], 1)} of the pixels`],
  ];
  for (const [name, value] of rows) made.append(element("dt", name), element("dd", value));
  return made;
}

function example(k, shown, images, place, cells) {
  const [row, activation, contribution, size] = shown, [id, labels, answer] = images[row];
  const made = element("figure"), caption = element("figcaption");
  const names = labels.map(className).join(", ") || "no label";
  const said = labels.includes(answer) ? "" : `, taken for ${className(answer)}`;
  caption.append(element("div", names + said), element("div", `S ${short(activation)} · ${signed(contribution)}`));
  caption.title = `${id}: activation ${activation}, adds ${contribution} to ${className(answer)}, size ${percent(size, 1)}`;
  made.append(picture(k, place, row, cells, `${names}, image ${id}`), caption);
  return made;
}

async function show(k) {
  let loaded;
  try { loaded = await load(k); } catch (error) { loaded = [null, {}]; page.replaceChildren(element("p", error.message, "empty")); }
  if (current() !== k || !loaded[0]) return;
  const [own, images] = loaded, title = element("h2", named(k)), gallery = element("div", undefined, "gallery");
  title.tabIndex = -1;
  title.append(element("span", ` ${all.given[k] ? "✎ " : ""}${k}`, "id"), " ");
  if (all.always[k]) title.append(element("span", "always on", "badge"));
  if (!all.images[k]) { page.replaceChildren(title, element("p", "Never active on these images.", "empty")); return; }
  own.examples.forEach((shown, place) => gallery.append(example(k, shown, images, place, own.examples.length)));
  const columns = element("div", undefined, "columns"), others = element("div", undefined, "others");
  columns.append(section("Numbers", "", facts(k, own)));
  if (own.labels.length) columns.append(section("Labels of its images", "share of its activation", bars(own.labels.map(([c, x]) => [className(c), x]), (x) => percent(x))));
  if (own.classes.length) columns.append(section("Contributes to", "sum over all answers, ochre speaks against", bars(own.classes.map(([c, x]) => [className(c), x]), signed)));
  for (const [partner, , overlap] of own.partners) {
    const other = card(partner);
    other.lastChild.textContent = `at ${percent(overlap, 1)} of their positions together`;
    others.append(other);
  }
  page.replaceChildren(title, element("p", "Images with the largest activation; S and what it adds to the answer.", "soft"), gallery, columns);
  if (own.partners.length) page.append(section("Active together with", "", others));
  title.focus({ preventScroll: true });
}

const current = () => /^#\d+$/.test(location.hash) && +location.hash.slice(1) < total ? +location.hash.slice(1) : null;
function route() {
  const k = current(), was = list.hidden;
  if (k !== null && !was) scrolled = scrollY;
  list.hidden = k !== null;
  page.hidden = k === null;
  for (const id of ["back", "previous", "next"]) $(id).hidden = k === null;
  for (const node of [search, sort, kind, byClass, $("count")]) node.hidden = k !== null;
  if (k === null) {
    document.title = `Concepts of ${CATALOGUE.title}`;
    clear();
    draw();
    if (was) scrollTo(0, scrolled);
    draw();
    return;
  }
  const place = order.indexOf(k);
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place === order.length - 1;
  document.title = `${named(k)}, concepts of ${CATALOGUE.title}`;
  scrollTo(0, 0);
  show(k);
}
function step(by) {
  const place = order.indexOf(current()) + by;
  if (order.includes(current()) && place >= 0 && place < order.length) location.replace(`#${order[place]}`);
}
function setMaps(on) { $("maps").checked = on; document.body.classList.toggle("maps", on); }

classes.map((name, c) => [name, c]).sort((a, b) => a[0].localeCompare(b[0])).forEach(([name, c]) => byClass.append(new Option(name, c)));
let waiting = 0;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 80); });
for (const node of [sort, kind, byClass]) node.addEventListener("change", () => { scrollTo(0, 0); choose(); });
$("maps").addEventListener("change", (event) => setMaps(event.target.checked));
$("back").addEventListener("click", () => { location.hash = ""; });
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
addEventListener("resize", () => { clear(); draw(); });
addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName) && event.key !== "Escape") return;
  if (event.key === "/" && current() === null) { event.preventDefault(); search.focus(); }
  else if (event.key === "m") setMaps(!$("maps").checked);
  else if (event.key === "Escape") { if (current() !== null) location.hash = ""; else if (search.value) { search.value = ""; choose(); } }
  else if (event.key === "ArrowLeft" && current() !== null) step(-1);
  else if (event.key === "ArrowRight" && current() !== null) step(1);
});
choose();
if (current() !== null) route();
