/** The place of a concept in the tree: what is more general, more specific, and the same. */

import { make } from "./elements.js";
import { counted, percent } from "./words.js";

/**
 * Fills the sections of a concept's page.
 *
 * @param part parentsOf, parents, childrenOf, children, synonymsOf, synonyms
 * @param relatives as the service tells them, or null
 * @param {(id: number) => void} open goes to another concept
 */
export function drawRelatives(part, relatives, open) {
  const { parents, children, synonyms } = relatives ?? { parents: [], children: [], synonyms: [] };
  for (const [section, list, found] of [[part.parentsOf, part.parents, parents], [part.childrenOf, part.children, children], [part.synonymsOf, part.synonyms, synonyms]]) {
    section.hidden = found.length === 0;
    list.replaceChildren(...found.map((one) => entry(one, open)));
  }
}

function entry({ id, name, share, children }, open) {
  const below = children ? `, ${counted(children, "concept")} below it` : "";
  return make("li", {},
    make("button", { type: "button", class: "link", text: name, onclick: () => open(id) }),
    share === undefined ? null : make("span", { text: ` ${percent(share)}${below}` }));
}
