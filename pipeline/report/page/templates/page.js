"use strict";
// Headings of columns become buttons that sort; without this script the tables are there all the same.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const headings = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  // Numbers come before words.
  const order = (a, b) => {
    const [wordA, wordB] = [a, b].map(text => Number.isNaN(Number(text)));
    if (wordA || wordB) return wordA - wordB || a.localeCompare(b, "en", { numeric: true });
    return Number(a) - Number(b) || 0;
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.ariaSort === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.ariaSort = down ? "descending" : "ascending";
      const rows = [...body.rows]; // those that have no value stay last
      const there = rows.filter(row => value(row, column) !== "");
      const none = rows.filter(row => value(row, column) === "");
      there.sort((a, b) => order(value(a, column), value(b, column)));
      body.append(...(down ? there.reverse() : there), ...none);
    });
  });
}
// Paper shows what is folded up on the screen.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
