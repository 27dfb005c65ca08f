"""Writes files of initial weights as PyTorch and timm write them, and what they hold.

    python make.py

needs torch, torchvision, timm and safetensors.

- names.json: for each student that timm has, its tensors in timm's order: [timm's name, timm's shape, torchvision's name]. Both networks are
  run with the same weights (and one epsilon of the normalizations) and must agree, which proves the pairs.
- *.pth, *.pt: what torch.save wrote, in several forms. tensors.safetensors: the values of those that are state dictionaries,
  in f32.
- refused-*: files that hold something else. The pickle in refused-code.pth would create the file CODE_RAN beside itself.
"""

import argparse
import collections
import json
import os
import sys
from pathlib import Path

import timm
import torch
import torchvision
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from students import published  # noqa: E402

HERE = Path(__file__).parent
PAIRS = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_b0_lgd": "tf_efficientnet_b0",
}


def names():
    found = {}
    for ours, theirs in PAIRS.items():
        torch.manual_seed(0)
        source = timm.create_model(theirs, pretrained=False).eval()
        target = published(ours, 1000) if ours.endswith("_lgd") else getattr(torchvision.models, ours)(weights=None)
        target.eval()
        for module in [*source.modules(), *target.modules()]:
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-5
        for name, value in source.state_dict().items():
            if name.endswith("running_mean"):
                value.uniform_(-0.1, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.8, 1.2)
        given, wanted = source.state_dict(), target.state_dict()
        assert len(given) == len(wanted), ours
        pairs, state = [], {}
        for (name, value), (other, like) in zip(given.items(), wanted.items()):
            assert value.numel() == like.numel() and value.shape[: like.dim()] == like.shape, (name, other)
            state[other] = value.reshape(like.shape)
            if not name.endswith("num_batches_tracked"):
                pairs.append([name, list(value.shape), other])
        target.load_state_dict(state)
        images = torch.rand(2, 3, 96, 96)
        with torch.no_grad():
            difference = (source(images) - target(images)).abs().max() / target(images).abs().max()
        print(ours, f"{len(pairs)} tensors, relative difference {difference:.1e}")
        assert difference < 1e-4, ours
        found[ours] = pairs
    (HERE / "names.json").write_text(json.dumps(found, separators=(",", ":")).replace("]],", "]],\n") + "\n")


class Code:
    """Runs a command when it is unpickled by pickle.load."""

    def __reduce__(self):
        return os.system, ("touch CODE_RAN",)


def files():
    torch.manual_seed(1)
    base = torch.arange(24, dtype=torch.float32) / 8
    tensors = collections.OrderedDict(
        plain=torch.randn(3, 4),
        half=torch.randn(5).half(),
        brain=torch.randn(5).bfloat16(),
        double=torch.randn(2, 2, dtype=torch.float64),
        transposed=torch.randn(3, 5).t(),
        part=base[6:18].view(3, 4),
        stepped=base[::3],
        scalar=torch.tensor(2.5),
        parameter=torch.nn.Parameter(torch.randn(4)),
        empty=torch.zeros(0, 3),
    )
    state = collections.OrderedDict(tensors, **{"bn.num_batches_tracked": torch.tensor(7)})
    save_file({name: value.detach().float().contiguous() for name, value in tensors.items()}, HERE / "tensors.safetensors")
    save = lambda value, name, **options: torch.save(value, HERE / name, **options)  # noqa: E731
    save(state, "plain.pth")
    save(dict(state), "dictionary.pt", pickle_protocol=4)
    save(state, "legacy.pth", _use_new_zipfile_serialization=False)
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]}
    nested = {"epoch": 3, "arch": "resnet18", "best": 71.5, "args": argparse.Namespace(lr=0.1, tags={"a", "b"}), "optimizer": optimizer}
    save({**nested, "state_dict": state}, "checkpoint.pth")
    save({"model": {"state_dict": state}, "big": 2**70, "none": None}, "deeper.pth")
    save({**nested, "model": state, "model_ema": state}, "ema.pth")
    save({"student": state, "teacher": state}, "refused-two.pth")
    save({"epoch": 3}, "refused-empty.pth")
    save(torch.nn.Linear(2, 2), "refused-module.pth")
    save({"weight": Code()}, "refused-code.pth")
    save({"weight": torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)}, "refused-quantized.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), HERE / "refused-script.pt")
    whole = (HERE / "plain.pth").read_bytes()
    (HERE / "refused-cut.pth").write_bytes(whole[: len(whole) // 2])


if __name__ == "__main__":
    files()
    names()
