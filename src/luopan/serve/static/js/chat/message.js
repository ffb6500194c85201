// One message as it is shown: what was said, thinking folded, tool calls, figures, and what can be done with it.

import { h } from "../dom.js";
import { icon } from "../icons.js";
import { number, short, t } from "../i18n.js";
import { copyButton } from "../dialogs.js";
import { markdown } from "../markdown.js";

/**
 * `act`: {edit(message), again(message), variant(message, step), result(message, call, text), fold(message, open)}.
 * `last`: whether it is the newest, which alone can be made again.
 */
export function messageNode(message, { act, last, busy, folds }) {
  const node = h("article", { class: `message ${message.role}`, dataset: { id: message.id }, "aria-label": t(`role.${message.role}`) });
  const body = h("div", { class: "said" });
  if (message.role === "user") body.append(h("div", { class: "bubble" }, message.content));
  else if (message.role === "tool") body.append(toolResult(message));
  else body.append(...answerParts(message, folds, act));
  node.append(body);
  if (!message.pending) node.append(actions(message, act, last, busy));
  return node;
}

function answerParts(message, folds, act) {
  const parts = [];
  if (message.thinking) parts.push(thinking(message, folds, act));
  if (message.content) parts.push(markdown(message.content));
  for (const call of message.tool_calls ?? []) parts.push(toolCall(message, call, act));
  if (message.pending && !message.content && !message.thinking && !message.tool_calls) {
    parts.push(h("div", { class: "breathing", role: "status" }, h("i"), h("i"), h("i"), h("span", { class: "sr" }, t("chat.waiting"))));
  }
  if (message.error) parts.push(h("p", { class: "notice bad", role: "alert" }, icon("warning"), h("span", {}, message.error)));
  if (message.finish === "length") parts.push(h("p", { class: "notice warn" }, icon("info"), h("span", {}, t("chat.cut"))));
  if (message.finish === "stopped") parts.push(h("p", { class: "faint small" }, t("chat.stopped")));
  const empty = !message.pending && !message.content && !message.error && !message.tool_calls && message.finish !== "stopped";
  if (empty) parts.push(h("p", { class: "faint small" }, t("chat.nothing")));
  return parts;
}

function thinking(message, folds, act) {
  const active = message.pending && !message.content;
  const seconds = message.thought_seconds;
  const words = active ? t("chat.thinking") : seconds ? t("chat.thought_for", { s: number(seconds, 1) }) : t("chat.thought");
  const fold = h("details", { class: "thinking", open: folds.has(message.id) },
    h("summary", {}, active ? h("span", { class: "spinner" }) : icon("thought"), h("span", {}, words)),
    h("div", { class: "thoughts" }, message.thinking.trim()));
  fold.addEventListener("toggle", () => act.fold(message, fold.open));
  return fold;
}

function toolCall(message, call, act) {
  const box = h("div", { class: "tool-call" },
    h("div", { class: "tool-head" }, icon("tool"), h("code", {}, call.function.name || "…"), copyButton(() => call.function.arguments)),
    h("pre", { tabindex: 0 }, h("code", {}, pretty(call.function.arguments))));
  if (message.pending || !act.wants(message, call)) return box;
  const field = h("textarea", { class: "area code", rows: 2, "aria-label": t("chat.tool_result"), placeholder: t("chat.tool_result") });
  const form = h("form", { class: "tool-form", onsubmit: (event) => { event.preventDefault(); act.result(message, call, field.value); } },
    field, h("button", { class: "button small", type: "submit" }, t("chat.tool_send")));
  box.append(form);
  return box;
}

function toolResult(message) {
  return h("div", { class: "tool-call result" },
    h("div", { class: "tool-head" }, icon("tool"), h("span", {}, t("role.tool"))),
    h("pre", { tabindex: 0 }, h("code", {}, pretty(message.content))));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function actions(message, act, last, busy) {
  const bar = h("div", { class: "actions" });
  const button = (name, label, onclick) => h("button", { class: "icon-button small", type: "button", "aria-label": label, title: label, onclick, disabled: busy }, icon(name));
  if (message.variants?.length > 1) {
    const at = message.chosen + 1;
    bar.append(
      button("left", t("chat.variant_before"), () => act.variant(message, -1)),
      h("span", { class: "tiny faint" }, `${at} / ${message.variants.length}`),
      button("right", t("chat.variant_after"), () => act.variant(message, 1)),
    );
  }
  if (message.role !== "tool") bar.append(copyButton(() => message.content));
  if (message.role === "user") bar.append(button("edit", t("chat.edit"), () => act.edit(message)));
  if (message.role === "assistant" && last) bar.append(button("again", t("chat.again"), () => act.again(message)));
  if (message.role === "assistant") bar.append(h("span", { class: "figures tiny faint" }, figures(message)));
  return bar;
}

/** "smollm2 · 34 tokens · 51.2 tokens/s · first after 0.21 s" */
export function figures(message) {
  const { stats } = message;
  const parts = [message.model];
  if (stats?.prompt !== null && stats?.prompt !== undefined) parts.push(t("chat.prompt_tokens", { n: number(stats.prompt) }));
  if (stats?.tokens) parts.push(t("chat.tokens", { n: number(stats.tokens) }));
  if (stats?.rate) parts.push(t("chat.rate", { n: number(stats.rate, stats.rate < 100 ? 1 : 0) }));
  if (stats?.first) parts.push(t("chat.first", { n: short(Number(stats.first.toPrecision(2))) }));
  return parts.filter(Boolean).join(" · ");
}
