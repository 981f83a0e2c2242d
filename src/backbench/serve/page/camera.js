// A picture from the camera; if that is refused the page shows a message and works without it.

import { find } from "./dom.js";

export function connectCamera(onPicture) {
  const [dialog, video, note, shoot] = ["camera-dialog", "video", "camera-note", "shoot"].map(find);
  let stream = null;

  const stop = () => {
    for (const track of stream ? stream.getTracks() : []) track.stop();
    stream = null;
  };

  find("camera").addEventListener("click", async () => {
    shoot.disabled = true;
    video.hidden = false;
    note.textContent = "Asking for the camera ...";
    dialog.showModal();
    try {
      if (!navigator.mediaDevices) throw new DOMException("", "NotSupportedError");
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
      video.srcObject = stream;
      await video.play();
      note.textContent = "";
      shoot.disabled = false;
    } catch (error) {
      video.hidden = true;
      note.textContent = sayWhy(error.name);
    }
  });
  find("camera-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", stop);
  shoot.addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      dialog.close();
      onPicture({ blob, name: "camera.jpg" });
    }, "image/jpeg", 0.92);
  });
}

function sayWhy(name) {
  if (name === "NotAllowedError") return "The browser was not allowed to use the camera. Allow it in the address bar, or choose a file instead.";
  if (name === "NotFoundError") return "This device has no camera. Choose a file instead.";
  if (name === "NotSupportedError") return "Browsers allow the camera only for pages of this computer or over https. Choose a file instead.";
  return "The camera can't be used now. Choose a file instead.";
}
