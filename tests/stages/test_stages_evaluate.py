"""The dialogues that `eval` writes down."""

from __future__ import annotations

from luopan.recipe.specs import EvalSpec
from luopan.stages.evaluate import dialogue_samples, samples_markdown


def test_a_dialogue_is_written_with_its_system_prompts() -> None:
    dialogues = [["Hello.", "/system You are Luna.", "Who are you?", "/think Sure?"], ["/system Be brief.", "Bye."]]
    spec = EvalSpec(kind="eval", models=["sft"], dialogues=dialogues)
    scores = {
        "sft": {
            "dialogues": [[{"text": "Hi."}, {"text": "Luna."}, {"text": "Yes.", "thinking": "Hm."}], [{"text": "."}]]
        }
    }
    assert samples_markdown(dialogue_samples(spec, scores)).split("\n\n")[1:] == [
        "## dialogue 1",
        "**user**: Hello.",
        "- sft: Hi.",
        "**system**: You are Luna.",
        "**user**: Who are you?",
        "- sft: Luna.",
        "**user**: Sure?",
        "- sft: <think> Hm. </think> Yes.",
        "## dialogue 2",
        "**system**: Be brief.",
        "**user**: Bye.",
        "- sft: .\n",
    ]
