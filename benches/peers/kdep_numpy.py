"""Computes what `lgd bank --target kdep` computes, as fast as numpy can.

    third_party/venv/bin/python benches/peers/kdep_numpy.py --features X.npy --dim 512 --out DIR

X is [N, F] f16 and is memory-mapped. Writes targets [N, d] f16 and the projection as .npy into DIR, and prints one JSON line
with the seconds of each stage.

What makes numpy fast here:
- Chunks of rows, so that memory does not grow with N. Each thread processes one chunk at a time, with a single-threaded BLAS
  and its own buffers, because numpy's own loops (conversion, roots) use one thread.
- `chunk.T @ chunk` is a symmetric rank-k update in numpy: half the multiplications of a product. It is computed in f64,
  because the covariance is a difference of large sums.
- Eigenvectors by `numpy.linalg.eigh` (LAPACK's divide and conquer), with a BLAS on all threads.
- The projection in f32. The cube root by `numpy.cbrt`, which is faster than `power` and keeps the sign; other powers by `power`
  of the magnitude and `copysign`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# An environment variable that forces an older kernel would slow numpy down. The kernel is chosen when numpy
# is imported, so the program restarts itself without these variables.
FORCED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
if any(name in os.environ for name in FORCED):
    clean = {name: value for name, value in os.environ.items() if name not in FORCED}
    os.execve(sys.executable, [sys.executable, *sys.argv], clean)

import numpy as np  # noqa: E402
from threadpoolctl import threadpool_info, threadpool_limits  # noqa: E402


class Worker:
    """The buffers and sums of one thread."""

    def __init__(self, features: np.ndarray, chunk: int) -> None:
        width = features.shape[1]
        self.features = features
        self.wide = np.empty((chunk, width))
        self.narrow = np.empty((chunk, width), np.float32)
        self.sum = np.zeros(width)
        self.products = np.zeros((width, width))
        self.squares = 0.0

    def add(self, begin: int, end: int) -> None:
        """First pass: sums of rows begin..end."""
        rows = self.wide[: end - begin]
        np.copyto(rows, self.features[begin:end])
        self.sum += rows.sum(axis=0)
        self.products += rows.T @ rows

    def project(self, begin: int, end: int, task: Task) -> None:
        """Second pass: targets of rows begin..end."""
        rows = self.narrow[: end - begin]
        np.copyto(rows, self.features[begin:end])
        rows -= task.mean
        projected = rows @ task.components.T
        projected *= np.float32(1 / task.temperature)
        if task.power == 3:
            np.cbrt(projected, out=projected)
        else:
            magnitude = np.abs(projected) ** np.float32(1 / task.power)
            np.copysign(magnitude, projected, out=projected)
        targets = projected.astype(np.float16)
        if not np.isfinite(targets).all():
            raise OverflowError(f"a target of rows {begin}..{end} does not fit f16")
        self.squares += float(np.einsum("ij,ij->", projected, projected))
        task.targets[begin:end] = targets


class Task:
    """Inputs of the second pass."""

    def __init__(self, args: argparse.Namespace, rows: int) -> None:
        self.temperature = args.temperature
        self.power = args.power
        self.mean = np.zeros(0, np.float32)
        self.components = np.zeros((0, 0), np.float32)
        shape = (rows, args.dim)
        self.targets = np.lib.format.open_memmap(args.out / "targets.npy", mode="w+", dtype=np.float16, shape=shape)


def axes(workers: list[Worker], rows: int, dim: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, components and the share of the variance that they keep."""
    mean = sum(worker.sum for worker in workers) / rows
    covariance = sum(worker.products for worker in workers) / rows - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    components = vectors[:, ::-1][:, :dim].T
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    components = components * np.sign(largest)
    return mean.astype(np.float32), components.astype(np.float32), float(values[::-1][:dim].sum() / np.trace(covariance))


def over_chunks(pool: ThreadPoolExecutor, workers: list[Worker], rows: int, chunk: int, work: Callable[..., None]) -> None:
    """Give each chunk to the next free worker."""
    pending, lock = iter(range(0, rows, chunk)), threading.Lock()

    def drain(worker: Worker) -> None:
        while True:
            with lock:
                begin = next(pending, None)
            if begin is None:
                return
            work(worker, begin, min(begin + chunk, rows))

    for done in [pool.submit(drain, worker) for worker in workers]:
        done.result()


def main() -> None:
    """Two passes over the features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="[N, F] f16")
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--power", type=float, default=3.0)
    parser.add_argument("--chunk", type=int, default=2048, help="rows per chunk")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    features = np.load(args.features, mmap_mode="r")
    rows = len(features)
    task = Task(args, rows)
    workers = [Worker(features, args.chunk) for _ in range(args.threads)]
    with ThreadPoolExecutor(args.threads) as pool:
        with threadpool_limits(1):
            over_chunks(pool, workers, rows, args.chunk, Worker.add)
        summed = time.perf_counter()
        with threadpool_limits(args.threads):
            task.mean, task.components, explained = axes(workers, rows, args.dim)
        fitted = time.perf_counter()
        with threadpool_limits(1):
            over_chunks(pool, workers, rows, args.chunk, lambda worker, begin, end: worker.project(begin, end, task))
    np.save(args.out / "mean.npy", task.mean)
    np.save(args.out / "components.npy", task.components)
    end = time.perf_counter()
    report = {
        "peer": "numpy " + np.__version__,
        "rows": rows,
        "width": features.shape[1],
        "dim": args.dim,
        "threads": args.threads,
        "chunk": args.chunk,
        "blas": [(blas["architecture"], blas["num_threads"]) for blas in threadpool_info()],
        "seconds": round(end - start, 4),
        "stages": {
            "sums": round(summed - start, 4),
            "axes": round(fitted - summed, 4),
            "targets": round(end - fitted, 4),
        },
        "explained_variance": explained,
        "rms": (sum(worker.squares for worker in workers) / (rows * args.dim)) ** 0.5,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
