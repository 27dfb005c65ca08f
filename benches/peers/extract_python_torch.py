"""The peer of `benches/peers/extract_python`: the teacher's embeddings of augmented views, the way it is usually done in Python.

    third_party/torch-venv/bin/python benches/peers/extract_python_torch.py --images DIR --teacher DIR --policy moco-v2
        --views 4 --batch 32 --threads 2 --out FILE.npy

PyTorch's DataLoader with two worker processes opens each file once with Pillow and draws its views with torchvision's transforms.
ONNX Runtime computes the embeddings in this process, which are normalized and saved as f16. Prints one JSON line. The clock
starts before the workers do and stops after the file is written; imports and the opening of the model are not counted.

What makes the peer fast: JPEG decoding by libjpeg-turbo, draft mode left off because views are cut from the whole image; one decoding
for all views of an image; batches collated in the workers; pixels normalized in place there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# PyTorch has its own environment; the other packages are in third_party/venv, for the same Python.
sys.path += [str(path) for path in (ROOT / "third_party/venv").glob("lib/python*/site-packages")]

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageFilter  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision import transforms as T  # noqa: E402

WORKERS = 2


class Blur:
    """MoCo-v2's Gaussian blur."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def transform(policy: str, image: dict) -> T.Compose:
    """The views of a policy, as normalized tensors."""
    crop = T.RandomResizedCrop(image["size"], scale=(0.2, 1.0), interpolation=T.InterpolationMode.BICUBIC)
    changes = [
        T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        T.RandomGrayscale(p=0.2),
        T.RandomApply([Blur()], p=0.5),
    ]
    end = [T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(image["mean"], image["std"], inplace=True)]
    return T.Compose([crop, *(changes if policy == "moco-v2" else []), *end])


class Views(Dataset):
    """`views` tensors per file."""

    def __init__(self, files: list[Path], views: int, change: T.Compose) -> None:
        self.files, self.views, self.change = files, views, change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        return torch.stack([self.change(image) for _ in range(self.views)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--images", "--teacher", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--policy", choices=["moco-v2", "crop-flip"], required=True)
    for name in ("--views", "--batch", "--threads"):
        parser.add_argument(name, type=int, required=True)
    args = parser.parse_args()
    settings = tomllib.loads((args.teacher / "teacher.toml").read_text())["image"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(args.teacher / settings["model"], options, providers=["CPUExecutionProvider"])
    files = sorted(args.images.iterdir())
    data = Views(files, args.views, transform(args.policy, settings))
    started = time.perf_counter()
    # A batch of the loader is a batch of the teacher.
    loader = DataLoader(data, batch_size=max(1, args.batch // args.views), num_workers=WORKERS)
    rows = []
    for batch in loader:
        pixels = batch.flatten(0, 1).numpy()
        [embeddings] = session.run([settings["output"]], {settings["input"]: pixels})
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        rows.append(embeddings.astype(np.float16))
    np.save(args.out, np.concatenate(rows))
    rate = len(files) / (time.perf_counter() - started)
    print(json.dumps({"images_per_second": rate, "rows": sum(map(len, rows))}))


if __name__ == "__main__":
    main()
