// A line chart: SVG drawn at the width there is, with a cursor for pointer and arrow keys.

import { h, put, s } from "../dom.js";
import { number, short, t } from "../i18n.js";
import { extent, logTicks, scale, smoothed, ticks } from "./scales.js";

const HEIGHT = 210;
const PAD = { top: 10, right: 12, bottom: 26 };
const SMOOTH_FROM = 60;

export class Chart {
  constructor(group, options) {
    this.options = options;
    this.plot = h("div", { class: "plot", tabindex: 0, role: "img" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.legend = h("div", { class: "legend-row tiny" });
    this.title = h("h3", {}, group.title);
    this.latest = h("span", { class: "latest mono small" });
    this.hidden = new Set();
    this.node = h("figure", { class: `chart card ${group.main ? "main" : ""}` }, h("figcaption", {}, this.title, this.latest), this.legend, h("div", { class: "plot-box" }, this.plot, this.tip));
    this.at = null;
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.cursor(null));
    this.plot.addEventListener("blur", () => this.cursor(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.plot);
    this.update(group, options);
  }

  update(group, options = this.options) {
    this.group = group;
    this.options = options;
    this.xs = [...new Set(group.lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
    this.draw();
  }

  close() {
    this.observer.disconnect();
  }

  drawn() {
    const { log } = this.options;
    return this.group.lines.map((line, i) => ({
      ...line, colour: (i % 8) + 1, points: line.points.map(([x, y]) => [x, y !== null && (!log || y > 0) ? y : null]),
    })).filter((line) => !this.hidden.has(line.name));
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width || !this.group) return;
    const { log } = this.options;
    const lines = this.drawn();
    const [low, high] = extent(lines.flatMap((line) => line.points.map(([, y]) => y)), { log, fromZero: this.group.zero && !log });
    const [first, last] = [this.xs[0] ?? 0, this.xs.at(-1) ?? 1];
    const marks = log ? logTicks(low, high) : ticks(low, high, 4);
    const labels = marks.map((mark) => this.label(mark, marks));
    const left = Math.max(...labels.map((label) => label.length)) * 6.6 + 14;
    this.x = scale(first, last === first ? first + 1 : last, left, width - PAD.right);
    this.y = scale(low, high, HEIGHT - PAD.bottom, PAD.top, log);
    const smooth = this.options.smooth && !this.group.plain;
    const grid = marks.map((mark, i) => [
      s("line", { class: "grid", x1: left, x2: width - PAD.right, y1: this.y(mark), y2: this.y(mark) }),
      s("text", { class: "tick", x: left - 7, y: this.y(mark) + 3.5, "text-anchor": "end" }, labels[i]),
    ]);
    const steps = ticks(first, last, Math.max(2, Math.floor(width / 75)), [1, 2, 2.5, 5, 10]).filter((tick) => tick >= first && tick <= last);
    const below = steps.map((step) => s("text", { class: "tick", x: this.x(step), y: HEIGHT - 8, "text-anchor": this.x(step) > width - 40 ? "end" : "middle" }, short(step)));
    const curves = lines.flatMap((line) => this.curve(line, smooth));
    this.overlay = s("g", {});
    const svg = s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, "aria-hidden": "true" }, grid, below, curves, this.overlay);
    put(this.plot, svg);
    this.plot.setAttribute("aria-label", this.words(lines, first, last));
    this.drawLegend();
    if (this.at !== null) this.cursor(this.at);
  }

  curve(line, smooth) {
    const isSmooth = smooth && line.points.length >= SMOOTH_FROM;
    const raw = s("path", { class: `line c${line.colour} ${isSmooth ? "raw" : ""}`, d: this.path(line.points) });
    const known = line.points.filter(([, y]) => y !== null);
    const dots = known.length < 25 ? known.map(([x, y]) => s("circle", { class: `dot c${line.colour}`, cx: this.x(x), cy: this.y(y), r: 2.4 })) : [];
    return isSmooth ? [raw, s("path", { class: `line c${line.colour}`, d: this.path(smoothed(line.points)) })] : [raw, ...dots];
  }

  path(points) {
    let pen = "M";
    const parts = [];
    for (const [x, y] of points) {
      if (y === null) pen = "M";
      else {
        parts.push(`${pen}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`);
        pen = "L";
      }
    }
    return parts.join("");
  }

  label(value, marks) {
    const step = marks.length > 1 ? Math.abs(marks[1] - marks[0]) : Math.abs(value) || 1;
    const largest = Math.max(...marks.map(Math.abs));
    if (largest >= 1e4 || (largest !== 0 && largest < 1e-2) || this.options.log) return short(value);
    return value.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)))).replace("-", "−");
  }

  words(lines, first, last) {
    const said = lines.map((line) => {
      const known = line.points.filter(([, y]) => y !== null);
      return known.length ? t("chart.words", { name: line.name, from: short(known[0][1]), to: short(known.at(-1)[1]) }) : line.name;
    });
    return `${this.group.title}: ${said.join("; ")}. ${t("chart.steps", { from: number(first), to: number(last) })}`;
  }

  drawLegend() {
    const { lines } = this.group;
    const newest = lines[0].points.findLast(([, y]) => y !== null);
    put(this.latest, lines.length === 1 && newest ? short(newest[1]) : "");
    if (lines.length < 2) return put(this.legend);
    const focused = this.legend.contains(document.activeElement) ? document.activeElement.dataset.line : null;
    put(this.legend, lines.map((line, i) => h("button", { type: "button", class: "key", dataset: { line: line.name }, "aria-pressed": !this.hidden.has(line.name), onclick: () => this.toggle(line.name) }, h("i", { class: `swatch c${(i % 8) + 1}` }), line.name)));
    if (focused !== null) [...this.legend.children].find((key) => key.dataset.line === focused)?.focus();
    return null;
  }

  toggle(name) {
    if (this.hidden.has(name)) this.hidden.delete(name);
    else if (this.hidden.size + 1 < this.group.lines.length) this.hidden.add(name);
    this.draw();
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const wanted = event.clientX - box.left;
    let best = null;
    for (const x of this.xs) if (best === null || Math.abs(this.x(x) - wanted) < Math.abs(this.x(best) - wanted)) best = x;
    this.cursor(best);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!step || !this.xs.length) return;
    event.preventDefault();
    const at = this.at === null ? (step > 0 ? -1 : this.xs.length) : this.xs.indexOf(this.at);
    this.cursor(this.xs[Math.max(0, Math.min(this.xs.length - 1, at + step))]);
  }

  cursor(x) {
    this.at = x;
    this.tip.hidden = x === null || x === undefined;
    if (this.tip.hidden || !this.overlay) return put(this.overlay ?? h("g"));
    const here = this.drawn().map((line) => ({ ...line, y: line.points.find(([at]) => at === x)?.[1] ?? null })).filter((line) => line.y !== null);
    const px = this.x(x);
    put(this.overlay, s("line", { class: "cursor", x1: px, x2: px, y1: PAD.top, y2: HEIGHT - PAD.bottom }), here.map((line) => s("circle", { class: `dot at c${line.colour}`, cx: px, cy: this.y(line.y), r: 4 })));
    put(this.tip, h("p", { class: "faint" }, t("chart.step", { n: number(x) })), here.map((line) => h("p", {}, h("i", { class: `swatch c${line.colour}` }), h("span", {}, line.name), h("strong", {}, short(line.y)))));
    const right = px > this.plot.clientWidth / 2;
    this.tip.style.left = right ? "auto" : `${px + 12}px`;
    this.tip.style.right = right ? `${this.plot.clientWidth - px + 12}px` : "auto";
    return null;
  }
}
