/** The list of all concepts of a model: searched, sorted, page by page. */

import { at } from "./api.js";
import { conceptKey } from "./address.js";
import { debounced, make, partsOf, setChoices } from "./elements.js";
import { patchOf } from "./patch.js";
import { counted, percent } from "./words.js";

const PER_PAGE = 24, PATCH_PX = 152;
const SORTS = [
  ["contribution", "most important"], ["frequency", "most frequent"], ["entropy", "most specific"],
  ["size", "smallest"], ["name", "name"], ["id", "number"],
];
const SORTS_OF_ENCODERS = SORTS.filter(([value]) => ["frequency", "name", "id"].includes(value));

export class Browser {
  /** @param app { api, info(model), change(changes, options) } */
  constructor(app, root) {
    Object.assign(this, { app, root, part: partsOf(root), drawn: "" });
    const { search, by, sort, layer, roots, before, after } = this.part;
    const typed = debounced(200, () => this.app.change({ query: search.value.trim(), page: "1" }, { keep: true }));
    search.addEventListener("input", typed);
    this.part.controls.addEventListener("submit", (event) => event.preventDefault());
    by.addEventListener("change", () => app.change({ by: by.value, page: "1" }));
    sort.addEventListener("change", () => app.change({ sort: sort.value, page: "1" }));
    layer.addEventListener("change", () => app.change({ layer: layer.value, page: "1" }));
    roots.addEventListener("change", () => app.change({ roots: roots.checked ? "1" : "", page: "1" }));
    before.addEventListener("click", () => this.turn(-1));
    after.addEventListener("click", () => this.turn(1));
  }

  turn(pages) {
    this.app.change({ page: String(Number(this.state.page) + pages) });
    this.root.scrollIntoView();
  }

  /** Forgets what is shown, so that it is read again. */
  forget() {
    this.drawn = "";
  }

  async update(state) {
    this.state = state;
    const { model, query, by, sort, layer, roots, page } = state;
    const wanted = JSON.stringify([model, query, by, sort, layer, roots, page]);
    if (wanted === this.drawn) return;
    this.drawn = wanted;
    try {
      const info = await this.app.info(model);
      const own = info.layers.find((one) => one.layer === layer) ?? info.layers.at(-1);
      this.setControls(info, own, state);
      if (!own) return this.nothing("This model has no concepts: it was trained without a concept layer, so only heatmaps tell where it looks.");
      const wish = { layer: own.layer, page: /^[1-9]\d*$/.test(page) ? page : "1", per_page: PER_PAGE };
      if (query) wish.query = query;
      if (own.relations && roots) wish.roots = true;
      if (own.catalogue && info.classes.includes(by)) wish.class = by;
      if (this.sorts.some(([value]) => value === sort)) wish.sort = sort;
      const found = await this.app.api.json(at.concepts(model, wish));
      if (this.drawn === wanted) this.draw(found, own);
    } catch (error) {
      this.drawn = "";
      this.nothing(error.message);
    }
  }

  setControls(info, own, state) {
    this.sorts = own?.relations ? SORTS_OF_ENCODERS : own?.catalogue ? SORTS : [["id", "number"], ["name", "name"]];
    setChoices(this.part.sort, this.sorts, state.sort || this.sorts[0][0]);
    setChoices(this.part.by, [["", "any class"], ...info.classes.map((name) => [name, name])], state.by);
    setChoices(this.part.layer, info.layers.map(({ layer }) => [layer, layer]), own?.layer);
    this.part.controls.hidden = !own;
    this.part.byLabel.hidden = !own?.catalogue || !info.classes.length;
    this.part.rootsLabel.hidden = !own?.relations;
    this.part.roots.checked = Boolean(state.roots);
    this.app.finder.update(state.model, info);
    this.part.layerLabel.hidden = info.layers.length < 2;
    if (document.activeElement !== this.part.search) this.part.search.value = state.query;
  }

  nothing(text) {
    this.part.list.replaceChildren();
    this.part.count.textContent = text;
    this.part.pager.hidden = true;
  }

  draw(found, own) {
    const { list, count, pager, before, after, where } = this.part;
    list.replaceChildren(...found.concepts.map((concept) => this.card(concept)));
    const all = found.total === own.concepts ? `All ${counted(found.total, "concept")}` : `${counted(found.total, "concept")} of ${own.concepts.toLocaleString("en")}`;
    count.textContent = own.catalogue ? `${all}.` : `${all}. No catalogue was made for this model, so there are no example pictures.`;
    pager.hidden = found.pages < 2;
    where.textContent = `Page ${found.page} of ${found.pages}`;
    before.disabled = found.page <= 1;
    after.disabled = found.page >= found.pages;
  }

  card(concept) {
    const open = () => this.app.change({ concept: conceptKey(concept) });
    const [label] = concept.labels;
    const seen = concept.images === null ? (concept.frequency === null ? "" : `at ${percent(concept.frequency, 1)} of places`) : concept.images === 0 ? "never seen" : `in ${percent(concept.frequency)} of pictures`;
    return make("li", {},
      make("button", { type: "button", class: "concept", onclick: open },
        concept.thumbnail ? patchOf(this.app.api, concept.thumbnail, concept.thumbnail_map, PATCH_PX) : make("span", { class: "blank" }),
        make("span", { class: "about" },
          make("b", { text: concept.name }),
          make("span", { text: label ? `${percent(label.share)} ${label.name}` : "" }),
          make("span", { text: seen }),
        )));
  }
}
