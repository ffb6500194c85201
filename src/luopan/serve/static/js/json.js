// JSON that people write: where it is broken, by line and column. JSON.parse says so only in some browsers.

/** {value} or {error: {line, column, what}}; `what` is a key of the strings table. */
export function readJson(text) {
  try {
    return { value: JSON.parse(text) };
  } catch {
    const at = brokenAt(text);
    const before = text.slice(0, at.position).split("\n");
    return { error: { line: before.length, column: before.at(-1).length + 1, what: at.what, position: at.position } };
  }
}

/** The first place where the text is no JSON (RFC 8259), and what is wrong there. */
function brokenAt(text) {
  const scanner = new Scanner(text);
  try {
    scanner.space();
    scanner.value(0);
    scanner.space();
    if (scanner.at < text.length) scanner.fail("json.extra");
  } catch (error) {
    if (error instanceof Broken) return { position: error.position, what: error.what };
    throw error;
  }
  return { position: text.length, what: "json.broken" };
}

class Broken {
  constructor(position, what) {
    this.position = position;
    this.what = what;
  }
}

class Scanner {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  fail(what) {
    throw new Broken(this.at, this.at >= this.text.length ? "json.end" : what);
  }

  space() {
    while (/[ \t\r\n]/.test(this.text[this.at] ?? "x")) this.at += 1;
  }

  value(depth) {
    if (depth > 500) this.fail("json.deep");
    const c = this.text[this.at];
    if (c === "{") this.many("}", depth, () => this.member(depth));
    else if (c === "[") this.many("]", depth, () => this.value(depth + 1));
    else if (c === '"') this.string();
    else if (c === "'") this.fail("json.quotes");
    else this.word();
  }

  many(end, depth, one) {
    this.at += 1;
    this.space();
    if (this.text[this.at] === end) return void (this.at += 1);
    for (;;) {
      this.space();
      if (this.text[this.at] === end) this.fail("json.comma");
      one();
      this.space();
      if (this.text[this.at] === end) return void (this.at += 1);
      if (this.text[this.at] !== ",") this.fail(end === "]" ? "json.list" : "json.object");
      this.at += 1;
    }
  }

  member(depth) {
    if (this.text[this.at] !== '"') this.fail("json.key");
    this.string();
    this.space();
    if (this.text[this.at] !== ":") this.fail("json.colon");
    this.at += 1;
    this.space();
    this.value(depth + 1);
  }

  string() {
    this.at += 1;
    for (;;) {
      const c = this.text[this.at];
      if (c === undefined || c < " ") this.fail("json.string");
      if (c === '"') break;
      if (c === "\\" && !/^\\(["\\/bfnrt]|u[0-9a-fA-F]{4})/.test(this.text.slice(this.at, this.at + 6))) this.fail("json.escape");
      this.at += c === "\\" ? 2 : 1;
    }
    this.at += 1;
  }

  word() {
    const match = /^(true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?)(?![\w.])/.exec(this.text.slice(this.at, this.at + 400));
    if (!match) this.fail("json.value");
    this.at += match[0].length;
  }
}
