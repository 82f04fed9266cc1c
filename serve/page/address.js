/** What is looked at, as the fragment of the address: links can be shared, and Back works. */

const EMPTY = {
  view: "explain", // or "concepts"
  model: "", // name@version
  against: "", // name@version beside it
  sample: "", // name@version/number of an example picture
  copy: "", // small JPEG in base64url, the picture of a shared link
  local: "", // number of a picture that only this tab has
  class: "", // explained class; "" for the one each model answers
  show: "heat", // or "colours", "picture"
  opacity: "85", // percent
  words: "", behind: "", // that an encoder compares the picture with, with commas between them
  change: "", // LAYER/ID:FACTOR,… concepts that are switched off or scaled
  concept: "", of: "", // LAYER/ID whose page is open, and name@version it belongs to when that is not `model`
  layer: "", query: "", by: "", sort: "", roots: "", page: "1", // of the list of concepts
};

/** The state that a fragment describes; what is missing or unknown has its default. */
export function readAddress(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  return Object.fromEntries(Object.entries(EMPTY).map(([key, value]) => [key, given.get(key) || value]));
}

/** The fragment of a state, without defaults. */
export function writeAddress(state) {
  const changed = Object.entries(EMPTY).filter(([key, value]) => state[key] !== value);
  return `#${new URLSearchParams(changed.map(([key]) => [key, state[key]]))}`;
}

/** "features.11/12:0,features.11/40:1.5" as a Map from LAYER/ID to the factor. */
export function readFactors(text) {
  const found = new Map();
  for (const piece of text.split(",")) {
    const [, concept, factor] = /^(.+\/\d+):(\d+(?:\.\d+)?)$/.exec(piece) ?? [];
    if (concept) found.set(concept, Math.min(100, Number(factor)));
  }
  return found;
}

export function writeFactors(factors) {
  return [...factors].filter(([, factor]) => factor !== 1).map(([concept, factor]) => `${concept}:${factor}`).join(",");
}

/** LAYER/ID as { layer, id }; null for anything else. */
export function readConcept(text) {
  const [, layer, id] = /^(.+)\/(\d+)$/.exec(text) ?? [];
  return layer ? { layer, id: Number(id) } : null;
}

export const conceptKey = ({ layer, id }) => `${layer}/${id}`;
