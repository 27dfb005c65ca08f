"""Writes `align.safetensors` beside this file: bridges (docs/methods.md section 5) in numpy, in f64.

    python3 make_align.py        needs numpy and safetensors

`build` is ridge regression by the normal equations with a given penalty: that of `head` is what `lgd align --head --ridge 10` must give. The
other cases let 5-fold cross-validation over categories choose from the grid. For every case: the unit text embedding of each name (`texts`), a head or
labeled images (`embeddings` in f16, two views per image, `labels`, -1 for none), the mean and the matrix, the penalty and its cosine, the cosine of every
penalty, and the accuracies: plain, centered and by chance, each among the held-out categories of the fold and among all.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FOLDS = 5
GRID = 10.0 ** (np.arange(-12, 13) / 4)
VIEWS = 2


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def build(sentences, classifier, ridge):
    """Centered, normalized, ridge regression by the normal equations."""
    mean = sentences.mean(axis=0)
    source = unit(sentences - mean)
    target = unit(classifier - classifier.mean(axis=0, dtype=np.float64))
    gram = source.T @ source + ridge * np.eye(source.shape[1])
    return mean, np.linalg.solve(gram, source.T @ target)


def bridged(texts, mean, matrix):
    return unit(unit(texts - mean) @ matrix)


def folds(texts, targets, ridge):
    """For every fold: the held-out categories, and the bridged prototypes of all."""
    for fold in range(FOLDS):
        held = np.arange(fold, len(texts), FOLDS)
        kept = np.setdiff1d(np.arange(len(texts)), held)
        mean, matrix = build(texts[kept], targets[kept], ridge)
        yield held, kept, bridged(texts, mean, matrix)


def cosine(texts, targets, ridge):
    cosines = []
    for held, kept, prototypes in folds(texts, targets, ridge):
        expected = unit(targets[held] - targets[kept].mean(axis=0))
        cosines.extend((prototypes[held] * expected).sum(axis=1))
    return np.mean(cosines)


class Tally:
    def __init__(self):
        self.right, self.decisions = np.zeros((3, 2)), 0

    def count(self, plain, centered, truth, held):
        self.decisions += 1
        for row, scores in enumerate((plain, centered)):
            for column, among in enumerate((held, np.arange(len(scores)))):
                others = scores[among[among != truth]]
                assert abs(scores[truth] - others.max()) > 1e-5, "a decision is too close to compare"
                self.right[row, column] += scores[truth] > others.max()
        self.right[2] += 1 / len(held), 1 / len(plain)


def golden(tensors, name, texts, head=None, images=None, ridge=None):
    tally = Tally()
    case = {"texts": texts.astype(np.float32)}
    texts = case["texts"].astype(np.float64)
    if head is not None:
        case["head"] = head.astype(np.float32)
        targets = case["head"].astype(np.float64)
    else:
        case["embeddings"], case["labels"] = images
        embeddings, labels = images[0].astype(np.float64), np.repeat(images[1], VIEWS)
        targets = np.stack([embeddings[labels == label].mean(axis=0) for label in range(len(texts))])
    curve = np.array([cosine(texts, targets, value) for value in GRID])
    if ridge is None:
        ridge = GRID[curve.argmax()]
        assert 0 < curve.argmax() < len(GRID) - 1 and np.sort(curve)[-1] - np.sort(curve)[-2] > 1e-6
    for held, _, prototypes in folds(texts, targets, ridge):
        if head is not None:
            plain, centered = unit(targets), unit(targets - targets.mean(axis=0))
            for category in held:
                tally.count(plain @ prototypes[category], centered @ prototypes[category], category, held)
        else:
            mean = embeddings.mean(axis=0)
            for image in np.flatnonzero(np.isin(images[1], held)):
                row = embeddings[image * VIEWS]
                tally.count(prototypes @ row, prototypes @ unit(row - mean), images[1][image], held)
    mean, matrix = build(texts, targets, ridge)
    accuracy = tally.right / tally.decisions
    chosen = cosine(texts, targets, ridge)
    print(f"{name}: ridge {ridge:.3f}, cosine {chosen:.3f}, {tally.decisions} decisions\n{accuracy.round(3)}")
    case |= {"mean": mean, "matrix": matrix.T, "curve": curve, "chosen": np.array([ridge, chosen]), "accuracy": accuracy}
    case["decisions"] = np.array([float(tally.decisions)])
    tensors.update({f"{name}.{key}": np.ascontiguousarray(value) for key, value in case.items()})


def spaces(seed, categories, text_width, width, noise, shared=1.0):
    """Text and image vectors of some categories from common factors, each with noise and a direction that all share."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((categories, 8))

    def side(columns):
        rows = factors @ rng.standard_normal((8, columns)) + noise * rng.standard_normal((categories, columns))
        return unit(rows + shared * np.sqrt(8) * rng.standard_normal(columns))

    return side(text_width), side(width)


def photographs(seed, centers, count, noise):
    """`count` images of each center and one more without a label, in f16."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.append(np.repeat(np.arange(len(centers)), count), -1)).astype(np.int32)
    rows = centers[labels].repeat(VIEWS, axis=0)
    rows = unit(rows + noise / np.sqrt(rows.shape[1]) * rng.standard_normal(rows.shape))
    return rows.astype(np.float16), labels


tensors = {}
texts, head = spaces(1, 60, 12, 20, noise=0.5)
golden(tensors, "head", texts, head=3.0 * head, ridge=10.0)
texts, head = spaces(2, 43, 12, 9, noise=1.0)
golden(tensors, "chosen", texts, head=head)
texts, head = spaces(3, 30, 48, 16, noise=0.7, shared=2.0)
golden(tensors, "wide", texts, head=head)
texts, centers = spaces(4, 40, 16, 24, noise=0.6, shared=2.0)
golden(tensors, "cache", texts, images=photographs(5, centers, count=4, noise=0.5))
save_file(tensors, str(Path(__file__).parent / "align.safetensors"))
