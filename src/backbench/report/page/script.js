"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (name, text, kind) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  const say = (text) => { document.getElementById("said").textContent = text; };

  // theme: follows the system until the switch is used
  const theme = document.getElementById("theme");
  theme.hidden = false;
  const remembered = () => { try { return localStorage.getItem("backbench-theme"); } catch { return null; } };
  if (remembered()) root.dataset.theme = remembered();
  theme.addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme:dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try { localStorage.setItem("backbench-theme", root.dataset.theme); } catch { /* a file opened from disk may not */ }
  });

  const copy = async (text, button) => {
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = make("textarea", text);
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    const before = button.textContent;
    button.textContent = done ? "Copied" : "Can't copy here";
    say(button.textContent);
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  for (const button of all("[data-copy]")) button.addEventListener("click", () => copy(button.dataset.copy, button));

  // a cell as text; one that a spreadsheet would run as a formula gets a quote before it
  const words = (cell) => cell.textContent.replace(/\s+/g, " ").trim();
  const csv = (text) => {
    const safe = /^[=+\-@\t\r]/.test(text) && !/^[+-]?[\d.,]+$/.test(text) ? "'" + text : text;
    return /[",\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const tableText = (table, kind) => {
    const rows = all("tr", table).filter((row) => !row.hidden).map((row) => [...row.cells].map(words));
    if (kind === "csv") return rows.map((row) => row.map(csv).join(",")).join("\n") + "\n";
    const lines = rows.map((row) => "| " + row.map((text) => text.replaceAll("|", "\\|")).join(" | ") + " |");
    lines.splice(1, 0, "|" + " --- |".repeat(rows[0].length));
    return lines.join("\n") + "\n";
  };

  const setUpTable = (section) => {
    const table = section.querySelector("table.runs");
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const isNumber = head.classList.contains("number");
      const now = head.getAttribute("aria-sort");
      const isDown = now ? now === "ascending" : isNumber && column > 0;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[column];
        return isNumber ? (cell.dataset.sort ? Number(cell.dataset.sort) : null) : words(cell).toLowerCase();
      };
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return (x < y ? -1 : x > y ? 1 : 0) * (isDown ? -1 : 1);
      };
      body.append(...[...body.rows].sort(compare));
      say(`Sorted by ${words(head)}, ${isDown ? "highest" : "lowest"} first`);
    }));
    const filter = section.querySelector(".filter");
    const controls = section.querySelector(".controls");
    const show = () => {
      const wanted = filter.value.trim().toLowerCase();
      for (const row of body.rows) {
        row.hidden = (wanted && !words(row).toLowerCase().includes(wanted)) || (!controls.checked && row.className === "control");
      }
      say(`${[...body.rows].filter((row) => !row.hidden).length} rows`);
    };
    filter.addEventListener("input", show);
    controls.addEventListener("change", show);
    section.querySelector(".extra").addEventListener("change", (event) => table.classList.toggle("all", event.target.checked));
    for (const button of all("[data-table]", section)) {
      button.addEventListener("click", () => copy(tableText(table, button.dataset.table), button));
    }
  };

  const viewer = document.getElementById("viewer");
  const picture = (key, index) => {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const use = document.createElementNS(space, "use");
    svg.setAttribute("class", "thumb");
    svg.setAttribute("aria-hidden", "true");
    use.setAttribute("href", `#${key}-t${index}`);
    svg.append(use);
    return svg;
  };
  const openImage = (card, data) => {
    const index = card.dataset.image;
    const inner = viewer.querySelector("div");
    const table = make("table");
    const head = table.createTHead().insertRow();
    for (const text of ["row", "answer", "sure", "for the true class"]) head.append(make("th", text));
    const body = table.createTBody();
    (data.images[index] || []).forEach(([answer, sure, truth], row) => {
      const line = body.insertRow();
      line.append(make("th", data.rows[row]), make("td", data.classes[answer]), make("td", sure.toFixed(2)), make("td", truth.toFixed(2)));
    });
    inner.replaceChildren(picture(data.key, index), make("p", card.querySelector(".truth").textContent, "truth"),
      make("p", card.querySelector(".file").textContent, "file"), table);
    viewer.showModal();
  };

  const setUpImages = (article, data) => {
    for (const button of all("button.photo", article)) {
      button.addEventListener("click", () => openImage(button.closest(".card"), data));
    }
    const wrong = article.querySelector(".wrong");
    const note = article.querySelector(".of-cell");
    if (!wrong || !note) return;
    const cards = all(".card", wrong);
    const named = (pair) => {
      const [truth, answer] = pair.split("|").map((place) => data.classes[place]);
      return truth === answer ? `${truth}, recognised` : `${truth} taken for ${answer}`;
    };
    const show = (pair, count) => {
      for (const card of cards) card.hidden = pair !== null && card.dataset.pair !== pair;
      const num = cards.filter((card) => !card.hidden).length;
      note.hidden = pair === null;
      if (pair === null) { say(`${num} images`); return; }
      note.firstElementChild.textContent = `${named(pair)}: ${num || "none"} of ${count} on this page.`;
      say(note.firstElementChild.textContent);
      const rest = wrong.querySelector("details");
      if (rest) rest.open = true;
      document.getElementById(`${data.key}-wrong`).scrollIntoView();
    };
    for (const cell of all("button.cell", article)) cell.addEventListener("click", () => show(cell.dataset.pair, cell.dataset.n));
    note.querySelector("button").addEventListener("click", () => show(null));
    const matrix = article.querySelector(".cells");
    if (!matrix) return;
    const said = article.querySelector(".pointed-at");
    matrix.addEventListener("pointermove", (event) => {
      if (event.target.dataset.pair) said.textContent = `${named(event.target.dataset.pair)}: ${event.target.dataset.n}.`;
    });
    matrix.addEventListener("click", (event) => {
      if (event.target.dataset.pair && !event.target.classList.contains("same")) show(event.target.dataset.pair, event.target.dataset.n);
    });
  };

  const setUpMap = (figure, data) => {
    const map = data.maps[Number(figure.dataset.map)];
    const frame = figure.querySelector(".map-frame");
    const tip = figure.querySelector(".tip");
    const point = (event) => {
      const box = frame.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
      let best = -1, least = 0.05 ** 2;
      for (let place = 0; place < map.x.length; place++) {
        const away = (map.x[place] * 0.00096 + 0.02 - x) ** 2 + (0.98 - map.y[place] * 0.00096 - y) ** 2;
        if (away < least) { least = away; best = place; }
      }
      tip.hidden = best < 0;
      if (best < 0) return;
      const index = map.row[best];
      const parts = document.getElementById(`${data.key}-t${index}`) ? [picture(data.key, index)] : [];
      const told = data.images[index] && data.images[index][0];
      const label = data.classes[map.class[best]];
      tip.replaceChildren(...parts, make("span", told ? `true ${label}, best row answers ${data.classes[told[0]]}` : label));
    };
    frame.addEventListener("pointermove", point);
    frame.addEventListener("pointerdown", point);
    frame.addEventListener("pointerleave", () => { tip.hidden = true; });
  };

  const setUpHighlight = (article, data) => {
    const select = article.querySelector(".highlight");
    if (!select) return;
    data.classes.forEach((label, index) => select.append(new Option(label, String(index))));
    select.addEventListener("change", () => {
      for (const figure of all("[data-map]", article)) {
        const map = data.maps[Number(figure.dataset.map)];
        const inner = figure.querySelector("svg svg");
        all(".pointed", inner).forEach((path) => path.remove());
        inner.classList.toggle("pointing", select.value !== "");
        if (select.value === "") continue;
        const dots = map.class.map((label, place) => label === Number(select.value)
          ? `M${(map.x[place] * 0.96 + 20).toFixed(0)} ${(980 - map.y[place] * 0.96).toFixed(0)}h0` : "");
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("class", "cloud pointed");
        path.setAttribute("d", dots.join(""));
        inner.insertBefore(path, inner.querySelector(".wrong")); // crosses stay on top
      }
    });
  };

  for (const article of all("article.comparison")) {
    const data = JSON.parse(article.querySelector("script.data").textContent);
    all(".ranked", article).forEach(setUpTable);
    setUpImages(article, data);
    all("[data-map]", article).forEach((figure) => setUpMap(figure, data));
    setUpHighlight(article, data);
  }

  // a link to something in a drawer opens the drawer
  const reveal = () => {
    let name = "";
    try { name = decodeURIComponent(location.hash.slice(1)); } catch { /* a stray % */ }
    const target = name && document.getElementById(name);
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
