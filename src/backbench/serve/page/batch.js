// Many images at once: a table that fills, filters, and a CSV file.

import { predict } from "./api.js";
import { fill, make } from "./dom.js";
import { csvCell, sayLevel, sayShortShare } from "./words.js";

const NUM_AT_ONCE = 3;
const FILTERS = {
  all: ["All", () => true],
  unsure: ["Not sure", (replies) => replies.some((reply) => reply.unsure)],
  strange: ["Unlike training", (replies) => replies.some((reply) => reply.is_strange)],
  split: ["Models disagree", (replies) => new Set(replies.map((reply) => reply.label)).size > 1],
  failed: ["Failed", (_, row) => row.error !== null],
};

export class Batch {
  // `check`: the reason why an image can't be sent, or null.
  constructor(place, images, models, { check, onShow }) {
    this.place = place;
    this.check = check;
    this.onShow = onShow;
    this.filter = "all";
    this.rows = images.map((image) => ({ image, replies: new Map(), error: null, isChecked: false, isBusy: false, element: null }));
    this.isRunning = false;
    this.isStopped = false;
    this.models = models;
    this.draw();
  }

  get numDone() {
    return this.rows.filter((row) => this.isDone(row)).length;
  }

  isDone(row) {
    return row.error !== null || this.models.every((model) => row.replies.has(model.name));
  }

  // Predictions of the shown models for the row, as far as they exist.
  answers(row) {
    return row.error !== null ? [] : this.models.map((model) => row.replies.get(model.name)).filter(Boolean);
  }

  accepts(name, row) {
    return FILTERS[name][1](this.answers(row), row);
  }

  // Use other models for the same images; existing predictions are kept.
  setModels(models) {
    this.models = models;
    if (models.length < 2 && this.filter === "split") this.filter = "all";
    this.draw();
    this.run();
  }

  // Request missing predictions, a few images at a time.
  async run() {
    if (this.isRunning) return;
    this.isRunning = true;
    const findNext = () => !this.isStopped && this.rows.find((row) => !row.isBusy && !this.isDone(row));
    const work = async () => {
      for (let row = findNext(); row; row = findNext()) await this.answer(row);
    };
    await Promise.all(Array.from({ length: NUM_AT_ONCE }, work));
    this.isRunning = false;
  }

  async answer(row) {
    row.isBusy = true;
    if (!row.isChecked) row.error = await this.check(row.image);
    row.isChecked = true;
    for (const model of this.models) {
      if (row.error !== null || this.isStopped) break;
      if (row.replies.has(model.name)) continue;
      try {
        const reply = await predict(row.image, model.name, { top: 5 });
        row.error = reply.error ?? null;
        row.replies.set(model.name, reply);
      } catch (error) {
        row.error = error.message;
      }
    }
    row.isBusy = false;
    if (!this.isStopped) this.refresh(row);
  }

  stop() {
    this.isStopped = true;
    for (const row of this.rows) URL.revokeObjectURL(row.url);
    fill(this.place);
    this.place.hidden = true;
  }

  refresh(row) {
    row.element.replaceWith(this.makeRow(row));
    this.progress.value = this.numDone;
    this.progress.hidden = this.numDone === this.rows.length;
    this.count.textContent = this.sayProgress();
    this.mark();
  }

  // Update filters, their counts and the shown rows, without redrawing, so that the focus stays.
  mark() {
    for (const [name, button] of Object.entries(this.filters)) {
      button.textContent = `${FILTERS[name][0]} (${this.rows.filter((row) => this.accepts(name, row)).length})`;
      button.setAttribute("aria-pressed", String(this.filter === name));
    }
    for (const row of this.rows) row.element.hidden = !this.accepts(this.filter, row);
  }

  sayProgress() {
    const failed = this.rows.filter((row) => row.error !== null).length;
    return `${this.numDone} of ${this.rows.length} answered${failed ? `, ${failed} failed` : ""}`;
  }

  draw() {
    this.count = make("span", { class: "small muted", role: "status", text: this.sayProgress() });
    const isFull = this.numDone === this.rows.length;
    this.progress = make("progress", { max: this.rows.length, value: this.numDone, "aria-label": "Images answered", hidden: isFull });
    const names = Object.keys(FILTERS).filter((name) => name !== "split" || this.models.length > 1);
    this.filters = Object.fromEntries(names.map((name) => [name, make("button", {
      type: "button", onclick: () => { this.filter = name; this.mark(); },
    })]));
    const head = make("tr", {}, ...["Image", ...this.models.map((model) => model.short)].map((text) => make("th", { scope: "col", text })));
    fill(this.place,
      make("div", { class: "batch-head" }, make("h2", { text: `${this.rows.length} images` }), this.count,
        this.progress, ...Object.values(this.filters),
        make("button", { type: "button", text: "Save as CSV", onclick: () => this.save() })),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Answers for all images" },
        make("table", {}, make("thead", {}, head), make("tbody", {}, ...this.rows.map((row) => this.makeRow(row))))));
    this.mark();
    this.place.hidden = false;
  }

  makeRow(row) {
    row.url ??= URL.createObjectURL(row.image.blob);
    const blank = () => make("span", { class: "blank", "aria-hidden": "true" }); // what the browser can't draw, as TIFF
    const picture = make("img", {
      src: row.url, alt: "", loading: "lazy", width: 44, height: 44, onerror: (event) => event.target.replaceWith(blank()),
    });
    const open = make("button", { type: "button", onclick: () => this.onShow(row.image) }, picture, make("span", { text: row.image.name }));
    const cells = row.error === null
      ? this.models.map((model) => make("td", {}, ...sayCell(row.replies.get(model.name))))
      : [make("td", { class: "mark", colspan: this.models.length, text: row.error })];
    row.element = make("tr", {}, make("td", {}, open), ...cells);
    return row.element;
  }

  save() {
    const lines = [["path", "bundle", "label", "confidence", "unsure", "unlike_training", "error"]];
    for (const row of this.rows) {
      for (const model of this.models) {
        const reply = row.replies.get(model.name);
        const said = reply && row.error === null
          ? [reply.label, reply.confidence.toFixed(6), reply.unsure ? "yes" : "no", { true: "yes", false: "no" }[reply.is_strange] ?? "", ""]
          : ["", "", "", "", row.error ?? "not answered yet"];
        lines.push([row.image.name, model.name, ...said]);
      }
    }
    const text = lines.map((line) => line.map(csvCell).join(",")).join("\n");
    const url = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" }));
    make("a", { href: url, download: "answers.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
}

function sayCell(reply) {
  if (!reply) return [make("span", { class: "muted", text: "..." })];
  return [
    make("strong", { text: reply.label }),
    make("span", { class: "small muted", text: ` ${sayShortShare(reply.confidence)}, ${sayLevel(reply)}` }),
    ...(reply.is_strange ? [make("span", { class: "small mark", text: " ◆ unlike training" })] : []),
  ];
}
