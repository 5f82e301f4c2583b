// Tables: aligned decimal points, cards where the screen is narrow (page.css), and sorting by a click on a column head.
// The page is complete without this script.
const NUMBER = /^\s*([+−]?\d[\d\u202f]*)(\.\d+)?([^\d]*)$/;

function align(cells) {
  if (cells.some((cell) => /^\s*\d.*e[+\d]/.test(cell.textContent))) return; // of very different sizes
  const parts = cells.map((cell) => [cell.firstChild, NUMBER.exec(cell.firstChild?.data ?? "")]).filter(([, found]) => found);
  const digits = parts.map(([, found]) => (found[2] ?? "").length);
  const most = Math.max(0, ...digits);
  parts.forEach(([text, [, whole, fraction = "", unit]], index) => {
    const point = most && !digits[index] ? "\u2008" : ""; // as wide as a point
    const missing = most - Math.max(digits[index], most ? 1 : 0);
    text.data = whole + fraction + unit.trimEnd() + point + "\u2007".repeat(missing); // as wide as a digit
  });
}

const titleOf = (head) => [...head.childNodes].map((part) => (part.nodeName === "BR" ? " " : part.textContent)).join("");

for (const table of document.querySelectorAll("table")) {
  const titles = table.tHead ? [...table.tHead.rows[0].cells].map(titleOf) : [];
  const rows = [...table.tBodies, ...(table.tFoot ? [table.tFoot] : [])].flatMap((part) => [...part.rows]);
  titles.forEach((title, column) => align(rows.map((row) => row.cells[column]).filter((cell) => cell)));
  for (const row of rows) [...row.cells].slice(1).forEach((cell, index) => { cell.dataset.label = titles[index + 1] ?? ""; });
}

// A table that is wider than the screen becomes a list of cards.
function fit() {
  for (const table of document.querySelectorAll("table")) {
    table.classList.remove("labeled");
    table.classList.toggle("labeled", table.tHead !== null && table.offsetWidth > table.parentElement.clientWidth + 1);
  }
}
fit();
addEventListener("resize", fit);
for (const part of document.querySelectorAll("details")) part.addEventListener("toggle", fit);
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });

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
