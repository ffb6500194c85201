"""The inference engine: key/value cache, sampling, batching, and text in and out. The only decoder loop there is.

Take `engine.Engine` for tokens in, tokens out (rollouts, evaluations), `text.TextGenerator` for text and chat.
Importing this package imports no torch.
"""
