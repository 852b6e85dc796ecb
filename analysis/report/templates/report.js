"use strict";

const table = document.getElementById("rows");
const planned = [...table.tBodies]; // in the order of the plan

// Sorting: a header's button sorts, turns the order round, and restores the order of the plan.

const orders = ["none", "descending", "ascending"];

function fieldOf(body, column) {
  const cell = body.rows[0].cells[column];
  if (cell.classList.contains("number")) {
    return "order" in cell.dataset ? Number(cell.dataset.order) : null;
  }
  return cell.textContent;
}

function compared(a, b) {
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(header, column) {
  const isNumber = header.classList.contains("number");
  const steps = isNumber ? orders : ["none", "ascending", "descending"];
  const next = steps[(steps.indexOf(header.getAttribute("aria-sort")) + 1) % steps.length];
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", next);
  const bodies = [...planned];
  if (next !== "none") {
    const sign = next === "ascending" ? 1 : -1;
    const known = bodies.filter((body) => fieldOf(body, column) !== null);
    const unknown = bodies.filter((body) => fieldOf(body, column) === null); // last in both orders
    known.sort((a, b) => sign * compared(fieldOf(a, column), fieldOf(b, column)));
    bodies.splice(0, bodies.length, ...known, ...unknown);
  }
  table.append(...bodies);
}

[...table.tHead.rows[0].cells].forEach((header, column) => {
  header.querySelector("button").addEventListener("click", () => sortBy(header, column));
});

// Filtering by task

const task = document.getElementById("task");
const shown = document.getElementById("shown");

function filter() {
  let count = 0;
  for (const body of planned) {
    body.hidden = task.value !== "" && body.dataset.task !== task.value;
    count += body.hidden ? 0 : 1;
  }
  shown.textContent = count === planned.length ? `${count} rows` : `${count} of ${planned.length} rows`;
}

task.closest(".filter").hidden = false; // without a script it would do nothing
task.addEventListener("change", filter);
filter(); // a browser may keep the choice when the page is loaded again

// A link to something within closed details opens them.

function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target === null) return;
  let isOpened = false;
  for (let outer = target.closest("details"); outer !== null; outer = outer.parentElement.closest("details")) {
    isOpened ||= !outer.open;
    outer.open = true;
  }
  if (isOpened) target.scrollIntoView();
}

addEventListener("hashchange", open);
open();
