// Many images at once: a table that fills, filters, and a CSV file.

import { predict } from "./api.js";
import { fill, make } from "./dom.js";
import { csvCell, sayLevel, sayShortShare } from "./words.js";

const NUM_AT_ONCE = 3;
const FILTERS = {
  all: ["All", () => true],
  unsure: ["Not sure", (row) => row.replies.some((reply) => reply && reply.unsure && !reply.error)],
  strange: ["Unlike training", (row) => row.replies.some((reply) => reply && reply.is_strange)],
  split: ["Models disagree", (row) => new Set(row.replies.filter((reply) => reply && !reply.error).map((reply) => reply.label)).size > 1],
  failed: ["Failed", (row) => row.error !== null],
};

export class Batch {
  constructor(place, images, models, onShow) {
    this.place = place;
    this.models = models;
    this.onShow = onShow;
    this.filter = "all";
    this.rows = images.map((image) => ({ image, replies: models.map(() => null), error: null, isDone: false, element: null }));
    this.isStopped = false;
    this.draw();
  }

  get numDone() {
    return this.rows.filter((row) => row.isDone).length;
  }

  async run(check) {
    let next = 0;
    const work = async () => {
      while (next < this.rows.length && !this.isStopped) {
        const row = this.rows[next];
        next += 1;
        await this.answer(row, check);
      }
    };
    await Promise.all(Array.from({ length: NUM_AT_ONCE }, work));
  }

  async answer(row, check) {
    row.error = await check(row.image);
    for (const [place, model] of this.models.entries()) {
      if (row.error !== null || this.isStopped) break;
      try {
        row.replies[place] = await predict(row.image, model.name, { top: 5 });
        row.error = row.replies[place].error ?? null;
      } catch (error) {
        row.error = error.message;
      }
    }
    row.isDone = true;
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

  // Which filter is pressed, how many rows each has, and which rows are shown. Nothing is drawn anew, so keys stay.
  mark() {
    for (const [name, button] of Object.entries(this.filters)) {
      const [text, accepts] = FILTERS[name];
      button.textContent = `${text} (${this.rows.filter(accepts).length})`;
      button.setAttribute("aria-pressed", String(this.filter === name));
    }
    for (const row of this.rows) row.element.hidden = !FILTERS[this.filter][1](row);
  }

  sayProgress() {
    const failed = this.rows.filter((row) => row.error !== null).length;
    return `${this.numDone} of ${this.rows.length} answered${failed ? `, ${failed} failed` : ""}`;
  }

  draw() {
    this.count = make("span", { class: "small muted", role: "status", text: this.sayProgress() });
    this.progress = make("progress", { max: this.rows.length, value: this.numDone, "aria-label": "Images answered" });
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
      ? row.replies.map((reply) => make("td", {}, ...sayCell(reply)))
      : [make("td", { class: "mark", colspan: this.models.length, text: row.error })];
    row.element = make("tr", {}, make("td", {}, open), ...cells);
    return row.element;
  }

  save() {
    const lines = [["path", "bundle", "label", "confidence", "unsure", "unlike_training", "error"]];
    for (const row of this.rows) {
      for (const [place, model] of this.models.entries()) {
        const reply = row.replies[place];
        const said = reply && !reply.error
          ? [reply.label, reply.confidence.toFixed(6), reply.unsure ? "yes" : "no", reply.is_strange ? "yes" : "no", ""]
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
  if (reply === null) return [make("span", { class: "muted", text: "..." })];
  return [
    make("strong", { text: reply.label }),
    make("span", { class: "small muted", text: ` ${sayShortShare(reply.confidence)}, ${sayLevel(reply)}` }),
    ...(reply.is_strange ? [make("span", { class: "small mark", text: " ◆ unlike training" })] : []),
  ];
}
