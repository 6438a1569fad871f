"use strict";
const table = document.getElementById("models");
const heads = [...table.tHead.rows[0].cells];
const rows = [...table.tBodies[0].rows];
const words = document.getElementById("words");
const verdict = document.getElementById("verdict");
const by = document.getElementById("by");
const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const kept =
      (!verdict.value || row.dataset.verdict === verdict.value) &&
      wanted.every((word) => texts.get(row).includes(word));
    row.hidden = !kept;
    shown += kept ? 1 : 0;
  }
  document.getElementById("shown").textContent = `${shown} of ${rows.length} are shown`;
}

function valueOf(row, column, numeric) {
  const cell = row.cells[column];
  if (!numeric) return cell.textContent;
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

// A cell without a value comes last in either order.
function sort(column, descending) {
  const numeric = heads[column].dataset.kind === "number";
  const keyed = rows.map((row) => [valueOf(row, column, numeric), row]);
  const sign = descending ? -1 : 1;
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
  heads.forEach((head, at) => {
    if (at === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  by.value = String(column);
}

function turn(column) {
  sort(column, heads[column].getAttribute("aria-sort") === "ascending");
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.addEventListener("click", () => turn(column));
  head.replaceChildren(button);
  by.add(new Option(button.textContent, String(column)));
});
heads[1].setAttribute("aria-sort", "ascending");
by.value = "1";
by.addEventListener("change", () => sort(Number(by.value), false));
document.getElementById("turn").addEventListener("click", () => turn(Number(by.value)));
document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
words.addEventListener("input", filter);
verdict.addEventListener("change", filter);
document.getElementById("controls").hidden = false;
filter();
