"use strict";
// Names come from anywhere: text goes into the page by textContent only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

const percent = (share) => (100 * share).toFixed(1);
const signed = (points) => (points > 0 ? "+" : "") + points.toFixed(1);
const colourOf = (run) => `norm-${run.norm.replace(/\W/g, "")}`;
const videosOf = (number) => `${number} video${number === 1 ? "" : "s"}`;

// Tables: a click on a heading sorts by its column, another one turns the order round.

function sortKey(row, column) {
  const cell = row.cells[Math.min(column, row.cells.length - 1)];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(text);
  return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
}

function before(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}

function sortBy(table, column, order) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((th, at) => th.setAttribute("aria-sort", at === column ? order : "none"));
  const turn = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row, column), row]);
  rows.sort(([a], [b]) =>  // empty cells stay at the end in both orders
    a === null || b === null ? (a === null) - (b === null) : turn * before(a, b));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function setUpTable(table) {
  [...table.tHead.rows[0].cells].forEach((th, column) => {
    th.querySelector("button").addEventListener("click", () => {
      const is = th.getAttribute("aria-sort");
      const numbers = !th.classList.contains("words");  // of numbers the largest come first
      const first = numbers ? "descending" : "ascending";
      const other = numbers ? "ascending" : "descending";
      sortBy(table, column, is === first ? other : first);
    });
  });
}

function fill(table, rows) {
  table.tBodies[0].replaceChildren(...rows);
  const headings = [...table.tHead.rows[0].cells];
  const column = headings.findIndex((th) => th.getAttribute("aria-sort") !== "none");
  if (column >= 0) sortBy(table, column, headings[column].getAttribute("aria-sort"));
}

// Curves: the pointer, or the arrow keys, choose an epoch; the legend tells the values there.

function setUpCurve(figure) {
  const svg = figure.querySelector("svg[data-last]");
  const outputs = [...figure.querySelectorAll(".legend output")];
  const lines = [...svg.querySelectorAll("polyline")].map((line) =>
    line.dataset.points.split(";").map((pair) => pair.split(",").map(Number)));
  const epochs = [...new Set(lines.flat().map(([epoch]) => epoch))].sort((a, b) => a - b);
  const last = outputs.map((output) => output.textContent);
  const { left, span, last: end } = svg.dataset;
  let at = epochs.length - 1;

  function show(index) {
    at = Math.max(0, Math.min(epochs.length - 1, index));
    const x = Number(left) + (epochs[at] / Number(end)) * Number(span);
    for (const name of ["x1", "x2"]) svg.querySelector(".cursor").setAttribute(name, x);
    outputs.forEach((output, line) => {
      const point = lines[line].find(([epoch]) => epoch === epochs[at]);
      const told = point ? `${point[1].toFixed(1)} % at epoch` : "no value at epoch";
      output.textContent = `${told} ${Number(epochs[at].toPrecision(4))}`;
    });
  }

  function hide() {
    for (const name of ["x1", "x2"]) svg.querySelector(".cursor").setAttribute(name, -9);
    outputs.forEach((output, line) => { output.textContent = last[line]; });
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const epoch = ((x - Number(left)) / Number(span)) * Number(end);
    const far = epochs.map((value) => Math.abs(value - epoch));
    show(far.indexOf(Math.min(...far)));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      show(at + step);
      event.preventDefault();
    }
  });
}

// The explorer: two menus choose runs, everything below follows; a single run needs no menu.

function counts(run, number) {
  const videos = Array(number).fill(0);
  const right = Array(number).fill(0);
  const pairs = [];
  for (let i = 0; i < run.confusion.length; i += 3) {
    const [label, said, times] = run.confusion.slice(i, i + 3);
    videos[label] += times;
    if (label === said) right[label] += times;
    pairs.push({ label, said, times });
  }
  return { videos, right, pairs };
}

function classRows(data, a, b) {
  const [of_a, of_b] = [a, b].map((run) => counts(run, data.classes.length));
  const classes = data.classes.map((name, id) => {
    const number = of_a.videos[id];
    const [x, y] = [of_a.right[id] / number, of_b.right[id] / number];
    return { name, number, x, y, change: 100 * (y - x), size: Math.abs(100 * (y - x)) };
  }).filter(({ number }) => number);
  classes.sort((one, other) => other.size - one.size || one.x - other.x);
  const largest = Math.max(...classes.map(({ size }) => size), 1);
  return classes.map(({ name, number, x, y, change, size }) => {
    const cellsOf = (values) => values.map((value) => make("td", {}, String(value)));
    const heading = make("th", { scope: "row" }, name);
    if (data.runs.length === 1) return make("tr", {}, heading, ...cellsOf([percent(x), number]));
    const bar = make("i", change < 0 ? { class: "less" } : {});
    const width = 50 * size / largest;
    bar.style.width = `${width}%`;
    bar.style.left = `${change < 0 ? 50 - width : 50}%`;
    const told = make("td", { "data-value": change, class: "nowrap" }, signed(change),
      make("span", { class: "change", "aria-hidden": "true" }, bar));
    return make("tr", {}, heading, told, ...cellsOf([percent(x), percent(y), number]));
  });
}

function pairRows(data, run) {
  const { videos, pairs } = counts(run, data.classes.length);
  const wrong = pairs.filter(({ label, said }) => label !== said);
  wrong.sort((x, y) => y.times - x.times);
  if (!wrong.length) return [make("tr", {}, make("th", { scope: "row", colspan: 4 }, "none"))];
  return wrong.slice(0, 12).map(({ label, said, times }) => make("tr", {},
    make("th", { scope: "row" }, data.classes[label]),
    make("td", { class: "words" }, data.classes[said] ?? "could not be read"),
    make("td", {}, String(times)),
    make("td", {}, percent(times / videos[label]))));
}

function drawMatrix(box, data, run) {
  const number = data.classes.length;
  const { videos, right, pairs } = counts(run, number);
  const names = [...data.classes];
  if (pairs.some(({ said }) => said < 0)) names.push("could not be read");
  const named = number <= 40;
  const size = number <= 12 ? 34 : Math.max(520 / names.length, 1.2);
  const margin = named ? Math.min(150, 16 + 6.2 * Math.max(...names.map((n) => n.length))) : 4;
  const short = (name) => (name.length > 21 ? `${name.slice(0, 20)}\u2026` : name);
  const width = margin + size * names.length + (named ? margin / 2 : 4);  // slanted names reach out
  const svg = draw("svg", { role: "img", viewBox: `0 0 ${width} ${margin + size * number + 4}` });
  svg.style.maxWidth = `${width}px`;
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  svg.setAttribute("aria-label", `Confusion matrix of ${run.name}, ${number} classes: ` +
    `${sum(right)} of ${videosOf(sum(videos))} on the diagonal; rows are the true classes, ` +
    "columns what they were taken for");
  svg.append(draw("rect", { class: "ground", x: margin, y: margin, width: size * names.length,
    height: size * number }));
  if (named) {
    names.forEach((name, at) => {
      const middle = margin + size * (at + 0.5);
      const font = `font-size:${Math.min(12, size)}px`;
      svg.append(draw("text", { transform: `translate(${middle + 4} ${margin - 6}) rotate(-60)`,
        style: font }, short(name)));
      if (at < number) {
        svg.append(draw("text", { x: margin - 6, y: middle + 4, class: "end", style: font },
          short(name)));
      }
    });
  }
  for (const { label, said, times } of pairs) {
    const share = times / videos[label];
    const [x, y] = [margin + size * (said < 0 ? number : said), margin + size * label];
    const side = Math.max(size * 0.96, 2);  // one of 400 classes would hardly be seen
    const faintest = size < 8 ? 0.4 : 0.12;
    const rect = draw("rect", { class: "cell", x, y, width: side, height: side,
      "fill-opacity": (faintest + (1 - faintest) * share).toFixed(3) });
    rect.dataset.said = `${data.classes[label]}, taken for ` +
      `${said < 0 ? "nothing: could not be read" : data.classes[said]}: ` +
      `${times} of ${videosOf(videos[label])} (${percent(share)} %)`;
    svg.append(rect);
    if (size >= 20) {
      svg.append(draw("text", { x: x + size * 0.48, y: y + size * 0.48 + 4,
        class: share > 0.55 ? "count strong" : "count" }, String(times)));
    }
  }
  const hint = "Rows: true class. Columns: taken for. Point at a cell for its numbers.";
  const output = make("output", {}, hint);
  svg.addEventListener("pointerover", (event) => {
    output.textContent = event.target.dataset.said ?? hint;
  });
  box.className = `matrix ${colourOf(run)}`;
  box.replaceChildren(svg, output);
}

function pictures(video) {
  if (video.missing) return [make("div", { class: "strip none" }, `no picture: ${video.missing}`)];
  if (!video.strip) return [];
  const image = make("img", { src: video.strip, alt: `${video.frames} frames of ${video.path}` });
  image.style.width = `${100 * video.frames}%`;
  image.style.setProperty("--frames", video.frames);
  const strip = make("div", { class: "strip" }, image);
  strip.style.aspectRatio = `${video.width} / ${video.height}`;
  return [strip];
}

function videoCard(data, video, runs) {
  const card = make("li", {}, ...pictures(video), make("strong", {}, data.classes[video.label]));
  for (const { which, run, at } of runs) {
    const said = video.said[at];
    const told = data.runs.length > 1 ? `${which}, ${run.norm}` : run.norm;
    const chip = make("span", { class: `chip ${colourOf(run)}` }, told);
    const line = make("div", {}, chip, " ");
    if (said) {
      const [id, probability, ofLabel] = said;
      line.append(make("span", { class: id === video.label ? "up" : "down" }, data.classes[id]),
        ` ${percent(probability)}\u00a0%`);
      if (id !== video.label && ofLabel !== null) line.append(`, true one ${percent(ofLabel)}\u00a0%`);
    } else {
      line.append("could not be read");
    }
    card.append(line);
  }
  card.append(make("div", { class: "soft" }, video.path));
  return card;
}

function setUpExplorer(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const menus = [...root.querySelectorAll("select")];
  const find = (name) => root.querySelector(name);

  function render() {
    const [a, b] = menus.length ? menus.map((menu) => Number(menu.value)) : [0, 0];
    const [runA, runB] = [data.runs[a], data.runs[b]];
    fill(find(".classes table"), classRows(data, runA, runB));
    fill(find(".pairs table"), pairRows(data, runA));
    drawMatrix(find(".matrix"), data, runA);
    const runs = [{ which: "A", run: runA, at: a }];
    if (a !== b) runs.push({ which: "B", run: runB, at: b });
    for (const kind of ["wrong", "right"]) {
      const cards = runA[kind].map((place) => videoCard(data, data.videos[place], runs));
      find(`.${kind}`).replaceChildren(...(cards.length ? cards : [make("li", {}, "none")]));
    }
  }

  const button = find(".menus button");
  button.hidden = !data.videos.some(({ strip }) => strip);
  function pause(yes) {
    root.classList.toggle("paused", yes);
    button.setAttribute("aria-pressed", yes);
  }
  button.addEventListener("click", () => pause(!root.classList.contains("paused")));
  pause(matchMedia("(prefers-reduced-motion: reduce)").matches);
  for (const menu of menus) menu.addEventListener("change", render);
  render();
}

document.querySelectorAll("table.sortable").forEach(setUpTable);
document.querySelectorAll(".curve").forEach(setUpCurve);
document.querySelectorAll(".explorer").forEach(setUpExplorer);
