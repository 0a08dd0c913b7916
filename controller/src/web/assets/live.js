// Live updates: a region that names a subject is fetched again when the history tells of a change to it.
// <section data-live="staging" id="list">…</section>
const regions = [...document.querySelectorAll("[data-live][id]")];
let pending = new Set();
let timer = null;

async function refresh() {
  timer = null;
  const wanted = pending;
  pending = new Set();
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok || answer.redirected) return location.reload();
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const region of wanted) {
    const next = fresh.getElementById(region.id);
    // What a person is typing in is left alone.
    if (next && !region.contains(document.activeElement)) region.replaceChildren(...next.childNodes);
  }
}

if (regions.length > 0) {
  const source = new EventSource("/api/v1/events/stream");
  source.addEventListener("change", (message) => {
    const { subject } = JSON.parse(message.data);
    for (const region of regions) {
      const names = region.dataset.live.split(" ");
      if (names.some((name) => subject === name || subject.startsWith(name + "/"))) pending.add(region);
    }
    if (pending.size > 0 && timer === null) timer = setTimeout(refresh, 150);
  });
  addEventListener("pagehide", () => source.close());
}
