// Tokens as they are: each in its own box, trained ones marked, with number and id for the one that is looked at.

import { h, put } from "../dom.js";
import { number, t } from "../i18n.js";

/** The rendered conversation. `result` is what /api/templates/render answers. */
export function tokensNode(result) {
  const trained = result.tokens.filter((token) => token.trained).length;
  const info = h("p", { class: "token-info mono small", role: "status" }, t("tokens.hint"));
  const flow = h("div", { class: "tokens", tabindex: 0, role: "group", "aria-label": t("tokens.label") }, result.tokens.flatMap(token));
  const boxes = [...flow.querySelectorAll(".tok")];
  let at = -1;
  const show = (index) => {
    boxes[at]?.classList.remove("at");
    at = index;
    boxes[at]?.classList.add("at");
    if (boxes[at]) put(info, describe(result.tokens[at], at, result.masked));
  };
  flow.addEventListener("pointerover", (event) => {
    const box = event.target.closest(".tok");
    if (box) show(boxes.indexOf(box));
  });
  flow.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    if (!step || !boxes.length) return;
    event.preventDefault();
    show(Math.max(0, Math.min(boxes.length - 1, at + step)));
    boxes[at].scrollIntoView({ block: "nearest" });
  });
  const counts = [t("tokens.count", { n: number(result.tokens.length) })];
  if (result.masked) counts.push(t("tokens.trained", { n: number(trained), share: number((100 * trained) / Math.max(1, result.tokens.length)) }));
  return h("div", { class: "rendered" },
    h("div", { class: "spread legend" }, h("span", { class: "small" }, h("strong", {}, counts[0]), counts[1] && ` · ${counts[1]}`),
      h("span", { class: "row small" }, result.masked && h("span", { class: "tok trained" }, t("tokens.is_trained")), result.masked && h("span", { class: "tok" }, t("tokens.is_not")), h("span", { class: "tok special" }, t("tokens.special")))),
    flow, info);
}

function token(one) {
  const names = ["tok"];
  if (one.trained) names.push("trained");
  if (one.special) names.push("special");
  if (!one.text) names.push("part");
  const title = t("tokens.title", { id: one.id, text: JSON.stringify(one.text) });
  const parts = one.text === "" ? ["·"] : one.text.split(/(\n)/).flatMap((piece) => (piece === "\n" ? [h("span", { class: "nl", "aria-hidden": "true" }, "↵"), "\n"] : piece));
  return h("span", { class: names.join(" "), title }, parts);
}

function describe(one, at, masked) {
  const parts = [`#${at}`, `id ${one.id}`, one.text ? JSON.stringify(one.text) : t("tokens.part")];
  if (one.special) parts.push(t("tokens.special"));
  if (masked) parts.push(t(one.trained ? "tokens.is_trained" : "tokens.is_not"));
  return parts.join("  ·  ");
}
