// Updates the page in place from the stream of reports. Without it the page is complete, but static.
"use strict";
(() => {
  const NONE = "–";
  const ALARMING = new Set(["down", "failing"]);
  const BARS = { left: ".12", right: ".52" };
  const whole = (x) => Math.floor(x + 0.5);
  const two = (x) => (x < 9.95 ? String(whole(x * 10) / 10) : String(whole(x)));
  const count = (x) => Math.trunc(x).toLocaleString("en-US");

  // The rules of gateway/admin/formats.py.
  const percent = (share) =>
    share > 0 && share < 0.01 ? "<1 %" : share > 0.99 && share < 1 ? ">99 %" : `${whole(share * 100)} %`;

  function duration(seconds) {
    if (seconds <= 0) return "0 s";
    if (seconds < 0.0001) return "<0.1 ms";
    if (seconds < 0.9995) return `${two(seconds * 1000)} ms`;
    if (seconds < 59.5) return `${two(seconds)} s`;
    const full = whole(seconds);
    for (const [big, unit, small, rest] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
      if (full < big) continue;
      const left = Math.floor((full % big) / small);
      return `${Math.floor(full / big)} ${unit}${left ? ` ${left} ${rest}` : ""}`;
    }
    return `${full} s`;
  }

  function size(octets) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    while (octets >= 999.5 && units.length > 1) {
      octets /= 1000;
      units.shift();
    }
    return `${two(octets)} ${units[0]}`;
  }

  const FORMS = {
    text: String,
    state: String,
    count,
    alarm: count,
    percent,
    duration,
    ago: (x) => (x < 1 ? "just now" : `${duration(Math.floor(x))} ago`),
    size,
    query: (id) => (id ? String(id) : "ad hoc"),
  };
  const shown = (value, form) => (value === null || value === undefined ? NONE : FORMS[form](value));
  const look = (report, place) => place.split(".").reduce((found, name) => found[name], report);

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function mark(element, state) {
    if (element.dataset.state !== state) element.dataset.state = state;
  }

  // The numbers in the verdict change every second; screen readers announce it only when its state changes.
  function verdict(report) {
    const section = document.getElementById("verdict");
    if (section.dataset.state === report.state) return;
    mark(section, report.state);
    say(document.getElementById("spoken"), report.verdict);
  }

  function health(list, parts) {
    parts.forEach((part, place) => {
      const tile = list.children[place];
      mark(tile, part.state);
      say(tile.children[0], part.name);
      say(tile.children[1], part.text);
    });
  }

  // -- tables: the head says which field each column shows, and in which format -----------------------------------

  function row(columns) {
    const made = document.createElement("tr");
    columns.forEach((_, place) => {
      const cell = made.appendChild(document.createElement(place ? "td" : "th"));
      if (!place) cell.scope = "row";
    });
    return made;
  }

  function table(element, rows) {
    const columns = [...element.tHead.rows[0].cells].map((cell) => cell.dataset);
    const body = element.tBodies[0];
    while (body.rows.length > rows.length) body.deleteRow(-1);
    while (body.rows.length < rows.length) body.append(row(columns));
    rows.forEach((values, place) => {
      const cells = body.rows[place].cells;
      columns.forEach(({ field, form }, column) => {
        const value = values[field];
        say(cells[column], shown(value, form));
        if (!column) return;
        cells[column].classList.toggle("words", form === "text" || form === "state");
        cells[column].classList.toggle("alarm", form === "alarm" ? value > 0 : form === "state" && ALARMING.has(value));
      });
    });
    const section = element.closest("section");
    section.querySelector(".empty").hidden = rows.length > 0;
    section.querySelector(".scroll").hidden = rows.length === 0;
  }

  // -- charts: the geometry of gateway/admin/chart.py ------------------------------------------------------------

  function ceiling(values) {
    const most = Math.max(0, ...values);
    for (let decade = 1; ; decade *= 10)
      for (const step of [1, 2, 5]) if (most <= step * decade) return step * decade;
  }

  const HEIGHTS = {
    share: (value) => value * 100,
    log: (value) => Math.min(100, Math.max(0, ((Math.log10(Math.max(value, 1e-9)) + 4) / 6) * 100)),
    count: (value, top) => (value / top) * 100,
  };

  function path(values, shape, scale, top) {
    const heights = values.map((value) => (value === null ? null : (100 - HEIGHTS[scale](value, top)).toFixed(1)));
    if (shape in BARS)
      return heights.map((y, x) => (y === "100.0" ? "" : `M${x}${BARS[shape]},100V${y}h.36V100z`)).join("");
    const [start, end] = shape === "area" ? [",100V", "V100z"] : [",", ""];
    let drawn = "";
    let last = null;
    heights.forEach((y, x) => {
      if (y !== null) drawn += last !== null ? `L${x}.5,${y}` : `M${x}.5${start}${y}h0`;
      else if (last !== null) drawn += end;
      last = y;
    });
    return drawn + (last !== null ? end : "");
  }

  function chart(figure, history) {
    const { scale } = figure.dataset;
    const paths = [...figure.querySelectorAll("path[data-series]")];
    const top = scale === "count" ? ceiling(paths.flatMap((one) => history[one.dataset.series])) : 1;
    if (scale === "count") say(figure.querySelector(".axis span"), count(top));
    for (const one of paths) one.setAttribute("d", path(history[one.dataset.series], one.dataset.shape, scale, top));
  }

  // -- the stream --------------------------------------------------------------------------------------------------

  function renew(report) {
    verdict(report);
    for (const element of document.querySelectorAll("[data-place]"))
      say(element, shown(look(report, element.dataset.place), element.dataset.form));
    health(document.getElementById("health"), report.health);
    for (const element of document.querySelectorAll("table[data-rows]")) table(element, report[element.dataset.rows]);
    for (const figure of document.querySelectorAll("figure[data-chart]")) chart(figure, report.history);
  }

  function stream(text, state) {
    const element = document.getElementById("stream");
    mark(element, state);
    say(element, text);
  }

  function listen() {
    const source = new EventSource("events");
    source.onmessage = (event) => {
      renew(JSON.parse(event.data));
      stream("live", "good");
    };
    source.onerror = () => {
      stream("disconnected", "bad");
      // EventSource reconnects by itself, but not after a status other than 200.
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
    };
  }

  listen();
})();
