/** Holds the page together: the state in the address, the picture, the panels, the list of concepts and the dialogs. */

import { Api, Problem, at } from "./api.js";
import { readAddress, writeAddress, writeFactors } from "./address.js";
import { Browser } from "./browser.js";
import { ConceptSheet } from "./concept_page.js";
import { partsOf, setChoices } from "./elements.js";
import { Finder } from "./finder.js";
import { FlagDialog } from "./flag.js";
import { InsightPanel } from "./insight_panel.js";
import { keyPrompt } from "./key.js";
import { Panel } from "./panel.js";
import { linkCopy, openCopy, openPicture, pictureFile } from "./picture.js";
import { SampleStrip } from "./samples.js";
import { bytes, percent } from "./words.js";

const ANOTHER_PICTURE = { class: "", change: "", view: "explain", concept: "" };

class App {
  constructor() {
    this.part = partsOf(document.getElementById("page"));
    this.api = new Api(keyPrompt(document.getElementById("key")));
    this.state = readAddress("");
    this.versions = new Map(); // name@version -> { title, weight }
    this.infos = new Map();
    this.pictures = new Map(); // what was picked in this tab, by number
    this.panels = [];
    this.strip = new SampleStrip(this, this.part.samples, this.part.more);
    this.browser = new Browser(this, this.part.concepts);
    this.sheet = new ConceptSheet(this, document.getElementById("concept"));
    this.finder = new Finder(this, this.part.finder);
    this.flag = new FlagDialog(this, document.getElementById("flag"));
    this.listen();
  }

  async start() {
    try {
      const { models } = await this.api.json("v1/models");
      this.versions = versionsOf(models);
      setChoices(this.part.model, [...this.versions].map(([key, { title }]) => [key, title]));
      await this.follow();
    } catch (error) {
      this.say(error.message, true);
    }
  }

  listen() {
    const { part } = this;
    part.model.addEventListener("change", () => this.change({ model: part.model.value, change: "", concept: "", of: "", layer: "", by: "", sort: "", roots: "" }));
    part.against.addEventListener("change", () => this.change({ against: part.against.value }));
    part.file.addEventListener("change", () => part.file.files[0] && this.take(part.file.files[0]));
    part.camera.addEventListener("change", () => part.camera.files[0] && this.take(part.camera.files[0]));
    part.choose.addEventListener("click", () => part.file.click());
    part.photo.addEventListener("click", () => part.camera.click());
    part.link.addEventListener("click", () => this.copyLink());
    part.opacity.addEventListener("input", () => this.change({ opacity: part.opacity.value }, { keep: true }));
    for (const choice of part.show.querySelectorAll("input")) choice.addEventListener("change", () => this.change({ show: choice.value }, { keep: true }));
    for (const tab of [part.toExplain, part.toConcepts]) tab.addEventListener("click", () => this.change({ view: tab.value }));
    window.addEventListener("popstate", () => this.follow());
    document.addEventListener("paste", (event) => this.take(pictureFile(event.clipboardData)));
    document.addEventListener("dragover", (event) => this.dragging(event, true));
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && this.dragging(event, false));
    document.addEventListener("drop", (event) => {
      this.dragging(event, false);
      const file = pictureFile(event.dataTransfer);
      file ? this.take(file) : this.say("What was dropped is no picture file.", true);
    });
  }

  dragging(event, on) {
    event.preventDefault();
    document.body.classList.toggle("dragging", on);
  }

  // --- state ----------------------------------------------------------------------------------------------------------
  /** Takes the state from the address. */
  async follow() {
    this.state = readAddress(location.hash);
    if (!this.versions.has(this.state.model)) this.state.model = preferred(this.versions);
    if (!this.versions.has(this.state.against)) this.state.against = "";
    await this.render();
  }

  /** Changes the state and its address; `keep` replaces the present entry of the history. */
  change(changes, { keep = false } = {}) {
    this.state = { ...this.state, ...changes };
    const address = writeAddress(this.state);
    keep ? history.replaceState(null, "", address) : history.pushState(null, "", address);
    return this.render();
  }

  setFactors(factors) {
    return this.change({ change: writeFactors(factors) }, { keep: true });
  }

  async render() {
    const { state, part } = this;
    const concepts = state.view === "concepts";
    part.model.value = state.model;
    part.toExplain.setAttribute("aria-pressed", String(!concepts));
    part.toConcepts.setAttribute("aria-pressed", String(concepts));
    part.explain.hidden = concepts;
    part.concepts.hidden = !concepts;
    this.sheet.update(this.versions.has(state.of) ? state.of : state.model, state.concept);
    if (concepts) return this.browser.update(state);
    part.opacity.value = state.opacity;
    for (const choice of part.show.querySelectorAll("input")) choice.checked = choice.value === state.show;
    setChoices(part.against, [["", "nothing"], ...[...this.versions].filter(([key]) => key !== state.model).map(([key, { title }]) => [key, title])], state.against);
    part.againstLabel.hidden = this.versions.size < 2;
    return this.renderPicture();
  }

  async renderPicture() {
    const { state } = this;
    try {
      await this.renderSamples();
      const picture = await this.picture(state);
      if (state !== this.state) return; // another change came meanwhile and renders for itself
      document.body.classList.toggle("empty", !picture);
      this.part.answer.hidden = !picture;
      if (!picture) return;
      this.part.note.textContent = picture.note;
      const models = [...new Set([state.model, state.against].filter(Boolean))];
      const infos = await Promise.all(models.map((model) => this.info(model)));
      if (state !== this.state) return;
      this.part.show.hidden = infos.every(isEncoder);
      this.setPanels(models, infos.map((info) => (isEncoder(info) ? InsightPanel : Panel)));
      await Promise.all(this.panels.map((panel) => panel.update(state, picture)));
    } catch (error) {
      this.say(error.message, true);
    }
  }

  async renderSamples() {
    const own = await this.info(this.state.model);
    let [model, count] = [this.state.model, own.samples];
    for (const other of count ? [] : this.versions.keys()) {
      const { samples } = await this.info(other);
      if (samples) [model, count] = [other, samples];
    }
    this.part.sampleRow.hidden = !this.strip.update(model, count, this.state.sample);
  }

  setPanels(models, kinds) {
    const wanted = models.map((model, place) => this.panels.find((one) => one.model === model && one.main === (place === 0)) ?? new kinds[place](this, model, place === 0));
    if (wanted.length === this.panels.length && wanted.every((panel, place) => panel === this.panels[place])) return;
    this.panels = wanted;
    this.part.panels.replaceChildren(...wanted.map((panel) => panel.root));
    this.part.panels.classList.toggle("pair", wanted.length > 1);
  }

  // --- picture --------------------------------------------------------------------------------------------------------
  /** The picture of a state; opened once, so that going back is immediate. */
  picture({ sample, copy, local }) {
    const key = local || sample || copy;
    if (!key) return null;
    if (!this.pictures.has(key) && !local) {
      this.pictures.set(key, sample ? this.openSample(sample) : openCopy(copy));
      this.pictures.get(key).catch(() => this.pictures.delete(key));
    }
    return this.pictures.get(key) ?? null;
  }

  async openSample(sample) {
    const [, model, number] = /^(.+)\/(\d+)$/.exec(sample) ?? [];
    if (!model) throw new Problem(0, "This link names no example picture; was it copied whole?");
    const response = await this.api.send(at.sample(model, number), {});
    return openPicture(await response.blob(), `example ${Number(number) + 1}`);
  }

  /** Asks about a file of the user. */
  async take(file) {
    if (!file || this.versions.size === 0) return;
    this.part.file.value = this.part.camera.value = "";
    try {
      const picture = await openPicture(file, file.name || "the picture");
      const local = String(this.pictures.size + 1);
      this.pictures.set(local, Promise.resolve(picture));
      this.say("");
      await this.change({ ...ANOTHER_PICTURE, local, sample: "", copy: "" });
    } catch (error) {
      this.say(error.message, true);
    }
  }

  // --- models ---------------------------------------------------------------------------------------------------------
  info(model) {
    if (!this.infos.has(model)) {
      this.infos.set(model, this.api.json(at.model(model)));
      this.infos.get(model).catch(() => this.infos.delete(model));
    }
    return this.infos.get(model);
  }

  /** Opens the page of a concept of one of the panels' models. */
  openConcept(model, key) {
    return this.change({ concept: key, of: model === this.state.model ? "" : model });
  }

  title(model) {
    return this.versions.get(model).title;
  }

  main() {
    return this.panels[0];
  }

  /** A concept has a new name: shown at once wherever it is. */
  renamed(model, key, name) {
    for (const panel of this.panels.filter((one) => one.model === model)) panel.renamed(key, name);
    this.browser.forget();
    if (this.state.view === "concepts") this.browser.update(this.state);
  }

  // --- words ----------------------------------------------------------------------------------------------------------
  /** Tells screen readers; `visible` shows it to everybody until the next one. */
  say(text, visible = false) {
    this.part.spoken.textContent = text;
    if (visible || !text) {
      this.part.said.textContent = text;
      this.part.said.hidden = !text;
    }
  }

  async copyLink() {
    const picture = await this.picture(this.state);
    const copied = this.state.local ? { ...this.state, local: "", copy: await linkCopy(picture) } : this.state;
    const link = new URL(writeAddress(copied), location.href).href;
    const about = copied.copy
      ? `It contains a small copy of the picture (${bytes(copied.copy.length)}); whoever has the link can see it. The service keeps nothing.`
      : "It names the example picture; nothing else is sent.";
    try {
      await navigator.clipboard.writeText(link);
      this.say(`Link copied. ${about}`, true);
    } catch {
      history.replaceState(null, "", new URL(link).hash);
      this.state = copied;
      this.say(`The link is in the address bar. ${about}`, true);
    }
  }
}

/** Whether a model compares pictures with words, and has no classes. */
const isEncoder = (info) => info.operations.includes("segment");

/** All versions of all models. */
function versionsOf(models) {
  return new Map(models.flatMap(({ name, versions }) => versions.map(({ version, weight }) => {
    const share = weight < 1 ? ` (${percent(weight)})` : "";
    return [`${name}@${version}`, { title: versions.length > 1 ? `${name}, version ${version}${share}` : name, weight }];
  })));
}

/** Of the first model, the version that most pictures go to. */
function preferred(versions) {
  const [first] = versions.keys();
  const name = first.slice(0, first.lastIndexOf("@"));
  const own = [...versions].filter(([key]) => key.startsWith(`${name}@`));
  return own.reduce((best, one) => (one[1].weight > best[1].weight ? one : best))[0];
}

new App().start();
