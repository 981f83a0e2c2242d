// The API's description from its schema.

import { fill, find, make } from "./dom.js";

function makeFields(operation) {
  const content = operation.requestBody && operation.requestBody.content["multipart/form-data"];
  if (!content) return null;
  const rows = Object.entries(content.schema.properties).map(([name, field]) => make("tr", {},
    make("td", {}, make("code", { text: name })),
    make("td", { text: content.schema.required.includes(name) ? "yes" : "no" }),
    make("td", { text: describe(field) })));
  return make("table", {}, make("thead", {}, make("tr", {}, ...["Field", "Needed", "Value"].map((text) => make("th", { scope: "col", text })))), make("tbody", {}, ...rows));
}

function describe(field) {
  const parts = [field.format === "binary" ? "a file" : field.type];
  if (field.enum) parts.push(`one of ${field.enum.join(", ")}`);
  if (field.minimum !== undefined) parts.push(`${field.minimum} to ${field.maximum}`);
  if (field.default !== undefined) parts.push(`else ${field.default}`);
  if (field.description) parts.push(field.description);
  return parts.join("; ");
}

function makeOperation(path, method, operation) {
  const refusals = Object.entries(operation.responses).filter(([status]) => Number(status) >= 400 && status !== "422");
  return make("section", {},
    make("h2", {}, make("code", { text: `${method.toUpperCase()} ${path}` })),
    make("p", { text: operation.summary }),
    operation.description && make("p", { class: "small muted", text: operation.description }),
    makeFields(operation),
    refusals.length > 0 && make("p", { class: "small muted", text: refusals.map(([status, said]) => `${status}: ${said.description}`).join(". ") }));
}

async function start() {
  const schema = await (await fetch("/openapi.json")).json();
  const models = (await (await fetch("/api/models")).json()).models;
  const example = `curl -F image=@photo.jpg -F model='${models[0].name.replaceAll("'", "'\\''")}' ${window.location.origin}/api/predict`;
  const operations = Object.entries(schema.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => makeOperation(path, method, operation)));
  fill(find("api"), make("p", { text: schema.info.description }), make("pre", { tabindex: "0", text: example }), ...operations);
}

start().catch(() => fill(find("api"), make("p", { class: "note", text: "The server does not answer." })));
