"use strict";
// The table of runs: #rows holds {columns: [{label, digits}], rows: [[...]]}; the first column is the trial's name, the
// last one its page. Only the rows that are looked at become elements, so that ten thousand trials open like ten.
(() => {
  const { columns, rows } = JSON.parse(document.getElementById("rows").textContent);
  const table = document.getElementById("trials"), filter = document.getElementById("filter");
  const status = document.getElementById("status"), count = document.getElementById("count"), more = document.getElementById("more");
  const PAGE = 100, LINK = columns.length, STATUS = 1;
  let order = [], shown = 0, by = 0, up = true;

  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const display = (value, column) => value === null ? "–" : column.digits === undefined ? String(value) : value.toFixed(column.digits);
  const texts = rows.map((row) => columns.map((column, i) => display(row[i], column)).join(" ").toLowerCase());

  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));

  function line(row) {
    const made = document.createElement("tr");
    columns.forEach((column, i) => {
      const cell = element(i ? "td" : "th", i ? display(row[i], column) : undefined, column.kind);
      if (!i) {
        cell.scope = "row";
        const name = element(row[LINK] ? "a" : "span", row[0]);
        if (row[LINK]) name.href = row[LINK];
        cell.append(name);
      }
      if (i === STATUS && row[i] === "failed") cell.classList.add("failed");
      made.append(cell);
    });
    return made;
  }

  function extend() {
    const next = order.slice(shown, shown + PAGE);
    table.tBodies[0].append(...next.map((i) => line(rows[i])));
    shown += next.length;
    more.hidden = shown === order.length;
    more.textContent = `${Math.min(PAGE, order.length - shown)} more`;
  }

  function choose() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    order = [...rows.keys()].filter((i) => (!status.value || rows[i][STATUS] === status.value) && words.every((word) => texts[i].includes(word)));
    order.sort((i, j) => {
      const a = rows[i][by], b = rows[j][by];
      if (a === null || b === null) return (a === null) - (b === null) || i - j; // what is missing comes last
      return (up ? 1 : -1) * compare(a, b) || i - j;
    });
    count.textContent = `${order.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} runs`;
    table.tBodies[0].replaceChildren();
    shown = 0;
    extend();
  }

  const heads = columns.map((column, i) => {
    const head = element("th", undefined, column.kind), button = element("button", column.label);
    head.scope = "col";
    button.addEventListener("click", () => {
      up = by === i ? !up : column.kind !== "number"; // the best first, which for metrics is the largest
      by = i;
      heads.forEach((other, j) => j === i ? other.setAttribute("aria-sort", up ? "ascending" : "descending") : other.removeAttribute("aria-sort"));
      choose();
    });
    head.append(button);
    return head;
  });
  table.tHead.rows[0].append(...heads);
  filter.addEventListener("input", choose);
  status.addEventListener("change", choose);
  more.addEventListener("click", extend);
  choose();
})();
