"""Writes `kdep.safetensors` beside this file: KDEP's targets (docs/methods.md section 2) in numpy, in f64, by SVD of the centered rows.

    python3 make_kdep.py        needs numpy and safetensors

For every case: the `features` in f16, what they are projected to and scaled by (`options`: d, T, n, rows fitted on), the
share of variance kept, and for each target two values that it must lie between, before rounding to f16: those of the
projected value less and plus what f32 arithmetic may be off by. Near zero the root of power temperature scaling is so
steep that no other bound would be fair and sharp at once.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def scaled(y, temperature, power):
    return np.sign(y) * np.abs(y / temperature) ** (1 / power)


def golden(tensors, name, seed, rows, width, dim, temperature=0.1, power=3.0, fit_rows=None):
    rng = np.random.default_rng(seed)
    # Uneven variances and a mean that is not zero, as pooled features have.
    features = rng.standard_normal((rows, width)) @ rng.standard_normal((width, width)) * 2.0 ** -rng.uniform(0, 5, width)
    features = (features + rng.uniform(-1, 2, width)).astype(np.float16)
    x = features.astype(np.float64)
    # Spread over the samples, which have two views that take turns.
    picks, samples = np.arange(fit_rows or rows), rows // 2
    chosen = picks * samples // len(picks) * 2 + picks % 2
    mean = x[chosen].mean(axis=0)
    _, singular, axes = np.linalg.svd(x[chosen] - mean, full_matrices=False)
    axes = axes[:dim]
    assert np.all(singular[:-1] / singular[1:] > 1.002), f"{name}: two axes are hardly told apart"
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
    y = (x - mean) @ axes.T
    off = 2e-6 * np.abs(x).max()
    print(f"{name}: {rows} x {width} to {dim}, largest target {np.abs(scaled(y, temperature, power)).max():.3f}")
    case = {
        "features": features,
        "options": np.array([dim, temperature, power, fit_rows or 0]),
        "explained": np.array([(y**2).sum() / ((x - mean) ** 2).sum()]),
        "low": scaled(y - off, temperature, power),
        "high": scaled(y + off, temperature, power),
    }
    tensors.update({f"{name}.{key}": np.ascontiguousarray(value) for key, value in case.items()})


tensors = {}
golden(tensors, "paper", 1, rows=174, width=24, dim=10)
golden(tensors, "every-dimension", 2, rows=174, width=12, dim=12, temperature=0.03)
golden(tensors, "square-root", 3, rows=174, width=16, dim=5, temperature=0.2, power=2.0)
golden(tensors, "no-root", 4, rows=174, width=16, dim=5, temperature=1.0, power=1.0)
golden(tensors, "sample", 5, rows=174, width=24, dim=10, fit_rows=40)
save_file(tensors, str(Path(__file__).parent / "kdep.safetensors"))
