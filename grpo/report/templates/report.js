"use strict";
(() => {
  const FOLD = 1200;
  const el = (tag, options = {}, ...inside) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "class") node.className = value;
      else if (name in node && name !== "list") node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...inside.filter((x) => x !== null && x !== undefined));
    return node;
  };
  const short = (x) => (x === null || x === undefined ? "-" : String(Number(x.toPrecision(3))));
  const signed = (x, digits = 2) => (x === null || x === undefined ? "-" : (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(digits));
  const table = (label, heads, rows) => el("div", { class: "scroll", role: "region", "aria-label": label, tabIndex: 0 },
    el("table", { class: "moved" },
      el("thead", {}, el("tr", {}, ...heads.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
      el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((cell, i) => el("td", { class: heads[i][1] }, cell)))))));

  // ---- charts: a cursor that reads the values ------------------------------------------------------------------

  function readable(svg) {
    const facts = JSON.parse(svg.dataset.chart), [low, high, start, end] = facts.x;
    const steps = [...new Set(facts.series.flatMap(([, points]) => points.map((p) => p[0])))].sort((a, b) => a - b);
    const values = facts.series.map(([name, points]) => [name, new Map(points)]);
    const name = svg.getAttribute("aria-label");
    const plot = el("div", { class: "plot", tabIndex: 0, role: "group", "aria-label": name + "; left and right arrow keys read the values" });
    const read = el("p", { class: "read", "aria-live": "polite" });
    svg.replaceWith(plot);
    plot.append(svg, read);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "cursor");
    let at = -1;
    const show = (i) => {
      at = Math.max(0, Math.min(steps.length - 1, i));
      const x = steps[at], across = start + ((x - low) / (high - low || 1)) * (end - start);
      for (const [key, value] of Object.entries({ x1: across, x2: across, y1: 10, y2: 146 })) line.setAttribute(key, value);
      svg.append(line);
      const parts = values.filter(([, points]) => points.has(x)).map(([n, points]) => (values.length > 1 ? n + " " : "") + points.get(x));
      read.textContent = `${facts.name} ${x}: ${parts.join(", ")}${facts.unit && facts.unit !== "share" ? " " + facts.unit : ""}`;
    };
    const hide = () => { line.remove(); read.textContent = ""; at = -1; };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = low + (((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width - start) / (end - start) * (high - low);
      let best = 0;
      steps.forEach((s, i) => { if (Math.abs(s - x) < Math.abs(steps[best] - x)) best = i; });
      show(best);
    });
    svg.addEventListener("pointerleave", () => { if (document.activeElement !== plot) hide(); });
    plot.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      show(at < 0 ? (move < 0 ? 0 : move === Infinity ? steps.length - 1 : 0) : move === -Infinity ? 0 : move === Infinity ? steps.length - 1 : at + move);
    });
    plot.addEventListener("blur", hide);
  }
  document.querySelectorAll("svg.chart").forEach(readable);

  // ---- packed data ---------------------------------------------------------------------------------------------

  async function unpack(script) {
    const bytes = Uint8Array.from(atob(script.textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // ---- texts ---------------------------------------------------------------------------------------------------

  const escaped = JSON.parse(document.getElementById("markers").textContent).map((m) => m.replace(/[.*+?^$()|[\]\\]/g, "\\$&"));
  const marked = new RegExp("\\b(?:" + escaped.join("|") + ")\\b", "gi");

  function plain(parent, text, thinking) {
    let at = 0;
    if (thinking) {
      for (const match of text.matchAll(marked)) {
        parent.append(text.slice(at, match.index), el("u", { title: "a marker of reflection" }, match[0]));
        at = match.index + match[0].length;
      }
    }
    parent.append(text.slice(at));
  }
  function tagged(parent, text, state) {
    for (const piece of text.split(/(<\/?think>|<\/?answer>)/)) {
      if (/^<\/?(think|answer)>$/.test(piece)) {
        if (piece === "<answer>") { state.box = el("span", { class: "answer" }); parent.append(state.box); }
        (state.box && state.box.parentNode === parent ? state.box : parent).append(el("span", { class: "tag" }, piece));
        if (piece === "</answer>") state.box = null;
        state.answer = piece === "<answer>";
      } else if (piece) plain(state.box && state.box.parentNode === parent ? state.box : parent, piece, !state.answer);
    }
  }
  function body(text) {
    const box = el("div", { class: "text" }), state = {};
    if (text.length <= FOLD) tagged(box, text, state);
    else {
      tagged(box, text.slice(0, FOLD / 2), state);
      const middle = text.slice(FOLD / 2, -FOLD / 2), fold = el("details", {}, el("summary", {}, `${middle.length} more characters`));
      tagged(fold, middle, state);
      box.append(fold);
      tagged(box, text.slice(-FOLD / 2), state);
    }
    return box;
  }
  const verdict = (c) => el("span", { class: "verdict" }, c.ok === undefined ? "not judged" : c.ok ? "\u2713 right" : "\u2717 wrong");

  function paid(c, weights) {
    const terms = Object.entries(c.r).map(([name, value]) =>
      value === null ? `${name} does not apply` : `${name} ${short(value)}${name in weights ? " \u00d7 " + short(weights[name]) : ""}`);
    return terms.join(" + ") + (c.s === null ? "" : ` = ${short(c.s)}`);
  }
  function card(c, weights, matches, filtered) {
    const kind = c.ok === undefined ? "" : c.ok ? "right" : "wrong";
    const node = el("article", { class: [kind, c.d ? "dropped" : "", filtered && matches ? "match" : ""].join(" ").trim() });
    node.append(el("header", {}, verdict(c),
      c.v === null ? null : el("span", {}, `advantage ${signed(c.v)}`),
      c.n === null ? null : el("span", {}, `${c.n} tokens`),
      c.f ? el("span", {}, `${c.f} reflection${c.f > 1 ? "s" : ""}`) : null,
      c.x ? el("span", {}, "cut off") : null,
      c.d ? el("span", {}, `not learned from: ${c.d}`) : null,
      filtered && matches ? el("span", {}, "matches") : null));
    const extras = Object.entries(c.e || {}).map(([k, v]) => `${k}: ${v}`).join(", ");
    node.append(body(c.t), el("footer", {}, paid(c, weights), extras ? ` (${extras})` : ""));
    return node;
  }

  // ---- controls ------------------------------------------------------------------------------------------------

  const labelled = (text, control) => el("label", {}, text, control);
  const choice = (items, onchange) => el("select", { onchange }, ...items.map(([value, text]) => el("option", { value }, text)));
  function fill(select, items, value) {
    select.replaceChildren(...items.map(([v, text]) => el("option", { value: v }, text)));
    select.value = String(value);
  }
  // single keys work only while the focus is inside, and not in a field that takes text
  function keys(area, actions) {
    area.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      const action = actions[event.key];
      if (action) { event.preventDefault(); action(); }
    });
  }

  // ---- what does it write? -------------------------------------------------------------------------------------

  const FILTERS = {
    all: () => true, right: (c) => c.ok === 1, wrong: (c) => c.ok === 0, dropped: (c) => !!c.d,
    reflecting: (c) => c.f > 0, truncated: (c) => !!c.x,
  };

  function browser(area, runs) {
    const state = { run: runs.length - 1, at: 0, filter: "all", search: "" };
    let found = [];
    const run = choice(runs.map((r, i) => [i, r.name]), () => { state.run = +run.value; list("last"); });
    const filter = choice(Object.keys(FILTERS).map((f) => [f, f]), () => { state.filter = filter.value; list(); });
    const search = el("input", { type: "search", oninput: () => { state.search = search.value.toLowerCase(); list(); } });
    const step = choice([], () => go(found.findIndex((f) => f.step === +step.value)));
    const problem = choice([], () => go(+problem.value));
    const back = el("button", { type: "button", onclick: () => go(state.at - 1) }, "Previous group");
    const next = el("button", { type: "button", onclick: () => go(state.at + 1) }, "Next group");
    const status = el("p", { class: "about", role: "status" });
    const view = el("div", { tabIndex: 0, role: "region", "aria-label": "A group of completions" });
    const matches = (group, c) => FILTERS[state.filter](c) &&
      (!state.search || `${c.t}\n${group.q}\n${group.a}\n${group.id}`.toLowerCase().includes(state.search));

    function list(where) {
      const before = found[state.at];
      found = runs[state.run].data.steps.flatMap(([s, groups]) =>
        groups.filter((g) => g.c.some((c) => matches(g, c))).map((group) => ({ step: s, group })));
      const same = before ? found.findIndex((f) => f.group === before.group) : -1;
      const last = found.length ? found[found.length - 1].step : 0;
      const best = [(f) => f.group.c.some((c) => c.k), (f) => f.group.c.some((c) => !c.d), () => true]
        .map((good) => found.findIndex((f) => f.step === last && good(f))).find((i) => i >= 0) ?? 0;
      go(where === "last" ? best : same < 0 ? found.findIndex((f) => !before || f.step >= before.step) : same);
    }
    function go(at) {
      state.at = Math.max(0, Math.min(found.length - 1, at));
      const data = runs[state.run].data, here = found[state.at];
      back.disabled = state.at === 0;
      next.disabled = state.at >= found.length - 1;
      const note = runs[state.run].note ? " " + runs[state.run].note : "";
      status.textContent = (found.length ? `Group ${state.at + 1} of ${found.length}${state.filter === "all" && !state.search ? "" : " that match"}.` : "No group matches.") + note;
      if (!here) { view.replaceChildren(); fill(step, [], ""); fill(problem, [], ""); return; }
      fill(step, [...new Set(found.map((f) => f.step))].map((s) => [s, s ? `step ${s}` : "before training"]), here.step);
      fill(problem, found.map((f, i) => [i, f]).filter(([, f]) => f.step === here.step).map(([i, f]) =>
        [i, `${f.group.id}${f.group.c.every((c) => c.d) ? " (dropped)" : ""}`]), state.at);
      const filtered = state.filter !== "all" || !!state.search, g = here.group;
      view.replaceChildren(
        el("h3", {}, `${runs[state.run].name}, step ${here.step}, ${g.id}: ${g.c.filter((c) => c.ok).length} of ${g.c.length} right`),
        el("p", { class: "question" }, g.q || "(the question was not written)"), el("p", {}, "Gold answer: ", el("b", {}, g.a)),
        el("div", { class: "group" }, ...g.c.map((c) => card(c, data.weights, matches(g, c), filtered))));
    }
    keys(area, { ArrowRight: () => go(state.at + 1), ArrowLeft: () => go(state.at - 1), n: () => go(state.at + 1), p: () => go(state.at - 1), "/": () => search.focus() });
    area.replaceChildren(
      el("form", { class: "controls", onsubmit: (e) => e.preventDefault() },
        runs.length > 1 ? labelled("Run", run) : null, labelled("Step", step), labelled("Problem", problem),
        labelled("Completions", filter), labelled("Search", search), back, next),
      status, view,
      el("p", { class: "about" }, "Keys, while the focus is in the group: ", el("kbd", {}, "\u2190"), " ", el("kbd", {}, "\u2192"), " previous and next group, ", el("kbd", {}, "/"), " search. Underlined: words that mark a reflection."));
    run.value = String(state.run);
    list("last");
    document.querySelectorAll("a[data-step]").forEach((link) => link.addEventListener("click", () => {
      const i = runs.findIndex((r) => r.name === link.dataset.run);
      if (i < 0) return;
      Object.assign(state, { run: i, filter: "all", search: "" });
      run.value = String(i); filter.value = "all"; search.value = "";
      list();
      const at = found.findIndex((f) => f.step >= +link.dataset.step);
      go(at < 0 ? found.length - 1 : at);
    }));
  }

  // ---- the same held-out problem before and after --------------------------------------------------------------

  function heldOut(area, data) {
    const state = { at: 0, kind: "greedy", filter: "all" };
    const kinds = [...new Set(data.problems.flatMap((p) => p.c.map((c) => c.kind)))];
    if (!kinds.includes(state.kind)) state.kind = kinds[0];
    const of = (p) => p.c.filter((c) => c.kind === state.kind).sort((a, b) => a.run - b.run);
    const pick = {
      all: () => true, "wrong, then right": (cs) => !cs[0].ok && cs[cs.length - 1].ok,
      "right, then wrong": (cs) => cs[0].ok && !cs[cs.length - 1].ok, "right throughout": (cs) => cs.every((c) => c.ok), "wrong throughout": (cs) => cs.every((c) => !c.ok),
    };
    let found = [];
    const filter = choice(Object.keys(pick).map((f) => [f, f]), () => { state.filter = filter.value; list(); });
    const kind = choice(kinds.map((k) => [k, k]), () => { state.kind = kind.value; list(); });
    const back = el("button", { type: "button", onclick: () => go(state.at - 1) }, "Previous problem");
    const next = el("button", { type: "button", onclick: () => go(state.at + 1) }, "Next problem");
    const status = el("p", { class: "about", role: "status" });
    const view = el("div", { tabIndex: 0, role: "region", "aria-label": "A held-out problem" });
    function list() { found = data.problems.filter((p) => of(p).length && pick[state.filter](of(p))); go(0); }
    function go(at) {
      state.at = Math.max(0, Math.min(found.length - 1, at));
      back.disabled = state.at === 0;
      next.disabled = state.at >= found.length - 1;
      status.textContent = found.length ? `Problem ${state.at + 1} of ${found.length}.` : "No problem is like that.";
      const p = found[state.at];
      view.replaceChildren(...(p ? [
        el("p", { class: "question" }, p.q), el("p", {}, "Gold answer: ", el("b", {}, p.a)),
        el("div", { class: "group" }, ...of(p).map((c) => el("article", { class: c.ok ? "right" : "wrong" }, el("header", {}, el("b", {}, data.runs[c.run]), verdict(c)), body(c.t)))),
      ] : []));
    }
    kind.value = state.kind;
    keys(area, { ArrowRight: () => go(state.at + 1), ArrowLeft: () => go(state.at - 1) });
    area.replaceChildren(el("h3", {}, "The same held-out problem, run by run"),
      el("form", { class: "controls", onsubmit: (e) => e.preventDefault() }, labelled("Completion", kind), labelled("Problems", filter), back, next), status, view);
    list();
  }

  // ---- which tokens? -------------------------------------------------------------------------------------------

  const SHADES = {
    change: ["change of log p in the step", (k, i) => k.after[i] - k.before[i]], kl: ["KL to the reference", (k, i) => k.kl[i]],
    entropy: ["entropy", (k, i) => k.entropy[i]], ratio: ["ratio \u2212 1", (k, i) => k.ratio[i] - 1], weight: ["weight \u2212 1", (k, i) => k.weight[i] - 1],
  };
  const seen = (text) => (text === "\n" ? "\u23ce\n" : text);
  const inline = (text) => text.replaceAll("\n", "\u23ce");
  const chance = (logp) => (logp < Math.log(0.001) ? "<0.001" : Math.exp(logp).toFixed(3));

  function pushed(area, runs) {
    const stepsOf = (r) => r.data.steps.filter(([, groups]) => groups.some((g) => g.c.some((c) => c.k)));
    runs = runs.filter((r) => stepsOf(r).length);
    if (!runs.length) return;
    const state = { run: runs.length - 1, step: -1, group: 0, shade: "change" };
    const run = choice(runs.map((r, i) => [i, r.name]), () => { state.run = +run.value; state.step = -1; show(); });
    const step = choice([], () => { state.step = +step.value; state.group = 0; show(); });
    const group = choice([], () => { state.group = +group.value; show(); });
    const shade = choice([], () => { state.shade = shade.value; show(); });
    const view = el("div");

    function tokens(c, values, most) {
      const box = el("div", { class: "text", tabIndex: 0, role: "group", "aria-label": "Tokens; left and right arrow keys read their values" });
      const read = el("p", { class: "read", "aria-live": "polite" });
      const spans = c.k.text.map((text, i) => {
        const x = values[i], share = most && Number.isFinite(x) ? Math.sqrt(Math.min(1, Math.abs(x) / most)) : 0;
        const span = el("span", { class: "token" + (c.k.clipped && c.k.clipped[i] ? " clipped" : "") + (share > 0.3 ? (x > 0 ? " up" : " down") : "") }, seen(text));
        if (share > 0.02) span.style.backgroundColor = `color-mix(in srgb, var(--${x > 0 ? "up" : "down"}) ${Math.round(share * 90)}%, transparent)`;
        return span;
      });
      let at = -1;
      const point = (i) => {
        if (at >= 0) spans[at].classList.remove("here");
        at = i;
        if (i < 0) { read.textContent = ""; return; }
        spans[i].classList.add("here");
        const k = c.k, facts = [`log p ${short(k.before[i])} \u2192 ${short(k.after[i])} (${signed(k.after[i] - k.before[i], 3)})`];
        for (const name of ["kl", "entropy", "ratio", "weight"]) if (k[name]) facts.push(`${name} ${short(k[name][i])}`);
        if (k.clipped && k.clipped[i]) facts.push("clipped");
        read.textContent = `\u201c${k.text[i]}\u201d: ${facts.join(", ")}`;
      };
      spans.forEach((span, i) => { span.onpointerenter = () => point(i); });
      box.addEventListener("pointerleave", () => { if (document.activeElement !== box) point(-1); });
      box.addEventListener("blur", () => point(-1));
      box.addEventListener("keydown", (event) => {
        const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (move) { event.preventDefault(); point(Math.max(0, Math.min(spans.length - 1, at + move))); }
      });
      box.append(...spans);
      return [box, read];
    }
    function moved(groups, sign) {
      const all = [];
      for (const g of groups) for (const c of g.c) if (c.k) c.k.text.forEach((_, i) => {
        const change = c.k.after[i] - c.k.before[i];
        if (sign * change > 0) all.push({ c, i, change });
      });
      all.sort((a, b) => sign * (b.change - a.change));
      const rows = new Map();
      for (const { c, i, change } of all) {
        const left = c.k.text.slice(Math.max(0, i - 12), i).join("").slice(-28), right = c.k.text.slice(i + 1, i + 13).join("").slice(0, 28);
        const key = [left, c.k.text[i], right].join("\u0000");
        if (!rows.has(key)) rows.set(key, { c, i, change, left, right, times: 0 });
        rows.get(key).times += 1;
      }
      return table(sign > 0 ? "Most raised tokens" : "Most lowered tokens",
        [["in context", ""], ["change of log p", "number"], ["p before", "number"], ["p after", "number"], ["times", "number"], ["the first of them in a completion", ""]],
        [...rows.values()].slice(0, 10).map(({ c, i, change, left, right, times }) => [
          el("span", {}, el("code", {}, inline(left)), el("b", {}, `[${inline(c.k.text[i])}]`), el("code", {}, inline(right))),
          signed(change, 3), chance(c.k.before[i]), chance(c.k.after[i]), String(times),
          `${c.ok === undefined ? "" : c.ok ? "right, " : "wrong, "}advantage ${signed(c.v)}`]));
    }
    function show() {
      const r = runs[state.run], steps = stepsOf(r), here = steps.find(([s]) => s === state.step) || steps[steps.length - 1];
      state.step = here[0];
      const groups = here[1].filter((g) => g.c.some((c) => c.k));
      state.group = Math.min(state.group, groups.length - 1);
      const g = groups[state.group], first = g.c.find((c) => c.k).k;
      const shades = Object.keys(SHADES).filter((name) => (name === "change" ? first.after : first[name]));
      if (!shades.includes(state.shade)) state.shade = shades[0];
      fill(step, steps.map(([s]) => [s, `step ${s}`]), state.step);
      fill(group, groups.map((x, i) => [i, x.id]), state.group);
      fill(shade, shades.map((name) => [name, SHADES[name][0]]), state.shade);
      const values = new Map(g.c.filter((c) => c.k).map((c) => [c, c.k.text.map((_, i) => SHADES[state.shade][1](c.k, i))]));
      const sizes = [...values.values()].flat().filter(Number.isFinite).map(Math.abs).sort((a, b) => a - b);
      const most = Math.max(1e-9, sizes[Math.ceil(0.98 * sizes.length) - 1] ?? 0); // one outlier leaves the others their shade
      view.replaceChildren(
        el("h3", {}, `${r.name}, step ${state.step}: the tokens of all its chosen groups that the update moved most`),
        el("h4", {}, "Most raised"), moved(groups, 1), el("h4", {}, "Most lowered"), moved(groups, -1),
        el("h3", {}, `Group ${g.id}, shaded by ${SHADES[state.shade][0]}`),
        el("p", { class: "question" }, g.q),
        el("p", { class: "about" }, `Full shade: ${short(most)} or more. A solid line below: raised, a dotted one: lowered. Struck: clipped.`),
        el("div", { class: "group" }, ...g.c.filter((c) => c.k).map((c) => {
          const kind = c.ok === undefined ? "" : c.ok ? "right" : "wrong";
          return el("article", { class: kind }, el("header", {}, verdict(c), el("span", {}, `advantage ${signed(c.v)}`)), ...tokens(c, values.get(c), most));
        })));
    }
    area.replaceChildren(
      el("form", { class: "controls", onsubmit: (e) => e.preventDefault() }, runs.length > 1 ? labelled("Run", run) : null,
        labelled("Step", step), labelled("Group", group), labelled("Shade by", shade)), view);
    run.value = String(state.run);
    show();
  }

  // ---- start ---------------------------------------------------------------------------------------------------

  async function start() {
    if (typeof DecompressionStream === "undefined") return; // the static groups stay
    const runs = [];
    for (const script of document.querySelectorAll("script.run")) runs.push({ name: script.dataset.name, note: script.dataset.note, data: await unpack(script) });
    const filled = runs.filter((r) => r.data.steps.length);
    if (filled.length) { browser(document.getElementById("browser"), filled); pushed(document.getElementById("pushed"), filled); }
    const held = document.querySelector("script.heldout");
    if (held) heldOut(document.getElementById("heldout"), await unpack(held));
    document.body.dataset.ready = "yes";
  }
  start();
})();
