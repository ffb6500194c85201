// A safe subset of Markdown, read into DOM nodes: headings, paragraphs, lists, quotes, tables, rules, fenced code;
// inside lines code, strong, emphasis, struck out, links. No HTML: what looks like a tag is text. No pictures: nothing is
// loaded. Links lead only to http, https and mailto. Time is linear in the text (but for nesting, which is bounded).

import { h } from "./dom.js";
import { copyButton } from "./dialogs.js";
import { t } from "./i18n.js";

const MAX_DEPTH = 6;
const ITEM = /^(\s{0,12})([-*+]|\d{1,9}[.)])(\s+|$)(.*)$/;
const FENCE = /^(\s{0,12})(`{3,}|~{3,})\s*([^`]*)$/;
const RULE = /^\s{0,3}([-*_])(?:\s*\1){2,}\s*$/;
const HEADING = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;

/** The text as nodes in a div. */
export function markdown(text) {
  return h("div", { class: "md" }, blocks(text.replaceAll("\r", "").replaceAll("\t", "    ").split("\n"), 0));
}

function blocks(lines, depth) {
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) {
      at += 1;
      continue;
    }
    const [node, next] = depth < MAX_DEPTH ? block(lines, at, depth) : [h("p", {}, inline(line)), at + 1];
    nodes.push(node);
    at = next;
  }
  return nodes;
}

function block(lines, at, depth) {
  const line = lines[at];
  let match;
  if ((match = FENCE.exec(line))) return fence(lines, at, match);
  if ((match = HEADING.exec(line))) return [h(`h${Math.min(6, match[1].length + 2)}`, {}, inline(match[2])), at + 1];
  if (RULE.test(line)) return [h("hr"), at + 1];
  if (/^\s{0,3}>/.test(line)) return quote(lines, at, depth);
  if (ITEM.test(line)) return list(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines, end)) end += 1;
  const parts = [];
  for (let i = at; i < end; i += 1) {
    if (i > at) parts.push(h("br"));
    parts.push(...inline(lines[i].trim()));
  }
  return [h("p", {}, parts), end];
}

function begins(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || /^\s{0,3}>/.test(line) || ITEM.test(line) || isTable(lines, at);
}

function fence(lines, at, match) {
  const [, indent, marks, info] = match;
  const close = new RegExp(`^\\s{0,12}\\${marks[0]}{${marks.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !close.test(lines[end])) end += 1;
  const strip = new RegExp(`^ {0,${indent.length}}`);
  const text = lines.slice(at + 1, end).map((line) => line.replace(strip, "")).join("\n");
  const name = info.trim().split(/\s+/)[0].slice(0, 40);
  const head = h("div", { class: "code-head" }, h("span", {}, name || t("chat.code")), copyButton(() => text));
  return [h("div", { class: "code-block" }, head, h("pre", { tabindex: 0 }, h("code", {}, text))), Math.min(end + 1, lines.length)];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && /^\s{0,3}>/.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(/^\s{0,3}> ?/, ""));
  return [h("blockquote", {}, blocks(inner, depth + 1)), end];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const base = first[1].length;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (match && match[1].length <= base + 1 && match[1].length >= base && /\d/.test(match[2]) === ordered && !RULE.test(lines[end])) {
      items.push({ indent: match[1].length + match[2].length + 1, lines: [match[4]] });
    } else if (!lines[end].trim()) {
      const next = lines[end + 1] ?? "";
      if (!next.trim() || (!/^\s{2,}/.test(next) && !ITEM.test(next))) break;
      items.at(-1).lines.push("");
    } else if (/^\s*/.exec(lines[end])[0].length > base) {
      const item = items.at(-1);
      item.lines.push(lines[end].replace(new RegExp(`^ {0,${item.indent}}`), ""));
    } else if (!match && !begins(lines, end)) {
      items.at(-1).lines.push(lines[end]); // a lazy continuation
    } else break;
    end += 1;
  }
  const start = ordered ? Number.parseInt(first[2], 10) : 1;
  const nodes = items.map((item) => h("li", {}, tight(blocks(item.lines, depth + 1))));
  return [h(ordered ? "ol" : "ul", ordered && start !== 1 ? { start } : {}, nodes), end];
}

/** A paragraph alone at the beginning of an item needs no paragraph around it. */
function tight(nodes) {
  if (nodes[0]?.tagName !== "P") return nodes;
  return [...nodes[0].childNodes, ...nodes.slice(1)];
}

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].length < 2000 && /^[\s|:-]+$/.test(lines[at + 1]) && lines[at + 1].includes("-") && lines[at + 1].includes("|");
}

function table(lines, at) {
  const sides = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "middle" : "num") : null));
  const row = (line, tag) => h("tr", {}, cells(line).map((cell, i) => h(tag, { class: sides[i] ?? null }, inline(cell))));
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end += 1;
  const body = lines.slice(at + 2, end).map((line) => row(line, "td"));
  return [h("div", { class: "scroll", tabindex: 0 }, h("table", { class: "plain" }, h("thead", {}, row(lines[at], "th")), h("tbody", {}, body))), end];
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

/** The nodes of one line. */
export function inline(text, depth = 0) {
  const nodes = [];
  const missing = new Set(); // marks that are known not to close any more: keeps time linear
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
  };
  while (at < text.length) {
    const found = depth < MAX_DEPTH && /[\\`*_~[<h]/.test(text[at]) ? span(text, at, depth, missing) : null;
    if (found) {
      if (typeof found[0] === "string") plain += found[0];
      else {
        flush();
        nodes.push(found[0]);
      }
      at = found[1];
    } else {
      plain += text[at];
      at += 1;
    }
  }
  flush();
  return nodes;
}

function span(text, at, depth, missing) {
  const c = text[at];
  if (c === "\\" && /[\\`*_~[\]()#|<>+.!-]/.test(text[at + 1] ?? "")) return [text[at + 1], at + 2];
  if (c === "`") return codeSpan(text, at, missing);
  if (c === "[") return link(text, at, depth, missing);
  if (c === "<" || c === "h") return bareLink(text, at);
  for (const [mark, tag] of MARKS) {
    if (!text.startsWith(mark, at) || missing.has(mark)) continue;
    const after = text[at + mark.length] ?? " ";
    const inWord = mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[at - 1] ?? " ");
    if (/\s/.test(after) || inWord) continue;
    const end = closing(text, at + mark.length, mark);
    if (end < 0) {
      missing.add(mark);
      continue;
    }
    return [h(tag, {}, inline(text.slice(at + mark.length, end), depth + 1)), end + mark.length];
  }
  return null;
}

function closing(text, from, mark) {
  for (let end = text.indexOf(mark, from); end >= 0; end = text.indexOf(mark, end + 1)) {
    if (/\s/.test(text[end - 1]) || end === from) continue;
    if (mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark)) continue;
    if (mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[end + mark.length] ?? " ")) continue;
    return end;
  }
  return -1;
}

function codeSpan(text, at, missing) {
  const marks = /^`+/.exec(text.slice(at, at + 20))[0];
  if (missing.has(marks)) return [marks, at + marks.length];
  let end = text.indexOf(marks, at + marks.length);
  while (end >= 0 && text[end + marks.length] === "`") {
    while (text[end] === "`") end += 1;
    end = text.indexOf(marks, end);
  }
  if (end < 0) {
    missing.add(marks);
    return [marks, at + marks.length];
  }
  return [h("code", {}, text.slice(at + marks.length, end).replace(/^ (.*) $/, "$1")), end + marks.length];
}

function link(text, at, depth, missing) {
  if (missing.has("](")) return null;
  const middle = text.indexOf("](", at);
  if (middle < 0) {
    missing.add("](");
    return null;
  }
  const end = text.indexOf(")", middle);
  if (end < 0 || text.slice(at + 1, middle).includes("[")) return null;
  const target = text.slice(middle + 2, end).trim().split(/\s/)[0];
  const url = soundUrl(target);
  if (!url) return null;
  return [anchor(url, inline(text.slice(at + 1, middle), depth + 1)), end + 1];
}

function bareLink(text, at) {
  const match = /^<?(https?:\/\/[^\s<>"'`，。；）】」]+)>?/.exec(text.slice(at, at + 2000));
  if (!match || (at > 0 && text[at] === "h" && /[\w/]/.test(text[at - 1]))) return null;
  const address = match[0].startsWith("<") ? match[1] : match[1].replace(/[.,;:!?)\]*_~]+$/, "");
  const url = soundUrl(address);
  if (!url) return null;
  return [anchor(url, [address]), at + (match[0].startsWith("<") ? match[0].length : address.length)];
}

function soundUrl(target) {
  try {
    const url = new URL(target);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function anchor(href, children) {
  return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}
