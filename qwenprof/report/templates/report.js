// Sorts a table by the column whose header is pressed. Without it the report reads the same.
"use strict";
(() => {
  const collator = new Intl.Collator("en", { numeric: true });
  const next = { none: "ascending", ascending: "descending", descending: "none" };

  const keyed = (column) => (row) => {
    const cell = row.cells[column];
    return { row, number: parseFloat(cell?.dataset.sort), text: cell?.textContent ?? "" };
  };

  // Whatever the direction, what is no number comes last: nothing was measured there.
  const compare = (sign) => (a, b) => {
    const [aIsText, bIsText] = [isNaN(a.number), isNaN(b.number)];
    if (aIsText !== bIsText) return aIsText - bIsText;
    return sign * (aIsText ? collator.compare(a.text, b.text) : a.number - b.number);
  };

  const sorted = (rows, column, direction) => {
    if (direction === "none") return rows;
    const sign = direction === "ascending" ? 1 : -1;
    return rows.map(keyed(column)).sort(compare(sign)).map((each) => each.row);
  };

  const press = (headers, column, body, rows) => {
    const direction = next[headers[column].getAttribute("aria-sort")];
    headers.forEach((header) => header.setAttribute("aria-sort", "none"));
    headers[column].setAttribute("aria-sort", direction);
    body.append(...sorted(rows, column, direction));
  };

  for (const table of document.querySelectorAll("main table")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    if (rows.length < 2) continue;
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      if (!button.textContent) button.setAttribute("aria-label", `column ${column + 1}`);
      button.addEventListener("click", () => press(headers, column, body, rows));
      header.setAttribute("aria-sort", "none");
      header.replaceChildren(button);
    });
  }

  // Paper cannot be unfolded.
  const folded = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...folded()];
    opened.forEach((each) => (each.open = true));
  });
  addEventListener("afterprint", () => opened.forEach((each) => (each.open = false)));
})();
