"""Writes the golden banks beside this file: the formulas of docs/methods.md section 1 in numpy, in f64 throughout.

    python3 make_goldens.py        needs numpy and safetensors

Each file holds the inputs (prompt embeddings in f32, image embeddings in f16) and what a bank must make of them.
The generator refuses data whose two largest logits are close, so that a pseudo-category has one right answer.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def unit(values, axis=-1):
    return values / np.linalg.norm(values, axis=axis, keepdims=True)


def softmax(logits, temperature):
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    exponentials = np.exp(scaled)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def golden(name, seed, categories, templates, rows, dim, directions, temperature, k):
    rng = np.random.default_rng(seed)
    prompts = rng.standard_normal((categories, 1, dim)) + 0.5 * rng.standard_normal((categories, templates, dim))
    # Lengths differ, so that normalizing before the mean matters.
    prompts = (prompts * rng.uniform(0.2, 5.0, (categories, templates, 1))).astype(np.float32)
    tsb = unit(unit(prompts.astype(np.float64)).mean(axis=1))

    # Images lean towards a few categories only: the others stay without a view.
    lean = rng.integers(0, directions, rows)
    images = unit(tsb[lean] + 0.12 * rng.standard_normal((rows, dim))).astype(np.float16)
    t = images.astype(np.float64)

    logits = t @ tsb.T
    best = np.sort(logits, axis=1)
    assert (best[:, -1] - best[:, -2]).min() > 1e-5, "two categories tie"
    pseudo = logits.argmax(axis=1)
    counts = np.bincount(pseudo, minlength=categories)
    vsb = np.stack([t[pseudo == c].mean(axis=0) if counts[c] else np.zeros(dim) for c in range(categories)])

    text = softmax(logits, temperature)
    slots = np.concatenate([np.ones((rows, 1)), t @ vsb.T], axis=1)
    kept = softmax(slots, temperature)
    slots[:, 1:][:, counts == 0] = -np.inf
    visual = softmax(slots, temperature)

    mass = lambda p: np.sort(p, axis=1)[:, -k:].sum(axis=1)
    print(f"{name}: {int((counts == 0).sum())} of {categories} unassigned, text mass {mass(text).mean():.6f}")
    save_file(
        {
            "prompts": prompts,
            "images": images,
            "temperature": np.array([temperature], np.float32),
            "k": np.array([k], np.int64),
            "tsb": tsb,
            "pseudo_category": pseudo.astype(np.int32),
            "counts": counts.astype(np.int64),
            "vsb": vsb,
            "text": text.astype(np.float32),
            "visual": visual.astype(np.float32),
            "visual_kept": kept.astype(np.float32),
            "text_mass": mass(text),
            "visual_mass": mass(visual),
        },
        str(Path(__file__).parent / f"{name}.safetensors"),
    )


golden("dense", 1, categories=10, templates=3, rows=150, dim=24, directions=7, temperature=0.01, k=10)
golden("top_k", 2, categories=300, templates=2, rows=48, dim=40, directions=200, temperature=0.05, k=16)
