/** The concepts of the patches of a picture: which are where, and one of them as a map. */

export class Patches {
  /** @param answer { height, width, concepts, cells } as the service tells it. */
  constructor({ height, width, concepts, cells }) {
    Object.assign(this, { height, width, concepts, cells });
    this.known = new Map(concepts.map((concept) => [concept.id, concept]));
  }

  /** Concepts of a patch, largest first: [{ id, name, value }]. */
  at({ row, column }) {
    return this.cells[row * this.width + column].map(([id, value]) => ({ id, name: this.known.get(id).name, value }));
  }

  /** Concepts of the whole picture by their largest value. */
  all() {
    return this.concepts.map(({ id, name, peak }) => ({ id, name, value: peak }));
  }

  /** Where a concept is, as readMap of heatmap.js returns maps; null where it is not. */
  map(id) {
    if (!this.known.has(id)) return null;
    const values = Float32Array.from(this.cells, (cell) => cell.find(([one]) => one === id)?.[1] ?? 0);
    return { width: this.width, height: this.height, values, scale: this.known.get(id).peak };
  }

  /** The patch at a place of the picture, given as shares of its sides. */
  cell(x, y) {
    const within = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    return { row: within(y, this.height), column: within(x, this.width) };
  }

  /** A patch as left, top, right, bottom in shares of the sides. */
  box({ row, column }) {
    return [column / this.width, row / this.height, (column + 1) / this.width, (row + 1) / this.height];
  }

  rename(id, name) {
    if (this.known.has(id)) this.known.get(id).name = name;
  }
}
