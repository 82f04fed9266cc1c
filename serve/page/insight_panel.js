/** What an encoder with named concepts sees in the picture: concepts of every place, and what is like words. */

import { copyOf, make, partsOf } from "./elements.js";
import { colourOf, readLabels } from "./labels.js";
import { Patches } from "./patches.js";
import { Stage } from "./stage.js";
import { percent, plain, signed } from "./words.js";

const LAYER = "patches";
const SHOWN = 12; // concepts listed
const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export class InsightPanel {
  /**
   * @param app { api, title(model), change(changes), openConcept(model, key), say(text) }
   * @param {string} model name@version
   * @param {boolean} main whether its words are those of the address
   */
  constructor(app, model, main) {
    Object.assign(this, { app, model, main, picture: null, place: null, chosen: null, labels: null });
    this.root = copyOf("insight");
    this.part = partsOf(this.root);
    this.stage = new Stage(this.part.canvas);
    const { canvas, ask, retry, whole } = this.part;
    this.part.title.textContent = app.title(model);
    ask.addEventListener("submit", (event) => this.submit(event));
    retry.addEventListener("click", () => this.load());
    whole.addEventListener("click", () => this.choosePlace(null));
    canvas.addEventListener("click", (event) => this.clicked(event));
    canvas.addEventListener("keydown", (event) => this.moved(event));
  }

  /** Follows the state: another picture or other words are asked about, the rest is drawn again. */
  async update(state, picture) {
    this.state = state;
    const asked = JSON.stringify([state.words, state.behind]);
    if (picture !== this.picture || asked !== this.asked) {
      if (picture !== this.picture) Object.assign(this, { picture, place: null, chosen: null });
      this.asked = asked;
      await this.load();
    } else if (this.patches) {
      this.drawStage();
    }
  }

  submit(event) {
    event.preventDefault();
    const { words, behind } = this.part;
    this.chosen = null;
    this.app.change({ words: listOf(words.value).join(", "), behind: listOf(behind.value).join(", ") });
  }

  async load() {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    this.root.classList.add("busy");
    this.part.problem.hidden = true;
    this.part.words.value = this.state.words;
    this.part.behind.value = this.state.behind;
    try {
      const label = listOf(this.state.words), background = label.length ? listOf(this.state.behind) : [];
      const meta = await this.app.api.about(this.picture, this.model, "segment", { label, background }, signal);
      const [answer] = meta.segmentations;
      const labels = answer.map && (await readLabels(answer.map));
      signal.throwIfAborted();
      this.receive(answer, labels);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.part.problem.hidden = false;
      this.part.problemText.textContent = error.message;
      this.app.say(error.message);
    }
    this.root.classList.remove("busy");
  }

  receive(answer, labels) {
    Object.assign(this, { answer, labels, patches: new Patches(answer.patches) });
    this.part.body.hidden = false;
    this.stage.setPicture(this.picture.bitmap, null);
    this.drawSegments();
    this.drawConcepts();
    this.drawStage();
    const found = answer.segments.map(({ label, share }) => `${label} ${percent(share)}`).join(", ");
    this.app.say(`${this.app.title(this.model)}: ${found || `${answer.patches.concepts.length} concepts`}`);
  }

  // --- picture --------------------------------------------------------------------------------------------------------
  drawStage() {
    const strength = this.state.opacity / 100;
    const map = this.chosen === null ? null : this.patches.map(this.chosen);
    this.stage.draw(map ? { map } : this.labels ? { tint: this.labels.bitmap } : null, map ? Math.max(0.5, strength) : strength / 2);
    if (this.place) this.stage.mark(this.patches.box(this.place));
    this.part.caption.textContent = this.caption(map);
    this.part.canvas.setAttribute("aria-label", `${this.part.caption.textContent} Arrow keys move from place to place.`);
    for (const row of this.part.concepts.children) row.classList.toggle("shown", Number(row.dataset.id) === this.chosen);
  }

  caption(map) {
    if (map) return `Where ${this.patches.known.get(this.chosen).name} is.`;
    if (this.labels && !this.place) return "Every place in the colour of the word it is most like.";
    if (!this.place) return "Click a place to see its concepts.";
    const label = this.labels && this.nameAt(this.place);
    return label ? `The place with the frame is most like ${label}.` : "The concepts of the place with the frame are listed.";
  }

  nameAt(place) {
    const [left, top, right, bottom] = this.patches.box(place);
    const value = this.labels.at((left + right) / 2, (top + bottom) / 2);
    return value ? this.answer.labels[value - 1] : "the background";
  }

  clicked(event) {
    const { left, top, width, height } = this.part.canvas.getBoundingClientRect();
    this.choosePlace(this.patches.cell((event.clientX - left) / width, (event.clientY - top) / height));
  }

  moved(event) {
    const move = MOVES[event.key];
    if (!move || !this.patches) return;
    event.preventDefault();
    const { row, column } = this.place ?? { row: Math.floor(this.patches.height / 2), column: Math.floor(this.patches.width / 2) };
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));
    this.choosePlace({ row: within(row + move[0], this.patches.height), column: within(column + move[1], this.patches.width) });
  }

  choosePlace(place) {
    Object.assign(this, { place, chosen: null });
    this.drawConcepts();
    this.drawStage();
    const [first] = place ? this.patches.at(place) : [];
    if (place) this.app.say(first ? `Strongest here: ${first.name}` : "No concept is active here.");
  }

  // --- concepts -------------------------------------------------------------------------------------------------------
  drawConcepts() {
    const found = this.place ? this.patches.at(this.place) : this.patches.all();
    const shown = found.slice(0, SHOWN), most = Math.max(...shown.map(({ value }) => value), 1e-9);
    this.part.where.textContent = this.place ? "Concepts of this place" : "Concepts of the picture";
    this.part.whole.hidden = !this.place;
    this.part.concepts.replaceChildren(...shown.map((concept) => this.row(concept, most)));
    const rest = found.length - shown.length;
    this.part.more.textContent = found.length === 0 ? "No concept is active here." : rest ? `and ${rest} weaker ones.` : "";
  }

  row({ id, name, value }, most) {
    const bar = make("i");
    bar.style.width = `${(100 * value) / most}%`;
    const colour = () => {
      this.chosen = this.chosen === id ? null : id;
      this.drawStage();
      this.part.canvas.scrollIntoView({ block: "nearest" }); // on a phone the list is below the picture
    };
    return make("li", { "data-id": id },
      make("button", { type: "button", class: "colour", onclick: colour, "aria-label": `Colour the picture by ${name}` },
        make("span", { class: "name", text: name }), make("span", { class: "track" }, bar), make("span", { class: "value", text: plain(value) })),
      make("button", { type: "button", class: "link", text: "about", "aria-label": `About ${name}`, onclick: () => this.open(id) }));
  }

  open(id) {
    this.app.openConcept(this.model, `${LAYER}/${id}`);
  }

  drawSegments() {
    const { segments } = this.answer;
    this.part.segmentsOf.hidden = !this.labels;
    this.part.segments.replaceChildren(...segments.map((segment) => this.segment(segment)));
    this.part.none.textContent = this.labels && !segments.length ? "No place is most like any of the words." : "";
  }

  /** A word with what its score is the sum of. */
  segment({ label, index, share, score, concepts, rest, bias, residual }) {
    const swatch = make("i", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colourOf(index);
    const parts = concepts.map((one) => ({ ...one, open: () => this.open(one.id) }));
    if (rest.count) parts.push({ name: `${rest.count} others`, contribution: rest.contribution });
    parts.push({ name: "no concept", contribution: bias });
    const most = Math.max(...parts.map(({ contribution }) => Math.abs(contribution)), 1e-9);
    return make("li", {},
      make("h4", {}, swatch, make("span", { text: label }), make("span", { class: "value", text: `${percent(share)} · cosine ${plain(score)}` })),
      make("ol", { class: "parts" }, ...parts.map((part) => partRow(part, most))),
      make("p", { class: "soft", text: residual < 1e-5 ? "The parts add up to the cosine." : `The parts miss the cosine by ${residual.toPrecision(1)}.` }));
  }

  renamed(key, name) {
    const id = Number(key.split("/").at(-1));
    this.patches?.rename(id, name);
    for (const segment of this.answer?.segments ?? []) for (const one of segment.concepts) if (one.id === id) one.name = name;
    if (!this.patches) return;
    this.drawSegments();
    this.drawConcepts();
    this.drawStage();
  }
}

function partRow({ name, contribution, open }, most) {
  const bar = make("i");
  bar.style.width = `${(100 * Math.abs(contribution)) / most}%`;
  const said = open ? make("button", { type: "button", class: "link name", text: name, onclick: open }) : make("span", { class: "name soft", text: name });
  return make("li", { class: contribution < 0 ? "against" : "for" }, said, make("span", { class: "track" }, bar), make("span", { class: "value", text: signed(contribution) }));
}

/** "dog, grass" as ["dog", "grass"], each once. */
function listOf(text) {
  return [...new Set(text.split(",").map((word) => word.trim()).filter(Boolean))];
}
