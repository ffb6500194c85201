// The shortcuts, as the help shows them: [keys, what they do]. The views act on them.

export const SHORTCUTS = {
  everywhere: [
    ["g c", "keys.go_chat"],
    ["g v", "keys.go_compare"],
    ["g t", "keys.go_templates"],
    ["g r", "keys.go_runs"],
    ["T", "keys.theme"],
    ["L", "keys.language"],
    ["?", "keys.help"],
  ],
  chat: [
    ["/", "keys.write"],
    ["Enter", "keys.send"],
    ["Shift Enter", "keys.line"],
    ["Esc", "keys.stop"],
    ["n", "keys.new"],
    ["r", "keys.again"],
    ["e", "keys.edit"],
    ["p", "keys.parameters"],
  ],
  compare: [
    ["1 … 8", "keys.vote"],
    ["t", "keys.tie"],
    ["b", "keys.bad"],
    ["s", "keys.skip"],
  ],
  templates: [["Ctrl Enter", "keys.render"], ["Ctrl L", "keys.lint"]],
  runs: [["j k", "keys.next_run"], ["l", "keys.log"]],
};
