// A conversation as a file: JSON with everything, or Markdown for reading.

import { t } from "../i18n.js";
import { wireMessages } from "./answer.js";

/** JSON: `messages` as the API and Luopan's training data take them, and beside them what was set and measured. */
export function asJson(chat) {
  const { title, model, params } = chat;
  const messages = wireMessages(chat.system, chat.messages);
  const answers = chat.messages.filter((m) => m.role === "assistant").map(({ model: by, thinking, finish, stats }) => ({ model: by, thinking, finish_reason: finish, stats }));
  return `${JSON.stringify({ title, model, exported: new Date().toISOString(), parameters: params, messages, answers }, null, 2)}\n`;
}

export function asMarkdown(chat) {
  const parts = [`# ${chat.title || t("chat.untitled")}`, `${t("chat.model")}: ${chat.model}`];
  if (chat.system.trim()) parts.push(`## ${t("role.system")}`, chat.system);
  for (const message of chat.messages) {
    parts.push(`## ${t(`role.${message.role}`)}${message.model ? ` (${message.model})` : ""}`);
    if (message.thinking) parts.push(message.thinking.trim().split("\n").map((line) => `> ${line}`).join("\n"));
    if (message.content) parts.push(message.content);
    for (const call of message.tool_calls ?? []) parts.push(fenced(`${call.function.name} ${call.function.arguments}`));
    if (message.error) parts.push(`*${message.error}*`);
  }
  return `${parts.join("\n\n")}\n`;
}

function fenced(text) {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const marks = "`".repeat(longest + 1);
  return `${marks}\n${text}\n${marks}`;
}

/** A file name out of a title. */
export function fileName(chat, ending) {
  const base = (chat.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 50);
  return `${base || "conversation"}.${ending}`;
}
