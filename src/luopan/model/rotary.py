"""Rotary position embeddings (RoFormer, arXiv:2104.09864): frequencies, cached tables, and the rotation.

The halves of a head are the two coordinates that turn together (component i with i + D/2), as in Hugging Face
weights. Where only the first R components of a head turn (partial rotary embeddings, as in GPT-NeoX), the halves are
those of the R. Frequencies equal those of transformers for default, linear, yarn and llama3 scaling (tested).
Cosines and sines come once per forward pass, not per layer: on the CPU from a table that grows with the largest
position seen, on other devices computed from the positions, so that no position has to be read back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from luopan.model.config import ModelConfig, RopeScaling
from luopan.model.ops import rotate


def inverse_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Angles per position, [R/2] fp32 with R = `rotary_size`, and the factor of cosines and sines (1 but for yarn)."""
    size = config.rotary_size  # on the CPU whatever the default device: a model may be built on "meta"
    plain = 1.0 / (config.rope_theta ** (torch.arange(0, size, 2, dtype=torch.int64, device="cpu").float() / size))
    scaling = config.rope_scaling
    if scaling is None:
        return plain, 1.0
    if scaling.rope_type == "linear":
        return plain / scaling.factor, 1.0
    if scaling.rope_type == "yarn":
        return _yarn(config, scaling), _yarn_attention_factor(scaling)
    return _llama3(plain, scaling), 1.0


def _yarn(config: ModelConfig, scaling: RopeScaling) -> Tensor:
    """Interpolate slow components, keep fast ones, a ramp between (YaRN, arXiv:2309.00071, section 3.2)."""
    size, original = config.rotary_size, scaling.original_max_position_embeddings
    assert original is not None

    def component(turns: float) -> float:
        """The (fractional) component that makes `turns` full turns over the pretrained context."""
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = component(scaling.beta_fast or 32.0), component(scaling.beta_slow or 1.0)
    if scaling.truncate is not False:
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, size - 1.0)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    interpolate = ((torch.arange(size // 2, dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
    wavelength = config.rope_theta ** (torch.arange(0, size, 2, device="cpu").float() / size)
    return interpolate / (scaling.factor * wavelength) + (1 - interpolate) / wavelength


def _yarn_attention_factor(scaling: RopeScaling) -> float:
    """0.1 ln(factor) + 1 (YaRN, equation 22), or as the configuration says."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def sharpen(weight: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * weight * math.log(scaling.factor) + 1.0

    if scaling.mscale is not None and scaling.mscale_all_dim is not None:
        return sharpen(scaling.mscale) / sharpen(scaling.mscale_all_dim)
    return sharpen(1.0)


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Wavelengths beyond the context are divided by `factor`, short ones kept, a ramp between (Llama 3.1)."""
    original, slow, fast = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    assert original is not None and slow is not None and fast is not None
    turns = original * plain / (2 * math.pi)
    keep = ((turns - slow) / (fast - slow)).clamp(0, 1)
    return (1 - keep) * plain / scaling.factor + keep * plain


class RotaryTable:
    """Cosines and sines for positions. Holds no parameters and no buffers: nothing of it is saved or moved."""

    def __init__(self, config: ModelConfig) -> None:
        self.frequencies, self.scale = inverse_frequencies(config)
        self._cos = self._sin = torch.empty(0, config.rotary_size // 2, device="cpu")

    def __call__(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """position_ids [B, T] -> cosines and sines, [B, T, 1, R/2] fp32, to be broadcast over heads."""
        if position_ids.device.type != "cpu":
            angles = position_ids[..., None, None].float() * self.frequencies.to(position_ids.device)
            return angles.cos() * self.scale, angles.sin() * self.scale
        needed = int(position_ids.max()) + 1 if position_ids.numel() else 0
        if needed > len(self._cos):
            self._grow(needed)
        shape = (*position_ids.shape, 1, self._cos.shape[1])
        flat = position_ids.reshape(-1)
        return self._cos.index_select(0, flat).view(shape), self._sin.index_select(0, flat).view(shape)

    def _grow(self, needed: int) -> None:
        length = max(256, 1 << (needed - 1).bit_length())  # doubling: a decoding loop grows it rarely
        with torch.inference_mode(False), torch.no_grad():
            angles = torch.arange(length, device="cpu").float()[:, None] * self.frequencies
            self._cos, self._sin = angles.cos() * self.scale, angles.sin() * self.scale


def rotate_first(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, T, H, D], its first R components turned by cos, sin [B, T, 1, R/2], the others as they were."""
    turned = 2 * cos.shape[-1]
    if turned == x.shape[-1]:
        return rotate(x, cos, sin)
    return torch.cat([rotate(x[..., :turned], cos, sin), x[..., turned:]], -1)
