// The overview, kept up to date: the page is asked for again and its part put in place. Without this script there is
// the link to do so by hand.
"use strict";

(() => {
  const EVERY = 15_000;
  const part = document.querySelector("[data-refresh]");
  const told = document.querySelector("[data-refresh-told]");
  if (!part || !window.fetch) return;

  async function refresh() {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.pathname, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(EVERY) });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector("[data-refresh]");
      if (!answer.ok || !fresh) throw new Error(answer.redirected ? "you are logged out" : "answer " + answer.status);
      // Whoever is on a link of it by keyboard stays there.
      const at = document.activeElement && part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      part.replaceChildren(...fresh.childNodes);
      if (at) Array.from(part.querySelectorAll("a")).find((link) => link.getAttribute("href") === at)?.focus();
      document.title = page.title;
      told.textContent = "Refreshes by itself.";
      told.className = "faint";
    } catch (error) {
      told.textContent = "What you see is old: it could not be refreshed (" + error.message + ").";
      told.className = "overdue";
      document.title = "? " + document.title.replace(/^\? /, "");
    }
  }

  told.textContent = "Refreshes by itself.";
  setInterval(refresh, EVERY);
  document.addEventListener("visibilitychange", refresh);
})();
