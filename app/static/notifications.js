// The bell of an open page: its number, a toast for what arrives, and a new line in the list when that is what is open.
// What arrives is data, and becomes text; without this script the page shows what was there when it was made.
"use strict";

(() => {
  // A browser has six connections to one server, and each page that listens holds one: with a seventh, nothing loads any
  // more. Hidden pages give theirs back, soon enough for somebody who opens one tab after the other.
  const HIDDEN_FOR = 2_000;
  // After an answer that the browser takes for final: the server is being restarted, or the login has ended.
  const REFUSED_FOR = 60_000;
  const TOAST_FOR = 10_000;
  const TOASTS = 3;
  const MOST = 99;

  const bell = document.querySelector(".bell[data-stream]");
  if (!bell || !window.EventSource) return;
  const count = bell.querySelector("b");
  const list = document.querySelector("[data-notifications]");
  const toasts = make("div", "toasts");
  toasts.setAttribute("aria-live", "polite");
  document.body.append(toasts);

  let after = bell.dataset.after ? Number(bell.dataset.after) : null;
  let source = null;
  let later = null;

  function connect() {
    clearTimeout(later);
    if (source) return;
    source = new EventSource(bell.dataset.stream + (after === null ? "" : "?after=" + after));
    source.addEventListener("unread", (event) => show(Number(event.data)));
    source.addEventListener("notification", (event) => arrive(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      // CONNECTING: the browser comes again by itself, with the id of the last event.
      if (source && source.readyState === EventSource.CLOSED) {
        disconnect();
        later = setTimeout(connect, REFUSED_FOR);
      }
    });
  }

  function disconnect() {
    clearTimeout(later);
    if (source) source.close();
    source = null;
  }

  function show(unread) {
    count.textContent = unread > MOST ? MOST + "+" : String(unread);
    count.hidden = !unread;
    bell.setAttribute("aria-label", "Notifications, " + count.textContent + " unread");
  }

  function arrive(news) {
    if (after !== null && news.id <= after) return;
    after = news.id;
    if (list) insert(news);
    while (toasts.childElementCount >= TOASTS) toasts.firstElementChild.remove();
    const toast = make("p", "toast", [linked(news, "strong"), news.body && make("span", "", [news.body])]);
    toasts.append(toast);
    setTimeout(() => toast.remove(), TOAST_FOR);
  }

  function insert(news) {
    const time = make("time", "", ["just now"]);
    time.dateTime = news.at;
    const words = [linked(news, "b"), " ", make("span", "badge in_progress", ["new"])];
    if (news.body) words.push(make("br"), news.body);
    words.push(make("br"), make("small", "", [time]));
    list.prepend(make("tr", "", [make("td", "", words), make("td")]));
    list.parentElement.hidden = false;
    document.querySelector("p.empty")?.remove();
    const seen = document.querySelector("input[name=up_to]");
    if (seen) {
      seen.value = news.id;
      seen.form.hidden = false;
    }
  }

  function linked(news, otherwise) {
    const element = make(news.url ? "a" : otherwise, "", [news.title]);
    if (news.url) element.href = news.url;
    return element;
  }

  function make(tag, classes, children = []) {
    const element = document.createElement(tag);
    if (classes) element.className = classes;
    element.append(...children.filter(Boolean));
    return element;
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(later);
    if (!document.hidden) connect();
    else later = setTimeout(disconnect, HIDDEN_FOR);
  });
  // A page that the browser keeps for "back" must not keep its connection.
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", () => { if (!document.hidden) connect(); });
  if (!document.hidden) connect();
})();
