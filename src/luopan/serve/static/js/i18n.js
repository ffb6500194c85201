// The page's words: one table per language in strings/, both with the same keys (a test holds them to it).

import { read, write } from "./storage.js";

export const LANGUAGES = ["en", "zh"];
let table = {};
let current = "en";

/** Load the language that was chosen before, or the browser's. */
export async function loadLanguage(wanted = read("language", null)) {
  const asked = wanted ?? (navigator.language || "en");
  current = asked.startsWith("zh") ? "zh" : "en";
  const response = await fetch(`static/strings/${current}.json`);
  if (!response.ok) throw new Error(`strings/${current}.json: ${response.status}`);
  table = await response.json();
  document.documentElement.lang = current;
}

/** Choose a language, and remember it. */
export async function chooseLanguage(language) {
  write("language", language);
  await loadLanguage(language);
}

export function language() {
  return current;
}

/** The words for a key; {name} is replaced. A key that is missing is an error of ours, and shows. */
export function t(key, values = {}) {
  const words = table[key];
  if (words === undefined) {
    console.error(`no words for ${key}`);
    return key;
  }
  return words.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** A number for reading: 12,345 or 3.14. */
export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return new Intl.NumberFormat(current === "zh" ? "zh-CN" : "en-GB", { maximumFractionDigits: digits }).format(value);
}

/** A number of any size in few characters: 1.2M, 0.0031, 4e-7. */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  for (const [power, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= power) return `${trim((value / (letter === "k" ? 1e3 : power)).toPrecision(3))}${letter}`;
  }
  if (size !== 0 && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("-", "−");
  return trim(value.toPrecision(4)).replace("-", "−");
}

function trim(text) {
  return text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text;
}

/** Seconds as 12 s, 3 min 4 s, 2 h 5 min. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 60) return t("time.seconds", { s: number(seconds, seconds < 10 ? 1 : 0) });
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return t("time.minutes", { m: minutes, s: Math.round(seconds % 60) });
  return t("time.hours", { h: Math.floor(minutes / 60), m: minutes % 60 });
}

/** How long ago: in words of the language. */
export function ago(unixSeconds) {
  const seconds = Date.now() / 1000 - unixSeconds;
  const words = new Intl.RelativeTimeFormat(current, { numeric: "auto", style: "short" });
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (seconds >= size) return words.format(-Math.floor(seconds / size), unit);
  }
  return t("time.now");
}
