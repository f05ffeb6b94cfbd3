"use strict";
// Headings of columns become buttons that sort; without this script the tables are there all the same.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const headings = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.ariaSort === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.ariaSort = down ? "descending" : "ascending";
      const rows = [...body.rows].sort((a, b) =>
        value(a, column).localeCompare(value(b, column), "en", { numeric: true }));
      const numeric = "value" in body.rows[0].cells[column].dataset;
      if (numeric) rows.sort((a, b) => Number(value(a, column)) - Number(value(b, column)));
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}
// Paper shows what is folded up on the screen.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
