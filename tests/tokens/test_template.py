from __future__ import annotations

import re

import pytest

from luopan.errors import DataError, ModelError
from luopan.tokens.template import ChatTemplate, Piece, compile_template, joined, luopan_template

USER = {"role": "user", "content": "U"}


def render(messages: list[dict], **arguments: object) -> str:
    return joined(compile_template(luopan_template()).render(messages, **arguments))


def test_the_format_by_hand() -> None:
    assert render([USER], add_generation_prompt=True) == (
        "<|im_start|>system\n/no_think<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    system = {"role": "system", "content": "S"}
    assert render([system, USER], enable_thinking=True) == (
        "<|im_start|>system\nS\n/think<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    )
    later = [system, USER, {"role": "assistant", "content": "A"}, {"role": "system", "content": "T"}, USER]
    assert render(later).endswith(
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>system\nT<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    )
    assert '\nTools: [{"name": "f"}]\nTo use one' in render([system, USER], tools=[{"name": "f"}])
    assert render([USER, {"role": "tool", "content": "4"}]).endswith("<|im_start|>tool\n4<|im_end|>\n")


def test_no_date_in_the_format() -> None:
    assert "strftime" not in luopan_template()
    assert not re.search(r"20\d\d", render([USER]))


def test_pieces_say_what_is_trained() -> None:
    pieces = compile_template(luopan_template()).render([USER, {"role": "assistant", "content": "A"}])
    assert [p for p in pieces if p.trained] == [Piece("A<|im_end|>", True, False)]
    assert pieces[-1] == Piece("\n", False, False)


@pytest.mark.parametrize("messages", [
    [{"role": "bot", "content": "x"}],
    [{"role": "user", "content": [{"type": "image"}]}],
    [{"role": "user", "content": 5}],
])  # fmt: skip
def test_the_template_itself_refuses_what_it_cannot_render(messages: list[dict]) -> None:
    with pytest.raises(DataError, match="refuses"):
        render(messages)


def test_templates_run_in_a_sandbox() -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(DataError, match="refuses"):
        ChatTemplate(escape).render([USER])
    with pytest.raises(DataError, match="refuses"):
        ChatTemplate("{{ messages.append(1) }}").render([USER])


def test_a_broken_template_names_its_line() -> None:
    with pytest.raises(ModelError) as caught:
        ChatTemplate("a\n{% endfor %}")
    assert caught.value.where == "line 2"
