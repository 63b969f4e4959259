// Renews the page while it is shown. Without it the page is complete, but static.
"use strict";
(() => {
  const PAUSE = 5000;
  const live = document.getElementById("live");
  const stream = document.getElementById("stream");

  // Takes over what differs and leaves all else as it is, so that focus, selection and scrolling stay.
  function renew(old, made) {
    for (const { name, value } of made.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) if (!made.hasAttribute(name)) old.removeAttribute(name);
    const before = [...old.childNodes];
    const after = [...made.childNodes];
    after.forEach((node, place) => {
      const known = before[place];
      if (!known) old.append(node);
      else if (known.nodeName !== node.nodeName) known.replaceWith(node);
      else if (known.nodeType === Node.ELEMENT_NODE) renew(known, node);
      else if (known.data !== node.data) known.data = node.data;
    });
    before.slice(after.length).forEach((node) => node.remove());
  }

  const state = () => document.getElementById("verdict")?.dataset.state;

  function show(made) {
    const before = state();
    renew(live, made);
    // The numbers in the verdict change every second; screen readers announce it only when its state changes.
    if (state() !== before)
      document.getElementById("spoken").textContent = document.getElementById("verdict").innerText;
  }

  function tell(text, state) {
    if (stream.textContent === text) return;
    stream.textContent = text;
    stream.dataset.state = state;
  }

  const parsed = (html) => new DOMParser().parseFromString(html, "text/html");

  function listen() {
    const source = new EventSource(live.dataset.stream);
    source.onmessage = (event) => {
      const made = live.cloneNode(false);
      made.append(...parsed(JSON.parse(event.data)).body.childNodes);
      show(made);
      tell("live", "good");
    };
    source.onerror = () => {
      tell("disconnected", "bad");
      // EventSource reconnects by itself, but not after a status other than 200.
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2 * PAUSE);
    };
  }

  async function poll() {
    try {
      const made = document.hidden ? null : parsed(await (await fetch(location.href)).text()).getElementById("live");
      if (made) {
        show(made);
        tell("live", "good");
      }
    } catch {
      tell("disconnected", "bad");
    }
    setTimeout(poll, PAUSE);
  }

  if (live.dataset.stream) listen();
  else if (live.hasChildNodes()) setTimeout(poll, PAUSE);
})();
