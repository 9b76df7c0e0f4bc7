// Sorts a table by the column whose header button was pressed: first the better values on top, then reversed.
// Rows without a value stay at the end.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), table = header.closest("table"), body = table.tBodies[0];
    const column = header.cellIndex, first = header.dataset.first;
    const other = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const numeric = Number(x) - Number(y);
      return sign * (Number.isNaN(numeric) ? x.localeCompare(y, "en", { numeric: true }) : numeric);
    };
    body.append(...[...body.rows].sort(compare));
    for (const each of header.parentElement.cells) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    table.querySelector("caption [role=status]").textContent = `Sorted by ${header.dataset.title}, ${order}.`;
  });
}
