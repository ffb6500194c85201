// Icons, drawn for this page: paths in a 24 × 24 box, stroked in the colour of the text around them.

import { s } from "./dom.js";

const PATHS = {
  chat: "M4 5h16v11H9l-5 4z",
  compare: "M12 4v16M5 7h4v10H5zM15 7h4v10h-4z",
  templates: "M8 5L3 12l5 7M16 5l5 7-5 7M13.5 4l-3 16",
  runs: "M4 4v16h16M7 15l4-5 3 3 5-7",
  send: "M12 19V6M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  menu: "M4 7h16M4 12h16M4 17h16",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.5l4.5 4.5L19 7.5",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  again: "M20 12a8 8 0 1 1-2.5-5.8M20 4v5h-5",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M6 9l6 6 6-6",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
  system: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  help: "M9 9.2a3 3 0 1 1 4.3 2.7c-.9.5-1.3 1-1.3 2.1M12 17.5v.1M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  key: "M14.5 4a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM10.5 13.5L4 20M6.5 17.5l2 2M15.5 8.5v.1",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  thought: "M9 18h6M10 21h4M8.5 15a6 6 0 1 1 7 0c-.4.5-.5 1-.5 1.500h-6c0-.5-.1-1-.5-1.500z",
  tool: "M14.500 6.500a4 4 0 0 1 5-1.500l-2.500 2.500 1.500 1.500L21 6.500a4 4 0 0 1-5.500 5L8 19a2.100 2.100 0 0 1-3-3l7.500-7.500a4 4 0 0 1 2-2z",
  warning: "M12 4L2.500 20h19zM12 10v5M12 17.500v.1",
  info: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 11v6M12 7.500v.1",
  expand: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  file: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  play: "M8 5l11 7-11 7z",
};

/** An icon; decoration only, so hidden from screen readers: the button around it has a label. */
export function icon(name) {
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: PATHS[name] }));
}

/** The compass. */
export function mark() {
  return s(
    "svg",
    { class: "mark", viewBox: "0 0 48 48", "aria-hidden": "true" },
    s("circle", { class: "ring", cx: 24, cy: 24, r: 21 }),
    s("path", { class: "n", d: "M24 9l6 15H18z" }),
    s("path", { class: "s", d: "M24 39l6-15H18z" }),
  );
}
