// Before anything is drawn: the chosen theme and language, so that the page does not flash in another one.
(() => {
  try {
    const theme = localStorage.getItem("luopan.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    const language = localStorage.getItem("luopan.language") || navigator.language || "en";
    document.documentElement.lang = language.startsWith("zh") ? "zh" : "en";
  } catch {
    document.documentElement.lang = "en"; // no storage here: the system's theme, English
  }
})();
