// Where one writes: grows with the text, sends with Enter, stops an answer.

import { h, put } from "../dom.js";
import { icon } from "../icons.js";
import { t } from "../i18n.js";

/** `act`: {send(text), stop()}. Returns {node, field, draw(busy)}. */
export function composer(act) {
  const field = h("textarea", { rows: 1, id: "prompt", "aria-label": t("chat.prompt"), placeholder: t("chat.prompt") });
  const button = h("button", { class: "send", type: "submit" });
  let busy = false;
  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, window.innerHeight * 0.4)}px`;
    button.disabled = !busy && !field.value.trim();
  };
  const submit = () => {
    if (busy) return act.stop();
    const text = field.value.trim();
    if (!text || act.send(text) === false) return null;
    field.value = "";
    return fit();
  };
  field.addEventListener("input", fit);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !busy) {
      event.preventDefault();
      submit();
    }
  });
  const draw = (isBusy) => {
    busy = isBusy;
    const label = busy ? t("chat.stop") : t("chat.send");
    put(button, icon(busy ? "stop" : "send"));
    button.setAttribute("aria-label", label);
    button.title = label;
    button.classList.toggle("busy", busy);
    fit();
  };
  const node = h("form", { class: "composer", onsubmit: (event) => { event.preventDefault(); submit(); } },
    h("div", { class: "box" }, field, button), h("p", { class: "tiny faint hint" }, t("chat.hint")));
  draw(false);
  return { node, field, draw };
}
