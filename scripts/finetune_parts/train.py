"""Fine-tunes a student of torchvision's names on labeled images, once per seed.

    python train.py SETTINGS

Runs in PyTorch's environment; SETTINGS is JSON. Prints a JSON line per seed.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from safetensors import safe_open
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

BATCH, MOMENTUM, WEIGHT_DECAY = 64, 0.9, 5e-4
# The learning rate drops after a third and two thirds of the epochs.
DROPS, DROP = (1 / 3, 2 / 3), 0.1


@dataclass(frozen=True)
class Student:
    """Weights of a run, under torchvision's names."""

    architecture: str
    tensors: dict[str, torch.Tensor]
    normalize: transforms.Normalize

    @classmethod
    def read(cls, path: Path) -> Student:
        """Reads what `lgd export --layout torchvision` wrote. The projection is left out."""
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("head.")}
        mean, std = (json.loads(about[f"lgd.{part}"]) for part in ("mean", "std"))
        return cls(about["lgd.architecture"], tensors, transforms.Normalize(mean, std))

    def network(self, classes: int, start: str) -> nn.Module:
        """A network with a new classifier."""
        network = getattr(torchvision.models, self.architecture)(num_classes=classes)
        if start == "run":
            backbone = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(("fc.", "classifier."))}
            report = network.load_state_dict(backbone, strict=False)
            left = [name for name in report.missing_keys if not name.startswith(("fc.", "classifier."))]
            if left or report.unexpected_keys:
                raise SystemExit(f"weights of another network: {left} are missing, {report.unexpected_keys} are unknown")
        return network.to(memory_format=torch.channels_last)


def images(settings: dict, student: Student) -> tuple[ImageFolder, ImageFolder]:
    """Images to train on, and to measure on."""
    size, last = settings["size"], [transforms.ToTensor(), student.normalize]
    random = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *last])
    plain = transforms.Compose([transforms.Resize(size * 256 // 224), transforms.CenterCrop(size), *last])
    train, test = ImageFolder(settings["train"], random), ImageFolder(settings["test"], plain)
    if train.classes != test.classes:
        raise SystemExit(f"the classes differ: {sorted(set(train.classes) ^ set(test.classes))} are in one folder only")
    return train, test


def accuracy(network: nn.Module, test: ImageFolder, settings: dict) -> float:
    """Right predictions in %."""
    network.eval()
    right = 0
    with torch.no_grad():
        for pixels, labels in DataLoader(test, 256, num_workers=settings["threads"]):
            right += (network(pixels.to(settings["device"])).argmax(1).cpu() == labels).sum().item()
    return 100 * right / len(test)


def fine_tune(student: Student, settings: dict, seed: int) -> dict:
    """One run."""
    torch.manual_seed(seed)
    started = time.monotonic()
    train, test = images(settings, student)
    if len(train) < BATCH:
        raise SystemExit(f"{len(train)} images are less than a batch of {BATCH}")
    network = student.network(len(train.classes), settings["start"]).to(settings["device"])
    optimizer = torch.optim.SGD(network.parameters(), settings["lr"], MOMENTUM, weight_decay=WEIGHT_DECAY)
    drops = [round(settings["epochs"] * part) for part in DROPS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, DROP)
    batches = DataLoader(train, BATCH, shuffle=True, num_workers=settings["threads"], drop_last=True)
    for epoch in range(settings["epochs"]):
        network.train()
        for pixels, labels in batches:
            loss = nn.functional.cross_entropy(network(pixels.to(settings["device"])), labels.to(settings["device"]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        print(f"seed {seed}, epoch {epoch + 1} of {settings['epochs']}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    result = {"seed": seed, "student": student.architecture, "accuracy_percent": round(accuracy(network, test, settings), 2)}
    return result | {"images_trained": len(train), "images_measured": len(test), "seconds": round(time.monotonic() - started, 1)}


def main() -> int:
    """Run every seed."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    student = Student.read(Path(settings["weights"]))
    for seed in settings["seeds"]:
        print(json.dumps(fine_tune(student, settings, seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
