"""How to use an exported model: the commands for transformers, luopan, llama.cpp, Ollama, vLLM and SGLang.

What was not run where the export was made is said so: vLLM and SGLang never are. The names of their parsers are those
that `tokens/templates.py` has from their documentation.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from luopan.tokens.templates import TemplateInfo, identify
from luopan.tokens.tokenizer import load_tokenizer

# Families of transformers that vLLM's and SGLang's lists of supported models name.
VLLM = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "qwen3_moe", "mixtral"})
SGLANG = frozenset({"llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral"})


@dataclass(frozen=True)
class Use:
    """`sections`: (title, language of the block, code, remark) with `@DIR@` for the folder; `template`: facts of it."""

    sections: list[tuple[str, str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    template: list[str] = field(default_factory=list)
    library: str = "transformers"

    def commands(self, folder: Path) -> list[str]:
        """The shell commands, for printing."""
        return [
            f"{title}: {placed(line, language, str(folder))}"
            for title, language, code, _ in self.sections
            if language == "sh"
            for line in code.splitlines()
        ]


def placed(code: str, language: str, folder: str) -> str:
    """`code` with the folder's name for @DIR@, quoted as the language needs it."""
    return code.replace("@DIR@", shlex.quote(folder) if language == "sh" else inside_string(folder))


def inside_string(text: str) -> str:
    """`text` as it stands between the quotation marks of a Python string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def use_of_folder(folder: Path, name: str) -> Use:
    """Of a Hugging Face folder; `name` is what it will be called."""
    from luopan.model.hf import read_json

    family = str(read_json(folder / "config.json").get("model_type"))
    source = load_tokenizer(folder).chat_template
    info = identify(source) if isinstance(source, str) else None
    facts = template_facts(source if isinstance(source, str) else None, info)
    own = [("luopan", "sh", "luopan chat @DIR@" if source else 'luopan generate @DIR@ "Once"', "")]
    if family == "luopan":
        note = "this is luopan's own form: transformers, vLLM and SGLang do not know it"
        return Use(own, [note], facts, library="luopan")
    sections = [("transformers", "python", _transformers(bool(source)), ""), *own]
    unrun = "Not run where this card was written."
    if family in VLLM:
        sections.append(("vLLM", "sh", f"vllm serve @DIR@{_vllm_flags(info)}", unrun))
    if family in SGLANG:
        command = f"python -m sglang.launch_server --model-path @DIR@{_sglang_flags(info)}"
        sections.append(("SGLang", "sh", command, unrun))
    return Use(sections, [], facts)


def use_of_gguf(source: Path, file: Path, notes: list[str]) -> Use:
    """Of a GGUF file with its Modelfile, made from the model folder `source`."""
    template = load_tokenizer(source).chat_template
    info = identify(template) if isinstance(template, str) else None
    facts = template_facts(template if isinstance(template, str) else None, info)
    name, in_python = shlex.quote(file.name), inside_string(file.name)
    python = (
        "from llama_cpp import Llama\n\n"
        f'model = Llama("@DIR@/{in_python}", n_ctx=0)\n'
        'print(model.create_chat_completion([{"role": "user", "content": "Hello!"}], temperature=0.0))\n'
        if template
        else "from llama_cpp import Llama\n\n"
        f'model = Llama("@DIR@/{in_python}", n_ctx=0)\n'
        'print(model("Once", max_tokens=64, temperature=0.0))\n'
    )
    unrun = "Not run where this card was written."
    sections = [
        ("llama.cpp", "sh", f"llama-cli -m @DIR@/{name}{' --jinja' if template else ''}", unrun),
        ("llama-cpp-python", "python", python, ""),
        ("Ollama", "sh", f"ollama create {shlex.quote(file.stem.lower())} -f @DIR@/Modelfile", unrun),
    ]
    return Use(sections, notes, facts, library="gguf")


def template_facts(source: str | None, info: TemplateInfo | None) -> list[str]:
    """What a user of the chat template must know, one fact a line."""
    if source is None:
        return ["There is no chat template: the model continues text."]
    if info is None:
        return ["The chat template is the model's own (`chat_template.jinja`); its facts are not recorded."]
    facts = [
        f"`{info.name}` ({info.description}); a turn ends on {', '.join(f'`{stop}`' for stop in info.stop)}",
        f"system role: {info.system_role}",
        f"tools: {info.tools}",
        f"thinking: {info.thinking}",
    ]
    return [*facts, f"limits: {info.limits}"] if info.limits else facts


def _transformers(chats: bool) -> str:
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("@DIR@")\n'
        'model = AutoModelForCausalLM.from_pretrained("@DIR@")\n'
    )
    if chats:
        code += (
            'messages = [{"role": "user", "content": "Hello!"}]\n'
            'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
            "return_dict=True)\n"
        )
    else:
        code += 'inputs = tokenizer("Once", return_tensors="pt")\n'
    code += "output = model.generate(**inputs, max_new_tokens=64, do_sample=False)\n"
    return code + 'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))\n'


def _vllm_flags(info: TemplateInfo | None) -> str:
    if info is None:
        return ""
    tools = f" --enable-auto-tool-choice --tool-call-parser {info.vllm_tool_parser}" if info.vllm_tool_parser else ""
    return tools + (f" --reasoning-parser {info.vllm_reasoning_parser}" if info.vllm_reasoning_parser else "")


def _sglang_flags(info: TemplateInfo | None) -> str:
    if info is None:
        return ""
    tools = f" --tool-call-parser {info.sglang_tool_parser}" if info.sglang_tool_parser else ""
    return tools + (f" --reasoning-parser {info.sglang_reasoning_parser}" if info.sglang_reasoning_parser else "")
