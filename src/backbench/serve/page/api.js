// Requests to the server that this page came from, and nowhere else.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Gone extends Error {}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Retry a busy server when it says; report a lost one to the user.
async function ask(path, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new Gone("The server does not answer.");
    }
    if ((response.status === 503 || response.status === 429) && attempt < 8) {
      await pause(Number(response.headers.get("Retry-After")) || 1);
      continue;
    }
    const document = await response.json().catch(() => ({}));
    if (!response.ok) throw new Refused(document.error || `the server said ${response.status}`, response.status);
    return { document, milliseconds: readTiming(response) };
  }
}

function readTiming(response) {
  const found = /dur=([\d.]+)/.exec(response.headers.get("Server-Timing") || "");
  return found ? Number(found[1]) : null;
}

function formOf(image, model, more) {
  const form = new FormData();
  form.append("model", model);
  for (const [name, value] of Object.entries(more)) form.append(name, value);
  form.append("image", image.blob, image.name);
  return form;
}

export async function loadModels() {
  return (await ask("/api/models")).document;
}

export async function loadBlob(path) {
  let response;
  try {
    response = await fetch(path);
  } catch {
    throw new Gone("The server does not answer.");
  }
  if (!response.ok) throw new Refused("no such image", response.status);
  return response.blob();
}

export async function predict(image, model, more = {}) {
  const body = formOf(image, model, { top: 50, neighbours: 3, ...more });
  const { document, milliseconds } = await ask("/api/predict", { method: "POST", body });
  return { ...document.predictions[0], milliseconds };
}

export async function keep(image, model, verdict, label) {
  const body = formOf(image, model, label ? { verdict, label } : { verdict });
  return (await ask("/api/inbox", { method: "POST", body })).document;
}

export async function takeBack(id) {
  return (await ask(`/api/inbox/${id}`, { method: "DELETE" })).document;
}
