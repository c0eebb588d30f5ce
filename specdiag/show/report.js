"use strict";
// Sort a table by a column: numbers by data-v, else text; what has no value comes last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const number = head.dataset.kind === "number";
      const rows = [...table.tBodies[0].rows].map((row) => [number ? parseFloat(key(row)) : key(row), row]);
      const isMissing = (value) => (number ? Number.isNaN(value) : value === "");
      rows.sort(([a], [b]) => {
        if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
        const order = number ? a - b : a < b ? -1 : a > b ? 1 : 0;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}
