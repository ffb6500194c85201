"""The shipped chat templates in the language of Ollama's Modelfile, which is Go's text/template.

Ollama hands over `.Messages` (Role, Content, Thinking, ToolCalls), `.Tools`, and `.Think` with `.IsThinkSet`. The text
is that of the Jinja source for conversations that end with a user's or a tool's turn (tested with Go's own engine),
but for what Go's language or Ollama's data do not have: the JSON of tools and calls is Ollama's, without spaces; in
`luopan`, a switch at the end of the system prompt is text and does not switch (Ollama's own think setting does). An
assistant's turn at the end is left open, so that it is continued, as Ollama does it.

`@BOS@` stands where a template writes the token that begins a text; it goes where llama.cpp puts one itself. Templates
of models whose format Ollama carries itself (gpt-oss), or whose tools it cannot express (DeepSeek's, Command A's),
have none here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_LAST_USER = """\
{{- $user := -1 }}
{{- range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $user = $i }}{{ end }}{{ end }}
"""
_SYSTEM_FIRST = """\
{{- $system := "" }}
{{- range $i, $m := .Messages }}{{ if and (eq $i 0) (eq $m.Role "system") }}{{ $system = $m.Content }}{{ end }}{{ end }}
"""
_SIGNATURES = '{"type": "function", "function": {{ $t.Function }}}'

_CHATML = (
    _LAST_USER
    + """\
{{- $think := or (not .IsThinkSet) .Think }}
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq $m.Role "assistant" }}<|im_start|>assistant
{{ if and $m.Thinking $think (gt $i $user) }}<think>
{{ $m.Thinking }}
</think>

{{ end }}{{ $m.Content }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else }}<|im_start|>{{ $m.Role }}
{{ $m.Content }}<|im_end|>
{{ end }}
{{- if and $last (ne $m.Role "assistant") }}<|im_start|>assistant
{{ end }}
{{- end }}"""
)

_LUOPAN = (
    _LAST_USER
    + _SYSTEM_FIRST
    + """\
{{- $think := and .IsThinkSet .Think }}<|im_start|>system
{{ if $system }}{{ $system }}
{{ end }}
{{- if .Tools }}Tools: [{{ range $i, $t := .Tools }}{{ if $i }}, {{ end }}"""
    + _SIGNATURES
    + """{{ end }}]
To use one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>
{{ end }}
{{- if $think }}/think{{ else }}/no_think{{ end }}<|im_end|>
{{ range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq $m.Role "assistant" }}<|im_start|>assistant
{{ if and $m.Thinking $think (gt $i $user) }}<think>
{{ $m.Thinking }}
</think>
{{ end }}{{ $m.Content }}
{{- range $m.ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if or (ne $m.Role "system") (gt $i 0) }}<|im_start|>{{ $m.Role }}
{{ $m.Content }}<|im_end|>
{{ end }}
{{- if and $last (ne $m.Role "assistant") }}<|im_start|>assistant
{{ end }}
{{- end }}"""
)

_QWEN3 = (
    _LAST_USER
    + _SYSTEM_FIRST
    + """\
{{- $think := or (not .IsThinkSet) .Think }}
{{- if or $system .Tools }}<|im_start|>system
{{ $system }}
{{- if .Tools }}{{ if $system }}

{{ end }}# Tools

Functions you may call, one JSON signature a line:
<tools>
{{- range $t := .Tools }}
"""
    + _SIGNATURES
    + """
{{- end }}
</tools>

To call one, answer with its name and arguments as JSON:
<tool_call>
{"name": ..., "arguments": {...}}
</tool_call>
{{- end }}<|im_end|>
{{ end }}
{{- $results := false }}
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if and $results (ne $m.Role "tool") }}<|im_end|>
{{ $results = false }}{{ end }}
{{- if eq $m.Role "assistant" }}<|im_start|>assistant
{{ if not $think }}<think>

</think>

{{ else if and $m.Thinking (gt $i $user) }}<think>
{{ $m.Thinking }}
</think>

{{ end }}{{ $m.Content }}
{{- range $n, $c := $m.ToolCalls }}{{ if or $m.Content $n }}
{{ end }}<tool_call>
{"name": "{{ $c.Function.Name }}", "arguments": {{ $c.Function.Arguments }}}
</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq $m.Role "tool" }}{{ if not $results }}<|im_start|>user{{ $results = true }}{{ end }}
<tool_response>
{{ $m.Content }}
</tool_response>
{{- if $last }}<|im_end|>
{{ end }}
{{- else if or (ne $m.Role "system") (gt $i 0) }}<|im_start|>{{ $m.Role }}
{{ $m.Content }}<|im_end|>
{{ end }}
{{- if and $last (ne $m.Role "assistant") }}<|im_start|>assistant
{{ if not $think }}<think>

</think>

{{ end }}{{ end }}
{{- end }}"""
)

_LLAMA3 = (
    _SYSTEM_FIRST
    + """\
{{- $first := "" }}{{ range $i, $m := .Messages }}{{ if eq $i 0 }}{{ $first = $m.Role }}{{ end }}{{ end -}}
@BOS@
{{- if or (eq $first "system") .Tools }}<|start_header_id|>system<|end_header_id|>

{{ if .Tools }}Environment: ipython

Functions you may call; to call one, answer with nothing but {"name": ..., "parameters": {...}}:
{{ range $t := .Tools }}
"""
    + _SIGNATURES
    + """
{{- end }}{{ if eq $first "system" }}

{{ end }}{{ end }}{{ $system }}<|eot_id|>
{{- end }}
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq $m.Role "assistant" }}<|start_header_id|>assistant<|end_header_id|>

{{ if $m.ToolCalls }}
{{- range $m.ToolCalls }}{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}
{{- else }}{{ $m.Content }}{{ end }}{{ if not $last }}<|eot_id|>{{ end }}
{{- else if eq $m.Role "tool" }}<|start_header_id|>ipython<|end_header_id|>

{{ $m.Content }}<|eot_id|>
{{- else if or (ne $m.Role "system") (gt $i 0) }}<|start_header_id|>{{ $m.Role }}<|end_header_id|>

{{ $m.Content }}<|eot_id|>
{{- end }}
{{- if and $last (ne $m.Role "assistant") }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- end }}"""
)

_GEMMA3 = (
    _SYSTEM_FIRST
    + """\
{{- $open := $system }}@BOS@
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq $m.Role "user" }}<start_of_turn>user
{{ if $open }}{{ $open }}

{{ $open = "" }}{{ end }}{{ $m.Content }}<end_of_turn>
{{ if $last }}<start_of_turn>model
{{ end }}
{{- else if eq $m.Role "assistant" }}<start_of_turn>model
{{ $m.Content }}{{ if not $last }}<end_of_turn>
{{ end }}{{ end }}
{{- end }}"""
)

GO_TEMPLATES: Mapping[str, str] = MappingProxyType(
    {"chatml": _CHATML, "luopan": _LUOPAN, "qwen3": _QWEN3, "llama3": _LLAMA3, "gemma3": _GEMMA3}
)


def go_template(name: str, bos: str) -> str | None:
    """Ollama's form of a shipped template; `bos` is what it writes at the beginning. None where there is none."""
    source = GO_TEMPLATES.get(name)
    return None if source is None else source.replace("@BOS@", bos)
