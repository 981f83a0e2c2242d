// Models side by side on one image: probabilities, explanation, and nearest training images of each.

import { makeChances, makeNear } from "./answer.js";
import { fill, make } from "./dom.js";
import { sayLabel, sayLevel, sayTime } from "./words.js";

// `section` is hidden unless several models are asked; `list` scrolls sideways on a phone, so keys reach it. Until the
// first of them answers, the old content stays dimmed, so that nothing moves from image to image.
export function renderSide(section, list, { models, replies, overlays, focus, picture, isHeatOn }) {
  section.hidden = models.length < 2;
  const isWaiting = !section.hidden && !models.some((model) => replies.has(model.name));
  list.classList.toggle("waiting", isWaiting);
  if (isWaiting && list.children.length === models.length) return;
  fill(list, ...(section.hidden ? [] : models).map((model) => makeCard(model, replies.get(model.name), {
    isFocus: model.name === focus, overlay: overlays.get(model.name), picture, isHeatOn,
  })));
}

function makeCard(model, reply, { isFocus, overlay, picture, isHeatOn }) {
  const head = make("h3", { class: "small", text: model.short, title: model.name });
  const settings = { class: isFocus ? "card focused" : "card" };
  if (!reply) return make("li", settings, head, make("p", { class: "muted", text: "..." }));
  if (reply.error) return make("li", settings, head, make("p", { class: "muted", text: "no answer" }));
  const says = [sayLevel(reply), reply.is_strange && "unlike training", sayTime(reply.milliseconds)].filter(Boolean);
  return make("li", settings, head,
    make("p", {}, make("strong", { text: sayLabel(reply) }), make("span", { class: "small muted", text: says.join(" · ") })),
    makeChances(reply, { hasRest: false }),
    make("div", {}, isHeatOn && makeHeat(overlay, picture, model)),
    makeNear(reply) || make("div"));
}

// Only the picture until the overlay arrives, so that nothing moves.
function makeHeat(overlay, picture, model) {
  const heat = overlay && overlay.src && make("img", { class: "heat", src: overlay.src, alt: `where ${model.short} looks` });
  return make("figure", { class: "block" },
    make("div", { class: "stack" }, make("img", { src: picture, alt: "", onerror: (event) => event.target.remove() }), heat),
    make("figcaption", { class: "small muted", text: overlay ? overlay.note : "looking ..." }));
}
