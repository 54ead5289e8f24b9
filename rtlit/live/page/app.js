// The page of `rtlit webcam --web`. Pictures come over a WebSocket, each when this page says that it has room, so the
// newest is what is shown; see rtlit/live/web_pictures.py for the message.

const at = (id) => document.getElementById(id);
const [stage, picture, canvas, split, notice] = ["stage", "picture", "canvas", "split", "notice"].map(at);
const context = canvas.getContext("2d", { alpha: false });

const MARGIN = 1 / 8; // of the width, sent beyond the line on both sides: it may move before the next picture comes
const STEPS = 16; // to which the parts that are asked for are rounded: not a new request for every pixel
const KEY_STEP = 20; // thousandths

let socket = null;
let retryAfter = 500;
let ended = false;
let mirrored = null; // until the server says how to begin
let paused = false;
let beforeOnly = false;
let waiting = null; // a message that came while the last was decoded
let decoding = false;
let held = false; // "taken" is owed to the server
let shown = null; // what is on the canvas
let asked = "";
let keepUntil = 0;
const touched = { strength: 0, smoothing: 0 };

// — connection —

function connect() {
  socket = new WebSocket(new URL("live", location.href.replace(/^http/, "ws")));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    retryAfter = 500;
    asked = "";
    waiting = null;
    held = false;
    tellView();
  };
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") showStatus(JSON.parse(data));
    else receive(data);
  };
  socket.onclose = () => {
    if (ended) return;
    say("Connection lost; trying again. If rtlit was started anew, open the address that it printed.");
    setTimeout(connect, retryAfter);
    retryAfter = Math.min(2 * retryAfter, 5000);
  };
}

function send(message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

// A line for people; one with `seconds` is not replaced before.
function say(line, seconds = 0) {
  if (performance.now() < keepUntil && !seconds) return;
  keepUntil = performance.now() + 1000 * seconds;
  if (notice.textContent !== line) notice.textContent = line; // the same line again would be read out again
}

// — what is asked for —

// The line as a fraction of the picture, from its own left; on the screen `before` is left of the line, mirrored or not.
function spans() {
  if (paused) return { before: [0, 1], after: [0, 1] }; // the line may go anywhere on a still picture
  if (beforeOnly) return { before: [0, 1], after: null };
  const line = split.value / 1000;
  const before = [0, Math.min(1, Math.ceil((line + MARGIN) * STEPS) / STEPS)];
  const after = [Math.max(0, Math.floor((line - MARGIN) * STEPS) / STEPS), 1];
  const turn = (span) => (mirrored ? [1 - span[1], 1 - span[0]] : span);
  return { before: line > 0 ? turn(before) : null, after: line < 1 ? turn(after) : null };
}

function tellView() {
  const scale = window.devicePixelRatio;
  const [width, height] = [stage.clientWidth, stage.clientHeight].map((side) => Math.max(1, Math.round(side * scale)));
  const view = { width, height, ...spans() };
  const text = JSON.stringify(view);
  if (text !== asked && socket?.readyState === WebSocket.OPEN) {
    asked = text;
    send({ view });
  }
}

// — pictures —

function receive(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  if (header.snapshot) return download(data, 4 + length);
  waiting = { header, data, at: 4 + length };
  take();
}

async function take() {
  if (decoding || waiting === null) return;
  const { header, data, at: begin } = waiting;
  waiting = null;
  decoding = true;
  // Room for the next from now on: it travels while this one is decoded.
  if (resting(header)) held = true;
  else send({ taken: header.number });
  try {
    let offset = begin;
    const parts = {};
    for (const side of ["before", "after"]) {
      if (!header[side]) continue;
      const [from, to, bytes] = header[side];
      parts[side] = decode(new Uint8Array(data, offset, bytes)).then((bitmap) => ({ bitmap, from, to }));
      offset += bytes;
    }
    const next = { header, before: await parts.before, after: await parts.after };
    requestAnimationFrame(() => paint(next));
  } catch {
    say("A picture couldn't be decoded.", 3);
  } finally {
    decoding = false;
    take();
  }
}

// A blob goes through another process: 11 ms for 720p in Chromium, against 7 ms by ImageDecoder, drawing included. That
// is not everywhere, and on other hosts than this machine only with https.
async function decode(bytes) {
  const type = "image/jpeg";
  if (!window.ImageDecoder) return createImageBitmap(new Blob([bytes], { type }));
  const decoder = new ImageDecoder({ data: bytes, type });
  try {
    return (await decoder.decode()).image;
  } finally {
    decoder.close();
  }
}

// A hidden page asks for nothing; a paused one for nothing more once it has all of both sides.
function resting(header) {
  const whole = (side) => header[side] && header[side][0] === 0 && header[side][1] === header.width;
  return document.hidden || (paused && whole("before") && whole("after"));
}

function goOn() {
  if (held && !(shown && resting(shown.header))) {
    held = false;
    send({ taken: 0 });
  }
}

function paint(next) {
  const { header } = next;
  shown?.before?.bitmap.close();
  shown?.after?.bitmap.close();
  shown = next;
  if (canvas.width !== header.width || canvas.height !== header.height) {
    [canvas.width, canvas.height] = [header.width, header.height];
    document.documentElement.style.setProperty("--ratio", header.width / header.height);
  }
  draw();
  // A message to oneself is heard after the frame that this belongs to was painted.
  const painted = new MessageChannel();
  painted.port1.onmessage = () => {
    painted.port1.close();
    send({ painted: header.number });
  };
  painted.port2.postMessage(null);
}

function draw() {
  if (!shown) return;
  const { width } = canvas;
  const line = beforeOnly ? width : Math.round((split.value / 1000) * width);
  context.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? width : 0, 0);
  const middle = mirrored ? width - line : line;
  const [left, right] = mirrored ? [shown.after, shown.before] : [shown.before, shown.after];
  put(0, middle, left, right);
  put(middle, width, right, left);
}

// What one side lacks after a leap of the line, the other shows until the next picture.
function put(from, to, side, other) {
  const whole = side && side.from <= from && side.to >= to;
  for (const part of whole ? [side] : [other, side]) {
    if (!part) continue;
    const [left, right] = [Math.max(from, part.from), Math.min(to, part.to)];
    const [columns, { height }] = [right - left, canvas];
    if (columns > 0) context.drawImage(part.bitmap, left - part.from, 0, columns, height, left, 0, columns, height);
  }
}

// — status —

function showStatus(status) {
  for (const name of ["strength", "smoothing"]) {
    if (performance.now() - touched[name] > 1000) setSlider(name, status[name]);
  }
  if (mirrored === null) press("mirror", (mirrored = status.mirror));
  const [width, height] = status.size;
  at("fps").textContent = `${status.fps.toFixed(1)} of ${status.captured_fps.toFixed(1)} fps`;
  at("latency").textContent = status.latency_ms === null ? "–" : `${status.latency_ms.toFixed(0)} ms`;
  at("dropped").textContent = `${status.dropped}, here ${status.skipped} more`;
  at("enhance").textContent = status.enhance_ms === null ? "–" : `${status.enhance_ms.toFixed(1)} ms`;
  at("device").textContent = status.device;
  at("source").textContent = status.source;
  canvas.setAttribute("aria-label", width ? `Live picture, ${width} by ${height}, from ${status.source}` : "No picture yet");
  ended = status.ended !== "";
  if (ended) say(status.ended, 1);
  else say(status.notice || (width ? (paused ? "Paused" : "") : "Waiting for the first picture…"));
}

function setSlider(name, value) {
  const text = name === "strength" ? value.toFixed(2) : `${value.toFixed(2)} s`;
  at(name).value = value;
  at(name).setAttribute("aria-valuetext", name === "strength" ? text : `${value.toFixed(2)} seconds`);
  at(`${name}-value`).textContent = text;
}

// — controls —

function press(id, on) {
  at(id).setAttribute("aria-pressed", String(on));
}

function moved() {
  const percent = split.value / 10;
  picture.style.setProperty("--split", `${percent}%`);
  picture.classList.toggle("before-only", beforeOnly);
  picture.classList.toggle("no-left", !beforeOnly && percent < 10);
  picture.classList.toggle("no-right", percent > 90);
  split.setAttribute("aria-valuetext", `${percent.toFixed(0)} % before, ${(100 - percent).toFixed(0)} % after`);
  draw();
  tellView();
}

const actions = {
  before() {
    press("before", (beforeOnly = !beforeOnly));
    moved();
  },
  mirror() {
    press("mirror", (mirrored = !mirrored));
    moved();
  },
  pause() {
    press("pause", (paused = !paused));
    say(paused ? "Paused" : "");
    tellView();
    if (!paused) goOn();
  },
  snapshot() {
    send({ snapshot: true });
  },
  full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else stage.requestFullscreen().catch(() => say("This browser doesn't allow full screen.", 3));
  },
};

function download(data, begin) {
  const now = new Date(Date.now() - 60000 * new Date().getTimezoneOffset());
  const stamp = now.toISOString().replace(/[-:]/g, "").replace("T", "-").slice(0, 15);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([new Uint8Array(data, begin)], { type: "image/png" }));
  link.download = `rtlit-${stamp}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`Saved as ${link.download}`, 3);
}

for (const id of Object.keys(actions)) at(id).addEventListener("click", actions[id]);
at("full").hidden = !document.fullscreenEnabled;

for (const name of ["strength", "smoothing"]) {
  at(name).addEventListener("input", () => {
    touched[name] = performance.now();
    setSlider(name, at(name).valueAsNumber);
    send({ [name]: at(name).valueAsNumber });
  });
}

const KEYS = { " ": "pause", b: "before", m: "mirror", s: "snapshot", f: "full" };
split.addEventListener("input", moved);
split.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[event.key];
  const action = KEYS[event.key.toLowerCase()];
  if (step) {
    split.value = split.valueAsNumber + step * KEY_STEP;
    moved();
  } else if (action && !event.repeat) actions[action]();
  if (step || action) event.preventDefault();
});

document.addEventListener("visibilitychange", goOn);
new ResizeObserver(() => tellView()).observe(stage);
moved();
connect();
