// Sorts a table by the column whose header is pressed. Without scripts, tables keep their order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.ariaSort !== "descending";
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      header.ariaSort = down ? "descending" : "ascending";
      const text = (row) => row.cells[column].textContent.trim();
      const number = (row) => Number.parseFloat(text(row).replace(/[,%]/g, ""));
      const numeric = header.classList.contains("number");
      const compare = (a, b) =>
        numeric ? (number(a) || 0) - (number(b) || 0) : text(b).localeCompare(text(a));
      body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b)));
    });
  });
}
