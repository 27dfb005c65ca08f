"""timm models: `save_for_hf`'s config.json, and the ONNX file of timm's own exporter."""

import functools
import tempfile
import unittest.mock
from pathlib import Path

import numpy as np
import torch

import photographs
from common import fresh, randomize, run, spread, without_traces, write


def settle(model, batch):
    """Running statistics of batch normalizations, from the photographs."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None
            norm.bias.data += 1.3  # Mostly above 0: a deep random network without this answers to rounding.
            norm.reset_running_stats()
        with torch.no_grad():
            model.train()(batch)
            for norm in norms:  # Channels that hardly vary would amplify rounding.
                norm.running_var.clamp_(min=0.3 * norm.running_var.mean())
    return model.eval()


def timm_family(family, create, size, expect, last_bias=None, dynamo=False, pretrained_cfg=None, **small):
    """A small model with the preprocessing of its pretrained tag, at `size` px, without its classifier.

    create: an architecture's name, or a function that builds the model.
    """
    import timm
    from timm.utils.onnx import onnx_export

    folder = fresh(family)
    overlay = {"input_size": (3, size, size), **(pretrained_cfg or {})}
    if isinstance(create, str):
        create = functools.partial(timm.create_model, create)
    model = randomize(create(num_classes=0, pretrained_cfg_overlay=overlay, **small), 5)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config)
    pixels = [transform(image).numpy() for image in photographs.read()]
    batch = torch.as_tensor(np.stack(pixels))
    settle(model, batch)
    if last_bias:
        with torch.no_grad():
            spread(model.get_parameter(last_bias), model(batch))
    with tempfile.TemporaryDirectory() as saved:
        timm.models.save_for_hf(model, saved, safe_serialization=True)
        (folder / "config.json").write_text(Path(saved, "config.json").read_text())
    onnx_export(model, str(folder / "model.onnx"), batch_size=2, input_size=(3, size, size), use_dynamo=dynamo,
                **({"external_data": True} if dynamo else {}))
    without_traces(folder / "model.onnx")
    mean, std = list(config["mean"]), list(config["std"])
    input_name = session_input(folder / "model.onnx")
    image = {"pixels": pixels, "mean": mean, "std": std,
             "embed": lambda rows: run(folder / "model.onnx", {input_name: rows}, None)}
    print("   ", config, "\n   ", transform)
    write(family, f"timm {timm.__version__}", {"size": size, "mean": mean, "std": std, **expect}, image)


def session_input(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].name


VIT = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}


def vit():
    timm_family("timm-vit", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", 48, {"mode": "shortest", "resize": 53, "offset": "half-even", "resample": "bicubic"},
                "norm.bias", img_size=48, mlp_ratio=1.5, **VIT)


def convnext():
    timm_family("timm-convnext", "convnext_atto.d2_in1k", 64, {"mode": "shortest", "resize": 67, "offset": "half-even", "resample": "bicubic"},
                "head.norm.bias", depths=(1, 1, 1, 1), dims=(8, 12, 16, 32), pretrained_cfg={"crop_pct": 0.95})


def resnet():
    timm_family("timm-resnet", "resnet18.tv_in1k", 64, {"mode": "shortest", "resize": 73, "offset": "half-even", "resample": "bilinear"}, dynamo=True,
                layers=(1, 1, 1, 1), channels=(8, 8, 12, 16), stem_width=8)


def mobilenetv4():
    from timm.models import mobilenetv3

    def create(**arguments):
        # The registered entry points fix the number of channels, and all of them that of the features, at 1280.
        original = mobilenetv3._create_mnv3
        narrow = lambda variant, pretrained=False, **all: original(variant, pretrained, **{**all, "num_features": 32})
        with unittest.mock.patch.object(mobilenetv3, "_create_mnv3", narrow):
            return mobilenetv3._gen_mobilenet_v4("mobilenetv4_conv_small", 0.05, **arguments)

    timm_family("timm-mobilenetv4", create, 64, {"mode": "shortest", "resize": 73, "offset": "half-even", "resample": "bicubic"})


def eva():
    # Only the dynamo exporter takes EVA's attention.
    timm_family("timm-eva02", "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", 48,
                {"mode": "squash", "resize": 48, "offset": "half-even", "resample": "bicubic"}, "fc_norm.bias", dynamo=True, img_size=48, mlp_ratio=1.5, **VIT)


FAMILIES = {"timm-vit": vit, "timm-convnext": convnext, "timm-resnet": resnet, "timm-mobilenetv4": mobilenetv4, "timm-eva02": eva}
