// Predictions in words. A confidence is a share in 0..1, calibrated on images that were not used for training.

const LEVELS = [[0.95, "sure"], [0.8, "fairly sure"], [0.6, "likely"], [0, "little better than a guess"]];

const MAX_CALIBRATION_ERROR = 0.05;

export function sayLabel(reply) {
  if (reply.error) return "no answer";
  if (!reply.unsure || reply.top.length < 2) return reply.label;
  return `not sure: ${reply.top[0].label} or ${reply.top[1].label}`;
}

export function sayLevel(reply) {
  if (reply.unsure) return "not sure";
  return LEVELS.find(([least]) => reply.confidence >= least)[1];
}

export function sayShare(confidence) {
  const share = Math.round(100 * confidence);
  if (share >= 100) return "more than 99";
  return share < 1 ? "less than 1" : String(share);
}

export function sayShortShare(confidence) {
  return sayShare(confidence).replace("more than", ">").replace("less than", "<");
}

// As sayShare, limited by the number of test images: if n of n are correct, 1 - 3/n is the 95 % bound.
function sayClaim(confidence, accuracy) {
  const most = accuracy ? Math.max(50, Math.floor(100 - 300 / accuracy.n)) : 99;
  return 100 * confidence > most ? `more than ${most}` : sayShare(confidence);
}

// Whether its confidences are calibrated on test images; otherwise they are not described as accuracies.
function isHonest(model) {
  const error = model.calibration_error;
  return typeof error === "number" && error <= MAX_CALIBRATION_ERROR;
}

export function saySureness(reply, model) {
  const share = sayShare(reply.confidence);
  if (reply.is_strange) return `confidence ${share} of 100, unreliable for images like this`;
  if (!model.is_calibrated) return `${sayLevel(reply)} (confidence ${share} of 100; not calibrated)`;
  if (!isHonest(model)) return `${sayLevel(reply)} (confidence ${share} of 100; calibration not confirmed)`;
  const claim = `${sayClaim(reply.confidence, model.accuracy)} of 100 such predictions are correct`;
  return reply.unsure ? `below this model's threshold: ${claim}` : `${sayLevel(reply)} (${claim})`;
}

export function sayTime(milliseconds) {
  if (milliseconds === null) return "";
  return milliseconds >= 1000 ? `${(milliseconds / 1000).toFixed(1)} s` : `${Math.max(1, Math.round(milliseconds))} ms`;
}

// "3 of 4 say moth", from the replies that are there; who is not sure says nothing.
export function sayAgreement(replies) {
  const answered = replies.filter((reply) => !reply.error);
  if (!answered.length) return "";
  const counts = new Map();
  for (const reply of answered) if (!reply.unsure) counts.set(reply.label, (counts.get(reply.label) || 0) + 1);
  if (!counts.size) return answered.length === 1 ? "The only model that answered is not sure" : answered.length === 2 ? "Neither is sure" : `None of the ${answered.length} is sure`;
  const [label, most] = [...counts].sort((one, two) => two[1] - one[1])[0];
  if (answered.length === 1) return `The only model that answered says ${label}`;
  if (most === answered.length) return answered.length === 2 ? `Both say ${label}` : `All ${most} say ${label}`;
  const isTied = [...counts.values()].filter((count) => count === most).length > 1;
  if (isTied) return `They disagree: ${[...counts.keys()].join(" / ")}`;
  return most === 1 ? `1 of ${answered.length} says ${label}` : `${most} of ${answered.length} say ${label}`;
}

// One cell of a CSV file: nothing that a spreadsheet runs or that moves the text of a terminal; as in_csv in Python.
export function csvCell(text) {
  const plain = text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => (/[\u200c\u200d]/.test(char) ? char : writtenOut(char)));
  const safe = /^ *[=+\-@\t\r\n＝＋－＠]/.test(text) ? `'${plain}` : plain;
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function writtenOut(char) {
  const code = char.codePointAt(0);
  const [mark, length] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
  const short = { "\t": "\\t", "\n": "\\n", "\r": "\\r" }[char];
  return short ?? `\\${mark}${code.toString(16).padStart(length, "0")}`;
}
