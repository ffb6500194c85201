"""The decoder: configuration, rotary embeddings, attention, the module, and Hugging Face in and out.

Nothing is imported here, so that `luopan.model.config` stays free of torch. Take what you need from its file:
`config.ModelConfig`, `attention.Layout`, `decoder.Decoder`, `hf.load` / `hf.save`.
"""
