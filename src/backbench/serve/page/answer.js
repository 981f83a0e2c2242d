// The prediction of one model in full, and several models row by row.

import { fill, make, refill } from "./dom.js";
import { sayAgreement, sayLabel, sayLevel, sayShortShare, saySureness, sayTime } from "./words.js";

const NUM_DOTS = 5;

function makeLine(confidence) {
  const dot = make("span");
  dot.style.left = `${100 * confidence}%`;
  return make("span", { class: "line", "aria-hidden": "true" }, dot);
}

function makeDots(reply, first, last) {
  return reply.top.slice(first, last).map((entry) => {
    const share = sayShortShare(entry.confidence);
    return make("li", { class: "dot-row" },
      make("span", { text: entry.label, title: entry.label }), makeLine(entry.confidence), make("span", { text: share }));
  });
}

export function makeChances(reply, { hasRest }) {
  const shown = Math.min(NUM_DOTS, reply.top.length);
  const rest = reply.top.length - shown;
  const axis = make("p", { class: "axis", "aria-hidden": "true" },
    make("span"), make("span", {}, make("span", { text: "0" }), make("span", { text: "100" })), make("span"));
  return make("div", { class: reply.unsure ? "dots unsure" : "dots" },
    make("ul", { "aria-label": "Probabilities in per cent" }, ...makeDots(reply, 0, shown)),
    axis,
    hasRest && rest > 0 && make("details", {}, make("summary", { text: `${rest} more classes` }),
      make("ul", {}, ...makeDots(reply, shown, reply.top.length))));
}

export function makeNear(reply) {
  if (!reply.neighbours || !reply.neighbours.length) return null;
  const shown = reply.neighbours.map((near) => make("li", {},
    make("img", { src: near.thumbnail, alt: `training image of ${near.label}`, width: 112, height: 112 }),
    make("p", { class: near.label === reply.label ? "small same" : "small", text: near.label })));
  return make("div", { class: "block" }, make("h2", { text: "Nearest training images" }),
    make("ul", { class: "near" }, ...shown));
}

// `isBrief`: chances and neighbours are shown elsewhere, side by side with those of other models.
export function renderDetail(place, { model, reply, image, verdict, isBrief }) {
  if (reply.error) {
    fill(place, make("p", { class: "label", text: "No answer" }), make("p", { class: "note", text: `${image.name}: ${reply.error}` }));
    return;
  }
  const truth = image.truth !== undefined
    && make("p", { class: "sureness" },
      make("span", { text: image.truth === reply.label ? "Right: it is " : "Wrong: it is " }), make("strong", { text: image.truth }),
      make("span", { class: "muted", text: ", by its label" }));
  const strange = reply.is_strange && make("p", { class: "note" },
    make("span", { text: "This image is unlike the training images, so the prediction is unreliable." }));
  fill(place,
    make("p", { class: "small muted", text: `${model.short} answers` }),
    make("h2", { class: "label", text: sayLabel(reply) }),
    make("p", { class: "sureness", text: saySureness(reply, model) }),
    truth, strange, !isBrief && makeChances(reply, { hasRest: true }), !isBrief && makeNear(reply), verdict,
    make("p", { class: "small muted block", text: describe(model, reply) }));
}

function describe(model, reply) {
  const parts = [`answered in ${sayTime(reply.milliseconds)}`];
  if (model.accuracy) {
    const { value, low, high, n } = model.accuracy;
    const interval = low === null ? "" : ` (${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)})`;
    parts.push(`right on ${(100 * value).toFixed(1)} %${interval} of ${n} test images`);
  }
  parts.push(`${model.classes.length} classes`, model.name);
  return parts.join(" · ");
}

export function renderRows(place, agreement, { models, replies, focus, onFocus }) {
  if (models.length < 2) {
    fill(place);
    fill(agreement);
    return;
  }
  const known = models.map((model) => replies.get(model.name)).filter(Boolean);
  const isWhole = known.length === models.length;
  fill(agreement, make("p", { class: "agreement", text: isWhole ? sayAgreement(known) : `${known.length} of ${models.length} have answered` }));
  place.className = "rows";
  refill(place, ...models.map((model) => makeRow(model, replies.get(model.name), focus === model.name, onFocus)));
}

function makeRow(model, reply, isFocus, onFocus) {
  const isAnswer = reply && !reply.error;
  return make("button", {
    type: "button", class: isAnswer && reply.unsure ? "row unsure" : "row", "aria-pressed": String(isFocus), onclick: () => onFocus(model.name),
  },
  make("span", { class: "small", text: model.short, title: model.name }),
  make("span", {}, make("strong", { text: reply ? (isAnswer ? reply.label : "no answer") : "..." }),
    isAnswer && make("span", { class: "small muted", text: ` ${sayLevel(reply)}${reply.is_strange ? ", unlike training" : ""}` })),
  isAnswer ? makeLine(reply.confidence) : make("span"),
  make("span", { class: "small muted time" }, isAnswer && make("span", { text: sayShortShare(reply.confidence) }),
    isAnswer && make("span", { text: sayTime(reply.milliseconds) })));
}
