// The page: one image, one or several models, and their predictions.

import { renderDetail, renderRows } from "./answer.js";
import { Gone, loadBlob, loadModels, predict } from "./api.js";
import { Batch } from "./batch.js";
import { connectCamera } from "./camera.js";
import { findFault } from "./check.js";
import { fill, find, make, refill } from "./dom.js";
import { renderSide } from "./side.js";
import { Verdict } from "./verdict.js";

const MAX_COMPARED = 4;
const MAX_FILES = 2000;
const state = {
  models: [], limits: {}, inbox: {}, active: [], focus: null, image: null, turn: 0, replies: new Map(), overlays: new Map(),
  drawn: {}, verdict: null, batch: null, choice: 0, banner: null,
};

// The name of a model on the page: the shortest unique one of backbone, backbone and method, and name.
function shortenNames(models) {
  const ways = [(model) => model.backbone, (model) => `${model.backbone} · ${model.method}`, (model) => model.name];
  for (const model of models) {
    model.short = ways.find((way) => models.filter((other) => way(other) === way(model)).length === 1)(model);
  }
}

const activeModels = () => state.models.filter((model) => state.active.includes(model.name));
const focusModel = () => state.models.find((model) => model.name === state.focus);

async function start() {
  try {
    const found = await loadModels();
    state.models = found.models;
    shortenNames(state.models);
    state.limits = { bytes: found.max_image_bytes, pixels: found.max_pixels };
    state.inbox = found.inbox;
  } catch (error) {
    showBanner(error.message, start);
    return;
  }
  hideBanner();
  if (state.inbox.is_open) find("trust").textContent = "Runs on this computer. Only images that you mark right or wrong are stored.";
  state.active = [state.models[0].name];
  state.focus = state.active[0];
  drawModels();
  drawSamples();
  const first = find("sample-list").querySelector("button");
  if (first) first.click();
  else fill(find("detail"), make("p", { class: "label", text: "Choose an image" }), make("p", { class: "muted", text: "The prediction appears here." }));
}

// `kind`: the event that removes it; 'server' disappears when the server answers.
function showBanner(text, retry, kind = "said") {
  const banner = find("banner");
  state.banner = kind;
  fill(banner, make("span", { text }), retry && make("button", { type: "button", text: "Try again", onclick: retry }));
  banner.hidden = false;
}

const hideBanner = () => { find("banner").hidden = true; };

const serverAnswers = () => { if (state.banner === "server") hideBanner(); };

function drawModels() {
  const isComparing = state.active.length > 1;
  const chips = state.models.map((model, place) => make("button", {
    type: "button", "aria-pressed": String(state.active.includes(model.name)), title: model.name, onclick: () => chooseModel(model.name),
  }, make("span", { class: "chip-mark", "aria-hidden": "true" }), model.short, state.models.length > 1 && place < 9 && " ", state.models.length > 1 && place < 9 && make("kbd", { text: String(place + 1) })));
  const num = Math.min(MAX_COMPARED, state.models.length);
  const compare = state.models.length > 1 && make("button", {
    type: "button", id: "compare", "aria-pressed": String(isComparing), text: num === state.models.length ? "Compare all" : `Compare ${num}`,
    onclick: () => compareModels(!isComparing),
  });
  refill(find("models"), ...chips, compare);
}

// A click switches the model; while comparing it adds or removes one.
function chooseModel(name) {
  const isActive = state.active.includes(name);
  if (state.active.length < 2) state.active = [name];
  else if (isActive) state.active = state.active.filter((other) => other !== name);
  else if (state.active.length < MAX_COMPARED) state.active.push(name);
  else return showBanner(`${MAX_COMPARED} models can be compared at a time. Take one away first.`, null);
  hideBanner();
  state.focus = state.active.includes(name) ? name : state.active[0];
  return afterModels();
}

function compareModels(isOn) {
  const others = state.models.map((model) => model.name).filter((name) => name !== state.focus);
  state.active = isOn ? [state.focus, ...others.slice(0, MAX_COMPARED - 1)] : [state.focus];
  afterModels();
}

function afterModels() {
  drawModels();
  drawSamples();
  drawAnswer();
  drawHeat();
  if (state.image) askAll();
  if (state.batch) state.batch.setModels(activeModels());
}

function drawSamples() {
  const model = focusModel();
  find("samples").hidden = !model.samples.length;
  refill(find("sample-list"), ...model.samples.map((sample, row) => {
    const address = `/api/models/${model.number}/samples/${row}`;
    const isShown = state.image !== null && state.image.address === address;
    const button = make("button", { type: "button", "aria-pressed": String(isShown), title: sample.id, onclick: () => showSample(sample, row, model) },
      make("img", { src: address, alt: `test image of ${sample.label}`, width: 96, height: 96 }));
    return make("li", {}, button);
  }));
}

async function showSample(sample, row, model) {
  const address = `/api/models/${model.number}/samples/${row}`;
  state.choice += 1;
  const { choice } = state;
  try {
    const blob = await loadBlob(address);
    if (choice !== state.choice) return; // another choice was made in the meantime
    showImage({ blob, address, name: sample.id.split("/").pop(), truth: sample.label, source: `test image ${row + 1} of ${model.samples.length}` });
  } catch (error) {
    showBanner(error.message, () => showSample(sample, row, model));
  }
}

function showImage(image) {
  if (state.url) URL.revokeObjectURL(state.url);
  state.image = image;
  state.choice += 1;
  state.isUnseen = false;
  state.url = URL.createObjectURL(image.blob);
  state.replies = new Map();
  state.overlays = new Map();
  find("picture").src = state.url;
  find("picture").alt = image.name;
  find("picture").hidden = false;
  find("no-picture").hidden = true;
  find("caption").textContent = [image.source, image.name].filter(Boolean).join(": ");
  find("view").hidden = false;
  find("hint").hidden = true;
  find("drop").classList.add("filled");
  drawSamples();
  drawAnswer();
  drawHeat();
  askAll();
}

async function askAll() {
  const { image } = state;
  state.turn += 1;
  const { turn } = state;
  find("answer").setAttribute("aria-busy", "true");
  const fault = await findFault(image, state.limits);
  await Promise.all(activeModels().filter((model) => !state.replies.has(model.name)).map(async (model) => {
    const reply = fault ? { error: fault } : await askOne(image, model);
    if (state.image === image && reply) {
      state.replies.set(model.name, reply);
      drawAnswer();
      drawHeat();
    }
  }));
  if (turn === state.turn) find("answer").removeAttribute("aria-busy");
  drawAnswer();
  drawHeat();
}

async function askOne(image, model) {
  try {
    const reply = await predict(image, model.name);
    serverAnswers();
    return reply;
  } catch (error) {
    if (!(error instanceof Gone)) return { error: error.message };
    showBanner("The server does not answer. Your image is kept here.", () => { hideBanner(); askAll(); }, "server");
    return null;
  }
}

function drawAnswer() {
  const { replies, focus, image } = state;
  renderRows(find("rows"), find("agreement"), {
    models: activeModels(), replies, focus, onFocus: (name) => { state.focus = name; drawAnswer(); drawHeat(); },
  });
  const reply = replies.get(focus);
  find("detail").classList.toggle("waiting", !reply);
  find("detail").inert = !reply; // the content belongs to another image or model and must not be judged
  if (!reply) {
    state.verdict = null;
    state.drawn = {};
    return;
  }
  const isBrief = state.active.length > 1;
  if (state.drawn.reply === reply && state.drawn.isBrief === isBrief) return; // redrawing would close open parts and lose the focus
  state.drawn = { reply, isBrief };
  if (state.verdict === null || state.verdict.reply !== reply) state.verdict = makeVerdict(reply, image);
  renderDetail(find("detail"), { model: focusModel(), reply, image, verdict: state.verdict && state.verdict.element, isBrief });
}

function drawSide() {
  const { replies, overlays, focus } = state;
  renderSide(find("side"), find("cards"), {
    models: activeModels(), replies, overlays, focus, picture: state.url, isHeatOn: find("heat-on").checked,
  });
}

function makeVerdict(reply, image) {
  if (!state.inbox.is_open || reply.error || image.truth !== undefined) return null;
  return new Verdict({ model: focusModel(), reply, image, inbox: state.inbox, onChange: (inbox) => { state.inbox = { ...state.inbox, ...inbox }; } });
}

function drawHeat() {
  const reply = state.replies.get(state.focus);
  const overlay = state.overlays.get(state.focus);
  const [switched, strength, heat, note] = ["heat-on", "heat-strength", "heat", "heat-note"].map(find);
  find("heat-bar").hidden = state.image === null; // it stays, so that nothing moves from image to image
  switched.disabled = Boolean(reply && reply.error);
  strength.disabled = !switched.checked;
  heat.hidden = !switched.checked || !overlay || !overlay.src;
  note.textContent = switched.checked && overlay ? overlay.note : "";
  if (!heat.hidden) heat.src = overlay.src;
  find("no-picture").hidden = !state.isUnseen || !heat.hidden;
  if (switched.checked) activeModels().filter(isUnexplained).forEach(loadHeat);
  drawSide();
}

function isUnexplained(model) {
  const reply = state.replies.get(model.name);
  return reply && !reply.error && !state.overlays.has(model.name);
}

async function loadHeat({ name }) {
  const { image, overlays } = state;
  overlays.set(name, { src: null, note: "looking ..." });
  if (name === state.focus) find("heat-note").textContent = "looking ...";
  try {
    const reply = await predict(image, name, { explain: 1, neighbours: 0 });
    overlays.set(name, reply.overlay ? { src: reply.overlay, note: `${reply.overlay_kind}, for ${reply.label}` } : { src: null, note: reply.overlay_error || "this model has nothing to show" });
  } catch (error) {
    overlays.set(name, { src: null, note: error.message, hasFailed: true });
  }
  if (state.overlays === overlays) drawHeat();
}

function takeFiles(list, source) {
  const files = [...list].filter((file) => file.size > 0 && !file.name.startsWith("."));
  const images = files.slice(0, MAX_FILES).map((file) => ({ blob: file, name: file.webkitRelativePath || file.name, source }));
  if (!images.length) return showBanner("The drop contains no file.", null);
  if (state.batch) state.batch.stop();
  state.batch = null;
  hideBanner();
  if (files.length > MAX_FILES) showBanner(`${files.length} files; the first ${MAX_FILES} are taken. For more: backbench predict BUNDLE FOLDER`, null);
  showImage(images[0]);
  if (images.length > 1) {
    state.batch = new Batch(find("batch"), images, activeModels(), {
      check: (image) => findFault(image, state.limits),
      onShow: (image) => { showImage(image); find("stage").scrollIntoView(); },
    });
    state.batch.run();
  }
  return undefined;
}

// Files of a drop, including folders; the browser's list must be read at once.
async function filesOfDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  const walk = async (entry) => {
    if (files.length > MAX_FILES) return;
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else {
      const reader = entry.createReader();
      for (let more = [null]; more.length;) {
        more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        for (const child of more) await walk(child);
      }
    }
  };
  for (const entry of entries) await walk(entry);
  return files.filter((file) => /^image\//.test(file.type) || /\.(tiff?|ppm|pgm|bmp)$/i.test(file.name));
}

function connect() {
  const [files, folder, drop] = ["files", "folder", "drop"].map(find);
  find("choose").addEventListener("click", () => files.click());
  find("choose-folder").addEventListener("click", () => folder.click());
  for (const input of [files, folder]) {
    input.addEventListener("change", () => {
      const chosen = [...input.files].filter((file) => input === files || /^image\//.test(file.type));
      if (input.files.length) takeFiles(chosen, "");
      input.value = "";
    });
  }
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    takeFiles(await filesOfDrop(event.dataTransfer), "");
  });
  document.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files];
    if (pasted.length) takeFiles(pasted, "pasted");
  });
  find("picture").addEventListener("error", () => {
    find("picture").hidden = true;
    state.isUnseen = true;
    drawHeat();
  });
  find("heat-on").addEventListener("change", () => {
    for (const [name, overlay] of state.overlays) if (overlay.hasFailed) state.overlays.delete(name); // switching on tries again
    drawHeat();
  });
  find("heat-strength").addEventListener("input", (event) => document.body.style.setProperty("--heat", event.target.value / 100));
  document.addEventListener("keydown", pressKey);
  connectCamera((image) => takeFiles([new File([image.blob], image.name)], "camera"));
}

function pressKey(event) {
  const isTyping = event.target instanceof HTMLInputElement && event.target.type === "text";
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || find("camera-dialog").open) return;
  const key = event.key.toLowerCase();
  if (key === "y" && state.verdict) state.verdict.sayRight();
  else if (key === "n" && state.verdict) { event.preventDefault(); state.verdict.askWhich(); }
  else if (key === "h" && !find("heat-bar").hidden) find("heat-on").click();
  else if (/^[1-9]$/.test(key) && state.models[Number(key) - 1]) chooseModel(state.models[Number(key) - 1].name);
}

connect();
start();
