"""Writes the pooled feature before the last activation, from torchvision in f64: raw_pooled.safetensors.

    python raw_pooled.py

needs torch, torchvision, numpy and safetensors, and the student_*.safetensors of students.py, whose networks, weights and images these
are. KDEP's students are pooled before ReLU (ResNets: of the sum of the last block), ReLU6, hard-swish or SiLU;
mobilenet_v3_large_lgd gives what enters its last hard-swish, after the pool. For each network NAME:

    NAME.raw.*                  [batch, d], batch statistics
    NAME.gradient.TENSOR.*      of the sum of its product with spread(seed, "upstream", [batch, d], 1.0), for the first convolution, the
                                last one, and the last normalization

.* as in students.py.
"""

import torch
from make_goldens import HERE, spread, summary
from safetensors.numpy import load_file, save_file
from safetensors import safe_open
from students import NAMES, Student


def ends(student):
    """The module behind which the map is activated, and the parameters whose gradients are kept."""
    if student.name.startswith("resnet"):
        block = student.net.layer4[-1]
        last = 3 if hasattr(block, "conv3") else 2
        return block.relu, ["conv1.weight"] + [f"layer4.{len(student.net.layer4) - 1}.{key}" for key in
            (f"conv{last}.weight", f"bn{last}.weight", f"bn{last}.bias")]  # fmt: skip
    last = len(student.net.features) - 1
    names = [f"features.{last}.0.weight", f"features.{last}.1.weight", f"features.{last}.1.bias"]
    if student.name == "mobilenet_v3_large_lgd":
        return student.net.neck[1], ["features.0.0.weight", names[0], "neck.0.weight", "neck.0.bias"]
    return student.net.features[-1][2], ["features.0.0.weight", *names]


def main():
    fixture = {}
    for name in NAMES:
        path = HERE / f"student_{name}.safetensors"
        seed = int(safe_open(path, "numpy").metadata()["seed"])
        given = {key.removeprefix("given."): torch.from_numpy(value) for key, value in load_file(path).items() if key.startswith("given.")}
        student = Student(name, seed, torch.float64, given)
        activation, kept = ends(student)
        maps = []
        activation.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
        student.net.train()
        student.pooled(student.images)
        raw = maps[-1].mean((2, 3)) if maps[-1].dim() == 4 else maps[-1]
        (raw * spread(seed, "upstream", tuple(raw.shape), 1.0).double()).sum().backward()
        brief = lambda key, tensor: summary(seed, key, tensor, full=32, directions=4, picks=16)
        found = brief("raw", raw)
        gradients = student.learned()
        for key in kept:
            found |= brief(f"gradient.{key}", gradients[key].grad)
        fixture |= {f"{name}.{key}": value for key, value in found.items()}
        print(f"{name}: seed {seed}, raw {tuple(raw.shape)}, from {raw.min():.2f} to {raw.max():.2f}")
    path = HERE / "raw_pooled.safetensors"
    save_file(fixture, path)
    path.chmod(0o644)
    print(f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
