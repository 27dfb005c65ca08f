"""Writes `projection.safetensors` beside this file: principal axes by numpy's SVD of the centered rows, in f64.

    python3 make_projection.py        needs numpy and safetensors

For every case: the rows `x` in f16, and what `Projection` must make of them: mean, components (the entry of largest
magnitude positive), variances (over n), the total variance, and the projected rows `y`. Components past the rank are
arbitrary and left out. The generator refuses data whose axes or signs are not told apart clearly.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def rows(seed, count, width, rank, offset):
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((count, rank)) * 2.0 ** -np.linspace(0, 6, rank)
    # Entries of few bits, so that rows of low rank stay so in f16.
    mixing = rng.integers(-4, 5, (rank, width))
    factors = np.round(factors * 64) / 64
    return (factors @ mixing + offset).astype(np.float16)


def golden(tensors, name, seed, count, width, dim, rank=None, offset=0.0):
    x = rows(seed, count, width, rank or width, offset)
    values = x.astype(np.float64)
    mean = values.mean(axis=0)
    centered = values - mean
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    variances = np.zeros(width)
    variances[: len(singular)] = singular**2 / count
    found = int((variances[:dim] > 1e-10 * variances[0]).sum())
    kept = variances[:found]
    assert np.all(kept[:-1] / kept[1:] > 1.01), f"{name}: two axes are hardly told apart"
    axes = axes[:found]
    order = np.sort(np.abs(axes), axis=1)
    assert np.all(order[:, -1] - order[:, -2] > 1e-4), f"{name}: a sign is hardly decided"
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes = axes * np.sign(largest)
    print(f"{name}: {count} x {width} to {dim}, rank {found}, explained {variances[:dim].sum() / variances.sum():.6f}")
    case = {
        "x": x,
        "mean": mean,
        "components": axes,
        "variances": np.maximum(variances[:dim], 0.0),
        "total": np.array([variances.sum()]),
        "y": centered @ axes.T,
    }
    tensors.update({f"{name}.{key}": np.ascontiguousarray(value) for key, value in case.items()})


tensors = {}
golden(tensors, "narrower", 1, count=300, width=24, dim=10)
golden(tensors, "square", 2, count=200, width=16, dim=16)
golden(tensors, "low-rank", 3, count=120, width=20, dim=12, rank=6)
golden(tensors, "few-rows", 4, count=9, width=16, dim=12)
golden(tensors, "far-from-zero", 5, count=150, width=12, dim=5, offset=200.0)
golden(tensors, "panels", 8, count=260, width=150, dim=20, rank=40)
save_file(tensors, str(Path(__file__).parent / "projection.safetensors"))
