// Conversations, kept in the browser: an index and one entry for each.

import { forget, names, read, write } from "../storage.js";

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");

/** {id, title, updated} of every conversation, newest first. Entries without an index (another tab's) are found again. */
export function list() {
  return names("chat.")
    .map((name) => read(name, {}))
    .filter((chat) => chat.id && Array.isArray(chat.messages))
    .map(({ id, title, updated }) => ({ id, title, updated }))
    .sort((a, b) => b.updated - a.updated);
}

/** A new conversation, with the settings of the one before; it is kept once something was said. */
export function create(before = null) {
  const { model = "", system = "", params = {}, tools = "" } = before ?? read("chat-settings", {});
  return { id: newId(), title: "", updated: Date.now(), model, system, params: { ...params }, tools, messages: [] };
}

export function load(id) {
  const chat = read(`chat.${id}`, {});
  if (chat.id !== id || !Array.isArray(chat.messages)) return null;
  for (const message of chat.messages) {
    if (!message.pending) continue;
    delete message.pending; // the page was closed in the middle of an answer
    message.finish = "stopped";
  }
  return chat;
}

/** Keep a conversation; false where the browser has no room. */
export function save(chat) {
  const { model, system, params, tools } = chat;
  write("chat-settings", { model, system, params, tools });
  if (!chat.messages.length) return true;
  chat.updated = Date.now();
  const first = chat.messages.find((message) => message.role === "user");
  if (!chat.renamed) chat.title = (first?.content ?? "").trim().replace(/\s+/g, " ").slice(0, 80);
  return write(`chat.${chat.id}`, chat);
}

export function remove(id) {
  forget(`chat.${id}`);
}

export function message(role, content, rest = {}) {
  return { id: newId(), role, content, ...rest };
}
