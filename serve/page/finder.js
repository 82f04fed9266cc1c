/** Pictures of the service that show a concept or what words say. */

import { at } from "./api.js";
import { make, partsOf } from "./elements.js";
import { counted, plain } from "./words.js";

const COUNT = 24;

export class Finder {
  /** @param app { api, take(file), openConcept(model, key), say(text) } */
  constructor(app, root) {
    Object.assign(this, { app, root, part: partsOf(root), model: "" });
    this.part.find.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.part.lookFor.value.trim();
      if (text) this.search({ text });
    });
  }

  /** Belongs to a model that can search, or is hidden. */
  update(model, info) {
    this.root.hidden = !info.operations.includes("search");
    if (model === this.model) return;
    this.model = model;
    this.part.found.replaceChildren();
    this.part.foundCount.textContent = "";
  }

  async search(wanted) {
    this.part.foundCount.textContent = "Searching…";
    try {
      const answer = await this.app.api.write(at.search(this.model), "POST", { ...wanted, count: COUNT });
      this.part.found.replaceChildren(...answer.images.map((image) => this.card(image)));
      this.part.foundCount.textContent = `The best ${counted(answer.images.length, "picture")} of ${answer.indexed.toLocaleString("en")}. The frame is where the first concept is strongest.`;
    } catch (error) {
      this.part.found.replaceChildren();
      this.part.foundCount.textContent = error.message;
    }
    this.app.say(this.part.foundCount.textContent);
  }

  card({ id, picture, score, concepts, box: [left, top, right, bottom] }) {
    const shown = make("img", { alt: `Picture ${id}`, loading: "lazy" });
    this.app.api.show(shown, picture).catch(() => (shown.alt = `Picture ${id} cannot be shown`));
    const frame = make("i", { "aria-hidden": "true" });
    Object.assign(frame.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
    const names = concepts.map((one) => make("button", { type: "button", class: "link", text: one.name, onclick: () => this.app.openConcept(this.model, `patches/${one.id}`) }));
    return make("li", {},
      make("button", { type: "button", class: "shot", "aria-label": `Look at picture ${id}`, onclick: () => this.look(picture, id) }, shown, frame),
      make("p", {}, make("b", { text: plain(score) }), ...names.flatMap((name) => [" · ", name])));
  }

  async look(picture, id) {
    try {
      const response = await this.app.api.send(picture, {});
      await this.app.take(new File([await response.blob()], id, { type: "image/jpeg" }));
    } catch (error) {
      this.app.say(error.message, true);
    }
  }
}
