// The list of conversations, with search.

import { h, put, roving } from "../dom.js";
import { icon } from "../icons.js";
import { ago, t } from "../i18n.js";
import * as store from "./store.js";

/** `act`: {open(id), fresh(), remove(id)}. Returns {node, draw(currentId)}. */
export function sidebar(act) {
  const search = h("input", { class: "input", type: "search", placeholder: t("chat.search"), "aria-label": t("chat.search"), oninput: () => draw() });
  const items = roving(h("ul", { class: "chats", "aria-label": t("chat.conversations") }), ".chat-link", { vertical: true });
  let current = "";
  const draw = (id = current) => {
    current = id;
    const wanted = search.value.trim().toLowerCase();
    const shown = store.list().filter((chat) => !wanted || chat.title.toLowerCase().includes(wanted));
    const reachable = shown.some((chat) => chat.id === id) ? id : shown[0]?.id;
    put(items, shown.map((chat) => entry(chat, id, reachable, act)));
    if (!shown.length) put(items, h("li", { class: "faint small none" }, t(wanted ? "chat.none_found" : "chat.none_yet")));
  };
  const fresh = h("button", { class: "button primary", type: "button", id: "new-chat", title: `${t("chat.new")} (n)`, onclick: act.fresh }, icon("plus"), t("chat.new"));
  const node = h("aside", { class: "side", id: "chats", "aria-label": t("chat.conversations") }, fresh, search, items);
  return { node, draw };
}

function entry(chat, current, reachable, act) {
  const link = h("button", {
    class: "chat-link", type: "button", tabindex: chat.id === reachable ? 0 : -1, "aria-current": chat.id === current ? "true" : null, onclick: () => act.open(chat.id),
  }, h("span", { class: "title" }, chat.title || t("chat.untitled")), h("span", { class: "when tiny faint" }, ago(chat.updated / 1000)));
  const label = t("chat.remove", { title: chat.title });
  link.addEventListener("keydown", (event) => event.key === "Delete" && act.remove(chat.id));
  return h("li", {}, link, h("button", { class: "icon-button small", type: "button", tabindex: -1, "aria-label": label, title: label, onclick: () => act.remove(chat.id) }, icon("trash")));
}
