/** The page of a concept, a sheet over the rest: what it stands for, pictures that show it, its name. */

import { at } from "./api.js";
import { conceptKey, readConcept } from "./address.js";
import { make, partsOf } from "./elements.js";
import { greyMap, paint } from "./heatmap.js";
import { drawRelatives } from "./relatives.js";
import { counted, moment, percent, shares, signed } from "./words.js";

const EXAMPLE_PX = 224;

export class ConceptSheet {
  /** @param app { api, change(changes), renamed(key, name) } */
  constructor(app, dialog) {
    Object.assign(this, { app, dialog, part: partsOf(dialog), shown: "" });
    dialog.addEventListener("close", () => this.shown && app.change({ concept: "", of: "" }));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    this.part.close.addEventListener("click", () => dialog.close());
    this.part.edit.addEventListener("click", () => this.editName(true));
    this.part.cancel.addEventListener("click", () => this.editName(false));
    this.part.form.addEventListener("submit", (event) => this.rename(event));
    this.part.maps.addEventListener("change", () => this.drawMaps());
  }

  /** Follows the state: opens, closes or changes to another concept. */
  async update(model, text) {
    const wanted = text && `${model} ${text}`;
    if (wanted === this.shown) return;
    this.shown = wanted;
    const concept = readConcept(text);
    if (!concept) {
      if (this.dialog.open) this.dialog.close();
      return;
    }
    Object.assign(this, { model, concept });
    this.clear();
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const detail = await this.app.api.json(at.concept(model, concept));
      if (this.shown === wanted) this.draw(detail);
    } catch (error) {
      this.part.message.textContent = error.message;
    }
  }

  clear() {
    this.part.name.textContent = `concept ${this.concept.id}`;
    for (const part of ["facts", "examples", "partners", "history"]) this.part[part].replaceChildren();
    for (const part of ["message", "from"]) this.part[part].textContent = "";
    drawRelatives(this.part, null);
    for (const part of ["examplesOf", "partnersOf", "historyOf"]) this.part[part].hidden = true;
    this.editName(false);
    this.dialog.scrollTop = 0;
  }

  draw(detail) {
    this.detail = detail;
    this.part.name.textContent = detail.name;
    this.part.from.textContent = `Concept ${detail.id} of ${detail.layer} in ${this.app.title(this.model)}. ${NAMED[detail.named_by]}`;
    this.part.facts.replaceChildren(...factsOf(detail).flatMap(([term, text]) => [make("dt", { text: term }), make("dd", { text })]));
    this.part.examplesOf.hidden = detail.examples.length === 0;
    this.drawers = detail.examples.map((example) => new Example(this.app.api, example));
    this.part.examples.replaceChildren(...this.drawers.map((drawer) => drawer.root));
    this.drawMaps();
    drawRelatives(this.part, detail.relatives, (id) => this.go(id));
    this.part.partnersOf.hidden = detail.partners.length === 0;
    this.part.partners.replaceChildren(...detail.partners.map((partner) => this.partner(partner)));
    this.part.historyOf.hidden = detail.history.length === 0;
    this.part.history.replaceChildren(...detail.history.map(({ time, before, after }) =>
      make("li", { text: `${moment(time)}: ${after ? `named “${after}”` : "name taken back"}${before ? `, before “${before}”` : ""}` })));
  }

  drawMaps() {
    for (const drawer of this.drawers ?? []) drawer.draw(this.part.maps.checked);
  }

  partner({ id, name, overlap }) {
    return make("li", {}, make("button", { type: "button", class: "link", text: name, onclick: () => this.go(id) }), ` ${percent(overlap)}`);
  }

  /** To another concept of the same layer. */
  go(id) {
    this.app.change({ concept: conceptKey({ layer: this.concept.layer, id }) });
  }

  // --- name -----------------------------------------------------------------------------------------------------------
  editName(on) {
    this.part.form.hidden = !on;
    this.part.title.hidden = on;
    if (on) {
      this.part.input.value = this.detail?.named_by === "nobody" ? "" : this.part.name.textContent;
      this.part.input.select();
      this.part.input.focus();
    }
  }

  async rename(event) {
    event.preventDefault();
    const wanted = this.shown;
    try {
      const detail = await this.app.api.write(at.concept(this.model, this.concept), "PATCH", { name: this.part.input.value.trim() });
      this.app.renamed(this.model, conceptKey(this.concept), detail.name);
      if (this.shown !== wanted) return;
      this.editName(false);
      this.draw(detail);
      this.part.message.textContent = "Saved. Everybody who uses this model sees the new name.";
      this.part.edit.focus();
    } catch (error) {
      this.part.message.textContent = error.message;
    }
  }
}

const NAMED = { user: "Named by people.", catalogue: "Name proposed from what it is found in.", nobody: "Nobody has named it yet." };

/** What is known of a concept, in words. */
function factsOf(detail) {
  if (detail.relatives) return [["Active at", `${percent(detail.frequency)} of all places`], ["Lies on", shares(detail.labels)]].filter(([, text]) => text);
  if (detail.images === null) return [["Statistics", "none: no catalogue was made for this model"]];
  const forThem = detail.classes.filter(({ share }) => share > 0), against = detail.classes.filter(({ share }) => share < 0);
  const found = detail.images === 0 ? "never seen" : `${counted(detail.images, "picture")}, ${percent(detail.frequency)} of those looked through`;
  return [
    ["Seen in", detail.always_on ? `${found}: it is nearly always on` : found],
    ["They show", shares(detail.labels)],
    ["Speaks for", shares(forThem)],
    ["Speaks against", shares(against)],
    ["On average adds", detail.mean_contribution === null ? "" : `${signed(detail.mean_contribution)} to a score`],
    ["Covers", detail.spatial_size === null ? "" : `${percent(detail.spatial_size)} of a picture`],
  ].filter(([, text]) => text);
}

/** A picture of the catalogue with the map of the concept on it. */
class Example {
  constructor(api, example) {
    const { labels, answer, activation } = example;
    this.canvas = make("canvas", { role: "img", width: EXAMPLE_PX, height: EXAMPLE_PX, "aria-label": `Picture of ${labels.join(", ") || "something without label"}` });
    const said = answer === null ? "" : ` · model says ${answer}`;
    const about = example.contribution === null && answer === null && !labels.length ? `strength ${activation.toFixed(2)}` : `${labels.join(", ") || "no label"}${said}`;
    this.root = make("figure", { title: `activation ${activation.toFixed(2)}` }, this.canvas, make("figcaption", { text: about }));
    this.loaded = this.load(api, example);
  }

  async load(api, example) {
    const [photo, map] = await Promise.all([api.bitmap(example.image), api.bitmap(example.map)]);
    this.canvas.height = Math.round((EXAMPLE_PX * photo.height) / photo.width);
    const pen = this.canvas.getContext("2d", { willReadFrequently: true });
    pen.imageSmoothingQuality = "high";
    pen.drawImage(photo, 0, 0, this.canvas.width, this.canvas.height);
    return { pen, before: pen.getImageData(0, 0, this.canvas.width, this.canvas.height), map: greyMap(map) };
  }

  async draw(withMap) {
    try {
      const { pen, before, map } = await this.loaded;
      pen.putImageData(before, 0, 0);
      if (!withMap) return;
      const pixels = pen.getImageData(0, 0, before.width, before.height);
      paint(pixels, map, 1);
      pen.putImageData(pixels, 0, 0);
    } catch (error) {
      this.root.lastChild.textContent = error.message;
    }
  }
}
