"""Fine-tunes torchvision's LR-ASPP segmenter on composed scenes, from a distilled and from an untrained ResNet-18.

    python finetune.py SETTINGS.json

Runs in PyTorch's environment. SETTINGS has the images of each class, the backbone's file, and the list of trials. Prints one JSON
line per trial. Both backbones have the same recipe: scenes, order of batches, head, optimizer, schedule and number of steps.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.lraspp import LRASPP

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transfer_parts.scenes import BACKGROUND, Scenes, compose  # noqa: E402

# Outputs of layer2 (stride 8, 128 channels) and layer4 (stride 16, 512 channels).
LEVELS = {"layer2": "low", "layer4": "high"}
CHANNELS = (128, 512)
BATCH = 32
WEIGHT_DECAY = 1e-2


def segmenter(weights: dict[str, torch.Tensor] | None, categories: int) -> nn.Module:
    """LR-ASPP on a ResNet-18, with the given weights of the backbone or its initial ones."""
    network = resnet18(weights=None)
    # LR-ASPP wants strides 8 and 16. The weights do not depend on the stride.
    for layer in (network.layer4[0].conv1, network.layer4[0].downsample[0]):
        layer.stride = (1, 1)
    backbone = IntermediateLayerGetter(network, LEVELS)
    # Initial weights are drawn in both cases, so that the head's are the same for a seed.
    model = LRASPP(backbone, *CHANNELS, num_classes=categories)
    if weights is not None:
        model.backbone.load_state_dict(weights, strict=True)
    return model.to(memory_format=torch.channels_last)


class Task:
    """Scenes for training and for measuring, normalized as the student's images were."""

    def __init__(self, settings: dict) -> None:
        with safe_open(settings["backbone"], "pt") as file:
            about = file.metadata()
            self.weights = {name: file.get_tensor(name) for name in file.keys()}
        self.mean, self.std = (torch.tensor(json.loads(about[f"lgd.{part}"])).view(1, 3, 1, 1) for part in ("mean", "std"))
        self.categories = len(settings["images"]["train"]) + 1
        self.settings = settings
        self.made: dict[tuple[str, int, int], Scenes] = {}

    def scenes(self, split: str, count: int, seed: int) -> Scenes:
        """Scenes of the images of a split."""
        key = (split, count, seed)
        if key not in self.made:
            self.made[key] = compose(self.settings["images"][split], count, seed)
        return self.made[key]

    def normalized(self, pixels: np.ndarray) -> torch.Tensor:
        """Input of the segmenter, f32 [N, 3, S, S]."""
        images = (torch.from_numpy(pixels).float() / 255 - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last)

    def run(self, trial: dict) -> dict:
        """Fine-tunes once and measures once."""
        torch.manual_seed(trial["seed"])
        started = time.monotonic()
        model = segmenter(self.weights if trial["backbone"] == "distilled" else None, self.categories)
        loss = self.fine_tune(model, trial)
        measured = self.scenes(trial["measured_on"], self.settings["measured"], 1_000)
        result = self.intersection_over_union(model, measured)
        return trial | result | {"last_loss": round(loss, 4), "seconds": round(time.monotonic() - started, 1)}

    def fine_tune(self, model: nn.Module, trial: dict) -> float:
        """Trains all weights by AdamW with a warm-up and a cosine schedule; returns the mean loss of the last epoch."""
        scenes = self.scenes("train", trial["scenes"], trial["seed"])
        random = np.random.default_rng(trial["seed"])
        steps = trial["epochs"] * (trial["scenes"] // BATCH)
        optimizer = torch.optim.AdamW(model.parameters(), trial["lr"], weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, trial["lr"], total_steps=steps, pct_start=0.1, cycle_momentum=False)
        model.train()
        for _ in range(trial["epochs"]):
            losses, order = [], random.permutation(trial["scenes"])
            for at in range(0, len(order) - BATCH + 1, BATCH):
                chosen = order[at : at + BATCH]
                images, masks = scenes.pixels[chosen], scenes.masks[chosen]
                mirrored = random.random(BATCH) < 0.5
                images[mirrored], masks[mirrored] = images[mirrored][..., ::-1], masks[mirrored][..., ::-1]
                scores = model(self.normalized(images))["out"]
                loss = nn.functional.cross_entropy(scores, torch.from_numpy(masks).long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
        return float(np.mean(losses))

    @torch.no_grad()
    def intersection_over_union(self, model: nn.Module, scenes: Scenes) -> dict:
        """Intersection over union in %, mean over the categories and per category; and of objects against background."""
        model.eval()
        counts = np.zeros((self.categories, self.categories), np.int64)
        for at in range(0, len(scenes.pixels), 100):
            found = model(self.normalized(scenes.pixels[at : at + 100]))["out"].argmax(1).numpy()
            pairs = scenes.masks[at : at + 100].astype(np.int64) * self.categories + found
            counts += np.bincount(pairs.ravel(), minlength=self.categories**2).reshape(counts.shape)
        inside = np.diag(counts)
        each = 100 * inside / (counts.sum(0) + counts.sum(1) - inside)
        objects = 100 * counts[1:, 1:].sum() / (counts.sum() - counts[BACKGROUND, BACKGROUND])
        return {"mean_iou": round(float(each[1:].mean()), 2), "iou": [round(float(one), 1) for one in each[1:]], "objects_iou": round(float(objects), 2)}


def main() -> int:
    """Run all trials."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(settings["threads"])
    task = Task(settings)
    for trial in settings["trials"]:
        print(json.dumps(task.run(trial)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
