// The user's verdict on a prediction goes to the local inbox, and can be undone.

import { keep, takeBack } from "./api.js";
import { fill, make } from "./dom.js";

export class Verdict {
  constructor({ model, reply, image, inbox, onChange }) {
    Object.assign(this, { model, reply, image, inbox, onChange });
    this.place = make("div", { class: "verdict" });
    this.note = make("p", { class: "small muted", role: "status" });
    this.element = make("div", { class: "block" }, make("h2", { text: "Is it right?" }), this.place, this.note);
    this.isOpen = false;
    this.ask();
  }

  ask() {
    this.isOpen = true;
    fill(this.place,
      make("button", { type: "button", onclick: () => this.sayRight() }, "Right ", make("kbd", { text: "Y" })),
      make("button", { type: "button", onclick: () => this.askWhich() }, "Wrong ", make("kbd", { text: "N" })));
    this.note.textContent = `Stores this image and your verdict in the folder ${this.inbox.folder} on this computer.`;
  }

  sayRight() {
    if (this.isOpen) this.save("right", null);
  }

  askWhich() {
    if (!this.isOpen) return;
    const input = make("input", { type: "text", list: "class-names", placeholder: "Which is it?", "aria-label": "Which is it?", maxlength: 256 });
    const form = make("form", { class: "verdict" }, input,
      make("button", { type: "submit", class: "primary", text: "Save" }),
      make("button", { type: "button", text: "I don't know", onclick: () => this.save("wrong", null) }),
      make("datalist", { id: "class-names" }, ...this.model.classes.map((name) => make("option", { value: name }))));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.save("wrong", input.value.trim() || null);
    });
    fill(this.place, form);
    input.focus();
  }

  async save(verdict, label) {
    this.isOpen = false;
    try {
      const saved = await keep(this.image, this.model.name, verdict, label);
      this.onChange(saved);
      this.note.textContent = "";
      const what = saved.label ? `Saved as ${saved.label}.` : "Saved without a label.";
      fill(this.place, make("span", { text: `${what} ${sayCount(saved.num_entries)}` }),
        make("button", { type: "button", class: "plain", text: "Undo", onclick: () => this.undo(saved.id) }));
    } catch (error) {
      this.ask();
      this.note.textContent = `Could not save: ${error.message}`;
    }
  }

  async undo(id) {
    try {
      this.onChange(await takeBack(id));
      this.ask();
    } catch (error) {
      this.note.textContent = `Could not undo: ${error.message}`;
    }
  }
}

export function sayCount(num) {
  return `${num} ${num === 1 ? "image" : "images"} in the inbox; to train on them: backbench inbox export FOLDER`;
}
