// Helpers to build pages from text, never from markup.

export const find = (id) => document.getElementById(id);

// make("p", {class: "muted", text: "..."}, child, ...): an element; null and false children are left out.
export function make(tag, settings = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const fill = (element, ...children) => element.replaceChildren(...children.filter(Boolean));

// As fill, for a list of buttons: keeps the focus at the same position.
export function refill(element, ...children) {
  const stops = () => [...element.querySelectorAll("button, input, a")];
  const place = stops().indexOf(document.activeElement);
  fill(element, ...children);
  if (place >= 0 && stops()[place]) stops()[place].focus();
}

export function formatBytes(bytes) {
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`;
}
