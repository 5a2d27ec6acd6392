"use strict";
// Asks for the page again every few seconds and puts what has changed in place. Without it the page is
// the same, only not as fresh.
const PAUSE = 5000;
const status = document.getElementById("refresh");
const button = document.createElement("button");
let paused = false;

function say(text, failed) {
  status.firstChild.textContent = text + " ";
  status.className = failed ? "bad" : "";
}

function replace(next) {
  const live = document.getElementById("live");
  for (const details of live.querySelectorAll("details[open]")) {
    const same = next.querySelector("#" + CSS.escape(details.id));
    if (same) same.open = true;
  }
  const focused = live.contains(document.activeElement) && document.activeElement.getAttribute("href");
  live.replaceWith(next);
  if (focused) next.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

async function refresh() {
  if (paused || document.hidden || getSelection().type === "Range") return;
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error((await answer.text()).split("\n")[0].slice(0, 120));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    replace(document.adoptNode(page.getElementById("live")));
    say("as of " + new Date().toLocaleTimeString(), false);
  } catch (error) {
    say("not refreshed: " + error.message, true);
  }
}

button.textContent = "pause";
button.type = "button";
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "go on" : "pause";
});
status.append(document.createTextNode(""), button);
say("as of " + new Date().toLocaleTimeString(), false);
(async function forever() {
  for (;;) {
    await new Promise((done) => setTimeout(done, PAUSE));
    await refresh();
  }
})();
