// Live without reload: the server renders each part of the page again, and this puts it in place. It draws nothing.
"use strict";
(() => {
  const live = document.getElementById("live");
  const word = document.getElementById("live-word");
  const shape = live.querySelector("use");

  const say = (state, text) => {
    document.documentElement.classList.toggle("live-on", state === "ok");
    word.textContent = text;
    shape.setAttribute("href", `#i-${state}`);
    shape.parentNode.setAttribute("class", `icon ${state}`);
  };

  // What the reader has opened, scrolled and focused stays so.
  const replace = (place, html) => {
    const open = [...place.querySelectorAll("details[open]")].map((one) => one.id);
    const scrolled = [...place.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    const focused = place.contains(document.activeElement) ? document.activeElement : null;
    const path = focused && (focused.id ? `#${CSS.escape(focused.id)}` : focused.tagName === "SUMMARY" ? "summary" : ".scroll");
    place.innerHTML = html;
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    place.querySelectorAll(".scroll").forEach((one, index) => { one.scrollLeft = scrolled[index] || 0; });
    if (path) place.querySelector(path)?.focus({ preventScroll: true });
  };

  const headline = () => document.getElementById("verdict")?.textContent.trim() ?? "";
  const spoken = document.createElement("p"); // a screen reader hears of a new verdict, and of nothing else
  spoken.className = "spoken";
  spoken.setAttribute("role", "status");
  document.body.append(spoken);

  const known = new Map();
  const source = new EventSource("/page/stream");
  source.addEventListener("fragments", (event) => {
    const before = headline();
    for (const [name, html] of Object.entries(JSON.parse(event.data))) {
      const place = document.getElementById(`f-${name}`);
      if (place && known.get(name) !== html) {
        known.set(name, html);
        replace(place, html);
      }
    }
    if (headline() !== before) spoken.textContent = headline();
    say("ok", live.dataset.live);
  });
  source.addEventListener("title", (event) => { document.title = JSON.parse(event.data); });
  source.onerror = () => {
    say("warn", live.dataset.lost);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  };
})();
