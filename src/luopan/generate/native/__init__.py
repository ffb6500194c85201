"""The decoding pass in C, compiled at first use: several times as fast as torch's operations for small models on a CPU.

A step of a small model is a few hundred operations of microseconds each; torch spends most of it around them, and its
product of one row with a matrix reads memory at a third of what the machine can. `decode.c` is the whole pass.
`binding.CompiledPass` calls it, `build` compiles it. Where it does not fit (experts, another precision, a GPU,
adapters, no compiler), the engine decodes through `model.Decoder`; both are tested against each other.
"""
