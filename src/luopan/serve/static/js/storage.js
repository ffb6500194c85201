// What the browser keeps for the page, in localStorage under "luopan.". Private windows may have none: then memory.

const memory = new Map();

function storage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

/** A value kept before; `otherwise` where there is none or it cannot be read. Strings are kept as they are. */
export function read(name, otherwise) {
  const kept = memory.has(name) ? memory.get(name) : storage()?.getItem(`luopan.${name}`);
  if (kept === null || kept === undefined) return otherwise;
  if (otherwise === null || typeof otherwise === "string") return kept;
  try {
    const value = JSON.parse(kept);
    return value !== null && typeof value === typeof otherwise ? value : otherwise;
  } catch {
    return otherwise;
  }
}

/** Keep a value. False where there is no room for it: it lives until the page closes. */
export function write(name, value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  try {
    const place = storage();
    if (!place) throw new Error("no storage");
    place.setItem(`luopan.${name}`, text);
    memory.delete(name);
    return true;
  } catch {
    memory.set(name, text);
    return false;
  }
}

export function forget(name) {
  memory.delete(name);
  storage()?.removeItem(`luopan.${name}`);
}

/** The names kept that begin with `before`. */
export function names(before) {
  const place = storage();
  const kept = place ? Object.keys(place).filter((name) => name.startsWith("luopan.")).map((name) => name.slice(7)) : [];
  return [...new Set([...kept, ...memory.keys()])].filter((name) => name.startsWith(before));
}
