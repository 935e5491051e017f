// The list refreshes itself; only a changed list is put in place, so that a selection survives.
const REFRESH_MS = 2000;

async function refresh() {
  if (!document.hidden) {
    try {
      const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
      const [shown, current] = [document.body, page.body];
      if (shown.innerHTML !== current.innerHTML) {
        document.body = current;
        document.title = page.title;
      }
    } catch {
      // The server is gone or restarting: the list stays as it was.
    }
  }
  setTimeout(refresh, REFRESH_MS);
}

setTimeout(refresh, REFRESH_MS);
