"""Loads the layouts of `lgd export --layout` in their frameworks and compares the features with the ONNX file's.

    python layouts.py LGD SCRATCH IMAGES RUN...

Runs in the environment of scripts/converters, with torch, torchvision, timm and transformers. IMAGES: a folder of the runs' images.
Noise in their place would not do: a network that was trained for five steps makes huge features of it, and small rounding errors large.
Prints one line per run and framework. MMDetection and detectron2 are not installed from the registry; tests compare their names
(train/tests/goldens/layouts).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision import models
from torchvision.models import detection, segmentation
from torchvision.ops import FrozenBatchNorm2d

TOLERANCE = 1e-4
Export = Callable[..., Path]


def pooled(maps: torch.Tensor) -> np.ndarray:
    """The mean over the positions of [N, C, H, W]."""
    return maps.mean((2, 3)).numpy()


def torchvision_model(export: Export, name: str, images: torch.Tensor) -> np.ndarray | None:
    """A classification model from a .pth file, as torch.load reads it without running code."""
    if name.endswith("_lgd"):
        return None
    state = torch.load(export("torchvision", "--format", "pth", suffix=".pth"), weights_only=True)
    model = getattr(models, name)(weights=None)
    head = "fc" if name.startswith("resnet") else "classifier"
    setattr(model, head, nn.Identity())
    model.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")}, strict=True)
    return model.eval()(images).numpy()


def body(name: str) -> nn.Module:
    """What a detector makes of a classification model."""
    model = getattr(models, name)(weights=None)
    if not name.startswith("resnet"):
        return model.features
    layers = OrderedDict(model.named_children())
    return nn.Sequential(OrderedDict((key, layer) for key, layer in layers.items() if key not in ("avgpool", "fc")))


def detectors(export: Export, name: str, images: torch.Tensor) -> np.ndarray | None:
    """The bodies of detectors and segmenters, by their own constructors."""
    if name.endswith("_lgd"):
        return None
    state = load_file(export("torchvision-body"))
    plain = {"weights": None, "weights_backbone": None}
    built = {
        "resnet50": [
            detection.fasterrcnn_resnet50_fpn(**plain).backbone.body,
            detection.retinanet_resnet50_fpn(**plain).backbone.body,
            segmentation.deeplabv3_resnet50(**plain).backbone,
        ],
        "mobilenet_v3_large": [
            detection.fasterrcnn_mobilenet_v3_large_fpn(**plain).backbone.body,
            segmentation.lraspp_mobilenet_v3_large(**plain).backbone,
        ],
    }
    if name not in built:
        built[name] = [body(name)]
    found = []
    for network in built[name]:
        network.load_state_dict(state, strict=True)
        for layer in network.modules():
            # torchvision builds this detector with another eps than the network that its own weights come from.
            if name == "mobilenet_v3_large" and isinstance(layer, (nn.BatchNorm2d, FrozenBatchNorm2d)):
                layer.eps = 1e-3
        maps = network.eval()(images)
        # Segmenters dilate their last stages, so that only the finest maps can be compared with a plain network's.
        maps = list(maps.values())[-1] if isinstance(maps, dict) else maps
        if maps.shape[-1] == images.shape[-1] // 32:
            found.append(pooled(maps))
    for other in found[1:]:
        assert np.allclose(found[0], other, atol=TOLERANCE)
    return found[0]


def ssdlite(export: Export, name: str, images: torch.Tensor) -> np.ndarray | None:
    """SSDLite's extractor, built on a backbone with our weights."""
    if name != "mobilenet_v3_large":
        return None
    from torchvision.models.detection.ssdlite import _mobilenet_extractor

    backbone = models.mobilenet_v3_large(weights=None)
    backbone.features.load_state_dict(load_file(export("torchvision-body")), strict=True)
    extractor = _mobilenet_extractor(backbone, 6, lambda channels: nn.BatchNorm2d(channels, eps=1e-3))
    return pooled(list(extractor.eval()(images).values())[1])


def timm(export: Export, name: str, images: torch.Tensor) -> np.ndarray | None:
    if name == "mobilenet_v3_large_lgd":
        return None
    import timm

    model = timm.create_model(f"local-dir:{export('timm', suffix='')}", pretrained=True).eval()
    return pooled(model.forward_features(images))


def transformers(export: Export, name: str, images: torch.Tensor) -> np.ndarray | None:
    if name.startswith(("mobilenet_v3_large", "efficientnet_b0")):
        return None
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(export("huggingface", suffix=""), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    return model.eval()(images).pooler_output.flatten(1).numpy()


def candle(export: Export, name: str, images: torch.Tensor) -> np.ndarray | None:
    if not name.startswith("resnet"):
        return None
    weights = export("candle")
    given, out = weights.with_suffix(".images"), weights.with_suffix(".features")
    images.numpy().astype("<f4").tofile(given)
    manifest = Path(__file__).parent / "candle/Cargo.toml"
    cargo = ["cargo", "run", "--quiet", "--release", "--manifest-path", manifest, "--target-dir", weights.parent / "target"]
    subprocess.run([*cargo, "--", name, weights, given, str(images.shape[-1]), out], check=True)
    return np.fromfile(out, "<f4").reshape(len(images), -1)


def pixels(folder: Path, size: int) -> torch.Tensor:
    """Two images, f32 [2, 3, size, size] between 0 and 1."""
    files = sorted(folder.glob("*/*.png"))
    images = [Image.open(file).convert("RGB").resize((size, size)) for file in (files[0], files[-1])]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


FRAMEWORKS = {
    "torchvision": torchvision_model,
    "torchvision's detectors and segmenters": detectors,
    "torchvision's SSDLite": ssdlite,
    "timm": timm,
    "transformers": transformers,
    "candle-transformers": candle,
}


def main() -> int:
    """Export, load and compare; 1 if anything differs."""
    lgd, scratch, folder = (Path(argument).resolve() for argument in sys.argv[1:4])
    runs = sys.argv[4:]
    torch.set_grad_enabled(False)
    problems = 0
    for run in runs:
        name = json.loads((Path(run) / "run.json").read_text())["config"]["student"]

        def export(layout: str, *flags: str, suffix: str = ".safetensors") -> Path:
            out = scratch / f"{Path(run).name}-{layout}{suffix}"
            call = [lgd, "export", "--run", run, "--layout", layout, *flags, "--out", out, "--overwrite"]
            subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
            return out

        onnx = scratch / f"{Path(run).name}.onnx"
        subprocess.run([lgd, "export", "--run", run, "--out", onnx, "--overwrite"], check=True, stdout=subprocess.DEVNULL)
        session = onnxruntime.InferenceSession(onnx)
        metadata = session.get_modelmeta().custom_metadata_map
        size = int(metadata["lgd.size"])
        images = pixels(folder, size)
        (expected,) = session.run(["feature"], {"images": images.numpy()})
        mean, std = (torch.tensor(json.loads(metadata[key])).view(3, 1, 1) for key in ("lgd.mean", "lgd.std"))
        for framework, feature in FRAMEWORKS.items():
            try:
                found = feature(export, name, (images - mean) / std)
            except Exception as error:  # noqa: BLE001 - a framework may raise anything; the next one is still tried
                difference = f"{type(error).__name__}: {error}"
            else:
                if found is None:
                    continue
                error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
                difference = "" if error < TOLERANCE else f"the feature is off by {error:.1e}"
            problems += bool(difference)
            print(f"{Path(run).name}: {framework}: {difference or 'the same'}", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
