"""Writes names.json: the tensors of the networks into which `lgd export --layout` writes, as their frameworks name them.

    pip install torch torchvision transformers mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7 fvcore iopath
    PYTHONPATH=DETECTRON2 python train/tests/goldens/layouts/make.py

DETECTRON2 is a checkout of github.com/facebookresearch/detectron2; its compiled part is not needed. `names.json` maps a
layout, then torchvision's name of the backbone, to {name of a tensor: shape}. Counters of batches are left out: PyTorch
fills them. A network that a framework cannot be built without its compiled operators is built with stand-ins for those,
which no backbone uses.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from torch import nn

RESNETS = {"resnet18": 18, "resnet34": 34, "resnet50": 50}
CLASSES = 10


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """The tensors of a network, by name."""
    tensors = module.state_dict().items()
    return {name: list(tensor.shape) for name, tensor in tensors if not name.endswith("num_batches_tracked")}


def torchvision_body() -> Iterator[tuple[str, nn.Module]]:
    """Bodies of detectors, and backbones of segmenters."""
    from torchvision.models import detection, segmentation
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

    for name in RESNETS:
        yield name, resnet_fpn_backbone(backbone_name=name, weights=None).body
    for name in ("mobilenet_v2", "mobilenet_v3_large"):
        backbone = mobilenet_backbone(backbone_name=name, weights=None, fpn=True)
        yield name, backbone.body
    yield "resnet50", detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).backbone.body
    yield "resnet50", detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None).backbone.body
    yield "resnet50", segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None).backbone
    lraspp = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    assert isinstance(lraspp.backbone, IntermediateLayerGetter)
    yield "mobilenet_v3_large", lraspp.backbone


def huggingface(classes: int | None) -> Iterator[tuple[str, nn.Module]]:
    """transformers' networks, alone or as a classifier."""
    from transformers import (
        MobileNetV2Config, MobileNetV2ForImageClassification, MobileNetV2Model,
        ResNetConfig, ResNetForImageClassification, ResNetModel,
    )

    resnet, mobile = (ResNetModel, MobileNetV2Model)
    if classes is not None:
        resnet, mobile = (ResNetForImageClassification, MobileNetV2ForImageClassification)
    for name, depths in {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3], "resnet50": [3, 4, 6, 3]}.items():
        basic = {"hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"} if name != "resnet50" else {}
        yield name, resnet(ResNetConfig(depths=depths, num_labels=classes or 2, **basic))
    yield "mobilenet_v2", mobile(MobileNetV2Config(num_labels=classes or 2))


class StandIn(types.ModuleType):
    """A module of which every attribute is an empty class."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for every module below `package`."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name == self.package or name.startswith(f"{self.package}."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


def mmdet() -> Iterator[tuple[str, nn.Module]]:
    """MMDetection's backbones."""
    sys.meta_path.insert(0, StandIns("mmcv.ops"))
    from mmdet.models.backbones import MobileNetV2, ResNet

    for name, depth in RESNETS.items():
        yield name, ResNet(depth=depth, style="pytorch")
    yield "mobilenet_v2", MobileNetV2()


def detectron2() -> Iterator[tuple[str, nn.Module]]:
    """detectron2's backbones."""
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    for name, depth in RESNETS.items():
        cfg = get_cfg()
        cfg.MODEL.RESNETS.DEPTH = depth
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
        if depth == 50:
            cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
        else:
            cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        yield name, build_resnet_backbone(cfg, ShapeSpec(channels=3))


def main() -> None:
    """Write the file."""
    layouts = {
        "torchvision-body": torchvision_body(),
        "huggingface": huggingface(None),
        "huggingface-classifier": huggingface(CLASSES),
        "mmdet": mmdet(),
        "detectron2": detectron2(),
    }
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    for layout, networks in layouts.items():
        for architecture, network in networks:
            tensors = found.setdefault(layout, {}).setdefault(architecture, shapes(network))
            # Every detector and segmenter has the same body, but the finest maps are left out of some.
            assert tensors == shapes(network), (layout, architecture)
    path = Path(__file__).parent / "names.json"
    path.write_text(json.dumps(found, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main()
