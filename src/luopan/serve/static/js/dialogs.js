// Dialogs, toasts, menus: what lies over the page.

import { h, put } from "./dom.js";
import { icon } from "./icons.js";
import { t } from "./i18n.js";

/** A modal dialog. `build(close)` gives its content. Resolves with what `close` is called with; null when dismissed. */
export function dialog(title, build, { kind = "" } = {}) {
  return new Promise((resolve) => {
    let result = null;
    const close = (value = null) => {
      result = value;
      node.close();
    };
    const head = h("header", {}, h("h2", {}, title), h("button", { class: "icon-button", type: "button", "aria-label": t("action.close"), onclick: () => close() }, icon("close")));
    const node = h("dialog", { class: `dialog ${kind}`, "aria-label": title }, head);
    node.append(build(close));
    node.addEventListener("click", (event) => event.target === node && close());
    node.addEventListener("close", () => {
      node.remove();
      resolve(result);
    });
    document.getElementById("layer").append(node);
    node.showModal();
    node.querySelector("[autofocus]")?.focus();
  });
}

/** A question with two answers; true for the first. */
export async function confirm(title, text, yes) {
  const answer = await dialog(title, (close) =>
    h(
      "form",
      { method: "dialog", onsubmit: (event) => { event.preventDefault(); close(true); } },
      h("div", { class: "body muted" }, text),
      h("footer", {},
        h("button", { class: "button", type: "button", onclick: () => close(null) }, t("action.cancel")),
        h("button", { class: "button primary", type: "submit", autofocus: true }, yes)),
    ),
  );
  return answer === true;
}

let asking = null;

/** Ask for the API key; several requests at once share one question. Null where the user gives none. */
export function askForKey(problem = "") {
  asking ??= dialog(t("key.title"), (close) => keyForm(problem, close)).finally(() => { asking = null; });
  return asking;
}

function keyForm(problem, close) {
  const field = h("input", { class: "input", type: "password", autocomplete: "off", name: "key", autofocus: true, "aria-label": t("key.title"), required: true });
  const submit = (event) => {
    event.preventDefault();
    close(field.value.trim() || null);
  };
  return h(
    "form",
    { onsubmit: submit },
    h("div", { class: "body stack" }, h("p", { class: "muted" }, t("key.text")), problem && h("p", { class: "notice bad" }, problem), field),
    h("footer", {}, h("button", { class: "button primary", type: "submit" }, t("key.use"))),
  );
}

/** A short message below; `action` is [words, what to do]. */
export function toast(text, { kind = "", action = null, seconds = 5 } = {}) {
  const node = h("div", { class: `toast ${kind}` }, h("span", {}, text));
  const remove = () => node.remove();
  if (action) node.append(h("button", { type: "button", onclick: () => { remove(); action[1](); } }, action[0]));
  document.getElementById("toasts").append(node);
  setTimeout(remove, seconds * 1000);
  return remove;
}

/** A button that copies what `text()` gives, and says so. */
export function copyButton(text, label = t("action.copy"), cls = "icon-button small") {
  const button = h("button", { class: cls, type: "button", "aria-label": label, title: label }, icon("copy"));
  button.addEventListener("click", async () => {
    const done = await copy(text());
    put(button, icon(done ? "check" : "warning"));
    setTimeout(() => put(button, icon("copy")), 1400);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "sr", value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
