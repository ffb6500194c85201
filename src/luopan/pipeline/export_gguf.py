"""A model as a folder for llama.cpp and Ollama: the GGUF file, an Ollama `Modelfile`, the model card, the lineage.

The model is read from its Hugging Face folder, checked first, and nothing is left of an export that fails. What
llama.cpp will do differently is told in the card and printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from luopan.artifacts import atomic_write_text
from luopan.pipeline.card_facts import CardOptions
from luopan.pipeline.export import Exported
from luopan.pipeline.export_folder import check_source, new_folder, write_lineage
from luopan.pipeline.models import default_sampling, model_folder

ROOM_FOR_REST = 1 << 20  # Modelfile, card, lineage; the vocabulary comes on top of the weights


@dataclass(frozen=True)
class GgufOptions:
    """`kind`: a type of `tokens.gguf_quantise.GGUF_TYPES`. `system`: the Modelfile's system prompt.

    `inexact_tokenizer`: write the nearest tokenizer where llama.cpp has none that cuts alike.
    """

    kind: str = "f16"
    system: str | None = None
    inexact_tokenizer: bool = False


def export_gguf(
    model: str | Path, target: Path, options: GgufOptions | None = None, *, card: CardOptions | None = None
) -> Exported:
    """Writes MODEL to the folder `target`, which must not exist, as `<name>-<type>.gguf`, `Modelfile`, `README.md`.

    Raises ArtifactError (target exists, source damaged) and ModelError (the source is not whole, llama.cpp cannot
    compute the model or cut text as its tokenizer does, a type without its quantiser).
    """
    from luopan.pipeline.card_use import use_of_gguf
    from luopan.pipeline.export_folder import refuse_existing
    from luopan.pipeline.model_card import write_card
    from luopan.pipeline.ollama import modelfile
    from luopan.tokens.gguf_quantise import LLAMA_TYPES
    from luopan.tokens.gguf_write import GgufFacts, gguf_plan, write_gguf

    options, card = options or GgufOptions(), card or CardOptions()
    source = model_folder(model)
    refuse_existing(target)
    check_source(source)
    plan = gguf_plan(source, options.kind, inexact=options.inexact_tokenizer)
    # llama.cpp's quantiser reads a whole file in f32 beside the one it writes.
    needed = int(plan.file_bytes * (1.6 if options.kind in LLAMA_TYPES else 1)) + 40 * plan.config.vocab_size
    with new_folder(target, needed + ROOM_FOR_REST) as partial:
        file = partial / f"{target.name}-{options.kind}.gguf"
        sampling = default_sampling(source)
        facts = GgufFacts(
            name=target.name,
            license=card.license,
            languages=card.languages,
            tags=("luopan",),
            base_model=card.base_model,
            sampling=sampling,
        )
        write_gguf(plan, file, facts)
        made = modelfile(plan.vocabulary, f"./{file.name}", context=plan.config.max_position_embeddings,
                         sampling=sampling, system=options.system)  # fmt: skip
        atomic_write_text(partial / "Modelfile", made.text)
        write_lineage(source, partial)
        use = use_of_gguf(source, file, [*plan.vocabulary.notes, *made.notes])
        write_card(source, partial, card, use, name=target.name, kind="gguf")
    return Exported(target, use.notes, use.commands(target))
