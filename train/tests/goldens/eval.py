"""Writes eval.json: kNN votes and a linear probe in numpy, float64, independent of our code but for the random streams.

Run: python eval.py > eval.json        (numpy 2.3)
"""

import json
import math

import numpy as np

MASK = (1 << 64) - 1
INCREMENT = 0x9E3779B97F4A7C15


def mix(value):
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


class Stream:
    """SplitMix64 from a folded key, as lgd_train::rng."""

    def __init__(self, key):
        self.state = 0
        for word in key:
            self.state = mix(((self.state + INCREMENT) & MASK) ^ mix((word + INCREMENT) & MASK))

    def next(self):
        self.state = (self.state + INCREMENT) & MASK
        return mix(self.state)

    def uniform(self):
        return (self.next() >> 11) / float(1 << 53)

    def normal(self):
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return radius * math.cos(math.tau * self.uniform())

    def shuffled(self, count):
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            other = (self.next() * (last + 1)) >> 64
            order[last], order[other] = order[other], order[last]
        return order


def purpose(text):
    return int.from_bytes(text.encode(), "little")


def knn(train, labels, test, k, temperature):
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    test = test / np.linalg.norm(test, axis=1, keepdims=True)
    predicted = []
    for similarities in test @ train.T:
        nearest = np.argsort(-similarities, kind="stable")[:k]
        votes = np.zeros(labels.max() + 1)
        np.add.at(votes, labels[nearest], np.exp(similarities[nearest] / temperature))
        predicted.append(int(votes.argmax()))
    return predicted


def probe(train, labels, test, rate, l2, epochs, batch, momentum, deviation, seed):
    mean, std = train.mean(0), train.std(0)
    scale = 1 / (std * math.sqrt(train.shape[1]))
    train, test = (train - mean) * scale, (test - mean) * scale
    classes, d = labels.max() + 1, train.shape[1]
    stream = Stream([purpose("probe w."), seed])
    weight = np.array([[stream.normal() * deviation for _ in range(classes)] for _ in range(d)])
    bias, weight_v, bias_v = np.zeros(classes), np.zeros((d, classes)), np.zeros(classes)
    batch = min(batch, len(train))
    for epoch in range(epochs):
        factor = 0.01 if epoch * 10 >= epochs * 8 else 0.1 if epoch * 10 >= epochs * 6 else 1.0
        lr = rate * factor * batch / 256
        order = Stream([purpose("probe o."), seed, epoch]).shuffled(len(train))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            logits = train[rows] @ weight + bias
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(rows)), labels[rows]] -= 1
            p /= len(rows)
            weight_v = momentum * weight_v + train[rows].T @ p + l2 * weight
            bias_v = momentum * bias_v + p.sum(0)
            weight -= lr * weight_v
            bias -= lr * bias_v
    return (test @ weight + bias).argmax(1).tolist(), weight, bias


def main():
    generator = np.random.default_rng(20240617)
    classes, d = 4, 6
    centers = generator.normal(size=(classes, d))
    labels = generator.integers(0, classes, 60)
    truth = generator.integers(0, classes, 40)
    train = (centers[labels] + generator.normal(size=(60, d))).astype(np.float32)
    test = (centers[truth] + generator.normal(size=(40, d))).astype(np.float32)
    wide = [x.astype(np.float64) for x in (train, test)]
    settings = {"rate": 10.0, "l2": 0.0, "epochs": 20, "batch": 16, "momentum": 0.9, "deviation": 0.01, "seed": 5}
    probes = []
    for l2 in (0.0, 0.01):
        settings["l2"] = l2
        predicted, weight, bias = probe(wide[0], labels, wide[1], **settings)
        probes.append({**settings, "predicted": predicted, "weight": weight.ravel().tolist(), "bias": bias.tolist()})
    print(
        json.dumps(
            {
                "width": d,
                "train": train.ravel().tolist(),
                "labels": labels.tolist(),
                "test": test.ravel().tolist(),
                "truth": truth.tolist(),
                "knn": [
                    {"k": k, "temperature": t, "predicted": knn(wide[0], labels, wide[1], k, t)}
                    for k, t in [(1, 0.07), (5, 0.07), (20, 0.07), (20, 10.0)]
                ],
                "probes": probes,
            }
        )
    )


main()
