// Sort tables by clicking a column head. The page is complete without this script.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const valueOf = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const missing = (text) => text === "" || text === "–";
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rows = [...table.tBodies[0].rows];
      const texts = new Map(rows.map((row) => [row, valueOf(row, column)]));
      const known = [...texts.values()].filter((text) => !missing(text));
      const numeric = known.every((text) => !Number.isNaN(Number(text)));
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : numeric;  // numbers: largest first
      rows.sort((one, other) => {
        const [a, b] = [texts.get(one), texts.get(other)];
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
        return down ? -order : order;
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      table.tBodies[0].append(...rows);
    });
  });
}
