// Liveness for pages that are whole without it.
//
// A region names the subjects it shows: <div id="stagings" data-live="staging">, "*" for all. When the history tells of a
// change to one of them, the page is fetched again and the region replaced. data-every="10" also does so every ten
// seconds. A region with data-key is replaced only when the key has changed: it keeps itself up to date by another way.
// <pre data-log="URL"> follows the output of an operation.

const live = document.getElementById("live");
const regions = () => [...document.querySelectorAll("[data-live][id]")];
const wanted = new Set();
let timer = null;
let fetching = false;

const concerns = (region, subject) =>
  region.dataset.live.split(" ").some((name) => name === "*" || subject === name || subject.startsWith(name + "/"));

function ask(ids) {
  for (const id of ids) wanted.add(id);
  if (wanted.size > 0 && timer === null && !fetching) timer = setTimeout(refresh, 150);
}

async function refresh() {
  timer = null;
  fetching = true;
  const ids = [...wanted];
  wanted.clear();
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    // What is gone, or asks for another log-in, says so itself.
    if (!answer.ok || answer.redirected) return location.reload();
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ids) replace(document.getElementById(id), fresh.getElementById(id));
  } catch {
    say("Not connected; trying again.");
  } finally {
    fetching = false;
    ask([]);
  }
}

function replace(old, next) {
  if (!old || !next) return;
  if ("key" in next.dataset && next.dataset.key === old.dataset.key) return;
  const focused = document.activeElement;
  // What a person is typing in is left alone.
  if (old.contains(focused) && focused.matches("input:not([type=checkbox]), select, textarea")) return;
  const mark = old.contains(focused) ? place(old, focused) : null;
  for (const open of old.querySelectorAll("details[id]")) {
    const same = next.querySelector(`#${CSS.escape(open.id)}`);
    if (same) same.open = open.open;
  }
  if (old.innerHTML === next.innerHTML) return;
  const scroll = scrollY;
  const frames = () => [...old.querySelectorAll(".frame")];
  const aside = frames().map((frame) => frame.scrollLeft);
  Object.assign(old.dataset, next.dataset);
  old.replaceChildren(...next.childNodes);
  scrollTo(scrollX, scroll);
  frames().forEach((frame, n) => (frame.scrollLeft = aside[n] ?? 0));
  for (const svg of old.querySelectorAll("svg[data-pan]")) {
    const seen = views.get(svg.getAttribute("aria-label"));
    if (seen) look(svg, seen);
  }
  if (mark) find(old, mark)?.focus({ preventScroll: true });
  followLogs(old);
}

// Where a control stands, so that the one in its place can have the focus.
const controls = (region) => [...region.querySelectorAll("a[href], button, summary, [tabindex]")];
const place = (region, control) => ({ text: control.textContent, n: controls(region).indexOf(control) });
const find = (region, { text, n }) => {
  const all = controls(region);
  return all[n]?.textContent === text ? all[n] : all.find((control) => control.textContent === text);
};

function say(text) {
  if (live && live.textContent !== text) live.textContent = text;
}

function followEvents() {
  // From where the page was read, so that nothing between the page and the stream is lost; where that is not known, the
  // page is read once more.
  const after = Number(live.dataset.after);
  const source = new EventSource("/api/v1/events/stream" + (after > 0 ? `?after=${after}` : ""));
  let isCurrent = after > 0;
  source.addEventListener("open", () => {
    say("· live");
    if (!isCurrent) ask(regions().filter((r) => !("key" in r.dataset)).map((r) => r.id));
    isCurrent = false;
  });
  source.addEventListener("error", () => say("· not connected, trying again"));
  source.addEventListener("change", (message) => {
    const { subject } = JSON.parse(message.data);
    ask(regions().filter((region) => concerns(region, subject)).map((region) => region.id));
  });
  addEventListener("pagehide", () => source.close());
}

// === output ===

const followed = new Set();
const PIECES = 2000;

function followLogs(root) {
  for (const url of new Set([...root.querySelectorAll("pre[data-log]")].map((pre) => pre.dataset.log))) {
    if (!followed.has(url)) followLog(url);
  }
}

function followLog(url) {
  followed.add(url);
  const source = new EventSource(url);
  const places = () => [...document.querySelectorAll(`pre[data-log="${CSS.escape(url)}"]`)];
  source.addEventListener("open", () => {
    // The stream tells again what the page shows.
    for (const pre of places()) pre.replaceChildren();
  });
  source.addEventListener("piece", (message) => {
    const piece = JSON.parse(message.data);
    for (const pre of places()) {
      if (!pre.dataset.stream || pre.dataset.stream === piece.stream) append(pre, piece);
    }
  });
  source.addEventListener("end", () => {
    source.close();
    for (const pre of places()) delete pre.dataset.log;
    ask(regions().map((region) => region.id));
  });
  addEventListener("pagehide", () => source.close());
}

function append(pre, piece) {
  const atEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
  const span = document.createElement("span");
  const isGap = piece.text === undefined || piece.text === null;
  if (isGap) span.className = "gap";
  else if (piece.stream === "stderr" && !pre.dataset.stream) span.className = "err";
  span.textContent = isGap ? `… ${piece.ends - piece.begins} bytes were dropped here …` : piece.text;
  pre.append(span);
  // A long output is cut at its head: the whole of it is behind a link.
  while (pre.childElementCount > PIECES) pre.firstElementChild.remove();
  if (atEnd) pre.scrollTop = pre.scrollHeight;
}

// === forms ===

addEventListener("submit", (event) => {
  const button = event.submitter;
  if (event.defaultPrevented || event.target.method !== "post") return;
  // After the form is sent, so that the button's value goes with it.
  setTimeout(() => {
    button?.setAttribute("aria-busy", "true");
    for (const other of event.target.querySelectorAll("button")) other.disabled = true;
  });
});

// A page that comes back from the browser's memory has its buttons again.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

addEventListener("change", (event) => {
  if (!event.target.matches("[data-secret]")) return;
  const value = event.target.closest("[data-row]").querySelector("[data-value]");
  value.type = event.target.checked ? "password" : "text";
});

addEventListener("click", (event) => {
  const more = event.target.closest("[data-add-row]");
  if (!more) return;
  event.preventDefault();
  const set = more.closest("fieldset");
  const last = [...set.querySelectorAll("[data-row]")].at(-1);
  const count = set.querySelector("[name=rows]");
  const n = Number(count.value);
  const row = last.cloneNode(true);
  for (const mistake of row.querySelectorAll(".mistake")) mistake.remove();
  for (const part of row.querySelectorAll("[name], [id], [for]")) {
    for (const name of ["name", "id", "for"]) {
      if (part.hasAttribute(name)) part.setAttribute(name, part.getAttribute(name).replace(/\d+/, n));
    }
    if (part.type === "checkbox") part.checked = false;
    else if (part.matches("input")) part.value = "";
    part.removeAttribute("placeholder");
    part.removeAttribute("aria-invalid");
  }
  row.querySelector("[data-value]").type = "text";
  last.after(row);
  count.value = n + 1;
  row.querySelector("input").focus();
});

// === pictures: <svg data-pan="WIDTH HEIGHT"> is zoomed by wheel and buttons and moved by dragging ===

const views = new Map();
const box = (svg) => svg.getAttribute("viewBox").split(" ").map(Number);
const whole = (svg) => svg.dataset.pan.split(" ").map(Number);

// Looks at a part of a picture, never at what lies beside it.
function look(svg, [x, y, width]) {
  const [most, high] = whole(svg);
  const to = Math.min(most, Math.max(most / 12, width));
  const near = to < most;
  const within = (at, size) => Math.min(size - (size * to) / most, Math.max(0, at));
  const view = [within(x, most), within(y, high), to, (high * to) / most];
  svg.setAttribute("viewBox", view.join(" "));
  svg.toggleAttribute("data-near", near);
  // A picture that is drawn anew is looked at as the one before.
  views.set(svg.getAttribute("aria-label"), view);
}

function zoom(svg, by, atX = 0.5, atY = 0.5) {
  const [x, y, width, height] = box(svg);
  const to = Math.min(whole(svg)[0], width * by) / width;
  look(svg, [x + width * atX * (1 - to), y + height * atY * (1 - to), width * to]);
}

addEventListener("wheel", (event) => {
  const svg = event.target.closest?.("svg[data-pan]");
  // Where the whole of it is seen, the page goes on below it.
  if (!svg || (event.deltaY > 0 && !svg.hasAttribute("data-near"))) return;
  event.preventDefault();
  const area = svg.getBoundingClientRect();
  const [atX, atY] = [(event.clientX - area.x) / area.width, (event.clientY - area.y) / area.height];
  zoom(svg, event.deltaY > 0 ? 1.2 : 1 / 1.2, atX, atY);
}, { passive: false });

addEventListener("click", (event) => {
  const button = event.target.closest("[data-zoom]");
  if (button) zoom(button.closest("figure").querySelector("svg[data-pan]"), Number(button.dataset.zoom));
});

addEventListener("pointerdown", (event) => {
  const svg = event.target.closest?.("svg[data-pan]");
  if (!svg || event.button !== 0 || !svg.hasAttribute("data-near")) return;
  event.preventDefault();
  const begin = box(svg);
  const scale = begin[2] / svg.getBoundingClientRect().width;
  let moved = false;
  const move = (next) => {
    const [dx, dy] = [next.clientX - event.clientX, next.clientY - event.clientY];
    moved ||= Math.hypot(dx, dy) > 4;
    if (moved) look(svg, [begin[0] - dx * scale, begin[1] - dy * scale, begin[2]]);
    svg.toggleAttribute("data-panning", moved);
  };
  const over = new AbortController();
  const end = () => {
    over.abort();
    svg.removeAttribute("data-panning");
    if (!moved) return;
    // The end of a drag is no click on the site under it.
    const stop = (click) => click.preventDefault();
    svg.addEventListener("click", stop, { once: true, capture: true });
    setTimeout(() => svg.removeEventListener("click", stop, { capture: true }));
  };
  addEventListener("pointermove", move, { signal: over.signal });
  addEventListener("pointerup", end, { signal: over.signal });
  addEventListener("pointercancel", end, { signal: over.signal });
});

document.documentElement.dataset.scripts = "";

if (document.body.hasAttribute("data-known")) {
  if (regions().length > 0) followEvents();
  followLogs(document);
  for (const region of document.querySelectorAll("[data-every][id]")) {
    setInterval(() => document.hidden || ask([region.id]), Number(region.dataset.every) * 1000);
  }
}
