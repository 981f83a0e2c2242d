// Checks of a file before it is sent: whether it starts like an image, and its size.

import { formatBytes } from "./dom.js";

const STARTS = [
  [0, "\xff\xd8\xff"], [0, "\x89PNG"], [8, "WEBP"], [0, "GIF8"], [0, "BM"], [0, "II*\0"], [0, "MM\0*"], [0, "II+\0"], [0, "MM\0+"],
];
const FOREIGN = [
  [4, "ftyphei", "is an HEIC image, which is not supported; save it as JPEG"],
  [4, "ftypmif1", "is an HEIF image, which is not supported; save it as JPEG"],
  [4, "ftypavif", "is an AVIF image, which is not supported; save it as JPEG or PNG"],
  [4, "ftyp", "is a video, not an image"],
  [0, "%PDF", "is a PDF document, not an image"],
  [0, "PK\x03\x04", "is a zip archive, not an image"],
];

const begins = (start, [where, magic]) => start.startsWith(magic, where);

// The reason why an image is not sent, or null. The server makes further checks.
export async function findFault(image, limits) {
  if (image.blob.size > limits.bytes) return `too large: ${formatBytes(image.blob.size)}, at most ${formatBytes(limits.bytes)} are read`;
  let start;
  try {
    start = String.fromCharCode(...new Uint8Array(await image.blob.slice(0, 64).arrayBuffer()));
  } catch {
    return "the file can no longer be read";
  }
  if (!STARTS.some((known) => begins(start, known)) && !/^P[1-7]\s/.test(start)) {
    const foreign = FOREIGN.find((known) => begins(start, known));
    return foreign ? foreign[2] : "is not an image of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)";
  }
  const pixels = await countPixels(image.blob);
  if (pixels <= limits.pixels) return null;
  return `too large: ${Math.round(pixels / 1e6)} million pixels, at most ${Math.round(limits.pixels / 1e6)} million are read`;
}

function countPixels(blob) {
  const url = URL.createObjectURL(blob);
  return new Promise((resolve) => {
    const picture = new Image();
    const end = (pixels) => { URL.revokeObjectURL(url); resolve(pixels); };
    picture.onload = () => end(picture.naturalWidth * picture.naturalHeight);
    picture.onerror = () => end(0);
    picture.src = url;
  });
}
