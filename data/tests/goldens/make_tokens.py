"""Makes tokens.safetensors: tokens, and what PyTorch and numpy make of them.

Run in this folder: python make_tokens.py. Needs torch, numpy and safetensors. The result is the same in every run.

    raw          [views, tokens, D] f32   of very different scales and offsets
    standard     [views, tokens, D] f32   torch.nn.functional.layer_norm without weights, eps 1e-6, in f64
    int8         [views, tokens, D] i8    standard / scale, rounded half to even
    scale        [views, tokens] f32      largest magnitude / 127, as the least f16 that is not below it
"""

import numpy as np
import torch
from safetensors.numpy import save_file

VIEWS, TOKENS, DIM = 6, 6, 37


def main() -> None:
    """Draw, standardize, quantize, write."""
    rng = np.random.default_rng(5)
    scale = 10.0 ** rng.uniform(-2, 3, (VIEWS, TOKENS, 1))
    raw = (scale * (rng.standard_normal((VIEWS, TOKENS, DIM)) + rng.uniform(-3, 3, (VIEWS, TOKENS, 1)))).astype(np.float32)
    raw[2, 3] = 4.25  # a token without variance
    wide = torch.from_numpy(raw).double()
    standard = torch.nn.functional.layer_norm(wide, [DIM], eps=1e-6).float().numpy()
    largest = np.abs(standard).max(axis=-1) / np.float32(127)
    steps = largest.astype(np.float16)
    steps = np.where(steps.astype(np.float32) < largest, np.nextafter(steps, np.float16(np.inf)), steps).astype(np.float32)
    quotient = np.divide(standard, steps[..., None], out=np.zeros_like(standard), where=steps[..., None] > 0)
    int8 = np.clip(np.rint(quotient), -127, 127).astype(np.int8)
    save_file({"raw": raw, "standard": standard, "int8": int8, "scale": steps}, "tokens.safetensors")


if __name__ == "__main__":
    main()
