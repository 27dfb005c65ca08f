"""What all families share: random weights that answer to their input, and the writing and checking of goldens.

    fixtures/FAMILY/teacher/        the folder as the tool wrote it
    fixtures/FAMILY/manifest.json   the tool, its version, and the values that its own code resolves
    fixtures/FAMILY/goldens.json    embeddings of photos/ and of prompts.json, token ids
    fixtures/FAMILY/pixels-NN.png   the processor's pixels of three photographs, before normalization
"""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image

import photographs
from prompts import PROMPTS

FIXTURES = Path(__file__).parent / "fixtures"
# Photographs whose pixels are kept: PNG files, since decoders of JPEG differ by more than resizers do.
KEPT = (1, 5)

IMAGE_KEYS = ("size", "mode", "resize", "offset", "mean", "std", "resample", "image_output", "image_pooling")

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def fresh(family):
    """The empty teacher folder of a family."""
    shutil.rmtree(FIXTURES / family, ignore_errors=True)
    folder = FIXTURES / family / "teacher"
    folder.mkdir(parents=True)
    return folder


def without_traces(path):
    """Removes the Python stack of each node, which the dynamo exporter writes and which is most of a small file."""
    model = onnx.load(path, load_external_data=False)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
    onnx.save(model, path)


@torch.no_grad()
def randomize(model, seed=0, gain=1.0):
    """Random weights under which the output varies with the input, as an initialization for training does not.

    Kernels over pixels are smooth: a trained model does not answer to noise of one level either.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 0:
            continue  # logit scales and biases
        if parameter.dim() == 1:
            is_scale = bool((parameter == 1).all())
            parameter.copy_(1 + 0.1 * noise if is_scale else 0.1 * noise)
        elif parameter.dim() == 3:
            parameter.copy_(0.3 * noise)  # class tokens and positions
        else:
            side = parameter.shape[-1]
            if parameter.dim() == 4 and side > 1:
                cells = max(1 + (side > 3), side // 8)
                coarse = noise[..., :cells, :cells]
                noise = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
                if parameter.shape[1] == 3 and cells > 1:  # More for contrast than for color, which decoders of JPEG shift.
                    noise = noise - 0.7 * noise.mean((2, 3), keepdim=True)
                    noise = noise / noise.std()
            parameter.copy_(noise * gain / parameter[0].numel() ** 0.5)
    return model.eval()


@torch.no_grad()
def spread(parameter, outputs, common=1.5):
    """Takes from a last layer what all `outputs` [N, D] have in common, except `common` times the length of their differences.

    parameter: a bias [D], or a projection's weight [D, in].
    """
    outputs = torch.as_tensor(outputs)
    mean = outputs.mean(0)
    share = 1 - min(1, float(common * (outputs - mean).norm(dim=1).mean() / mean.norm()))
    if parameter.dim() == 1:
        parameter -= share * mean
    else:
        parameter -= share * torch.outer(mean, mean @ parameter) / (mean @ mean)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosines(a, b):
    return (unit(a) * unit(b)).sum(-1)


def run(path, feeds, output):
    """One output of an ONNX file. A list of the feeds' rows is given in one batch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([output] if output else None, feeds)[0]


def levels(pixels, mean, std):
    """u8 levels of normalized pixels `[3, S, S]`, as `[S, S, 3]`, not rounded."""
    mean, std = np.array(mean)[:, None, None], np.array(std)[:, None, None]
    return ((np.asarray(pixels, np.float64) * std + mean) * 255).transpose(1, 2, 0)


def other_views(image, size):
    """What a wrong geometry would see."""
    def cover(to):
        scale = to / min(image.size)
        resized = image.resize([max(to, round(side * scale)) for side in image.size], Image.BICUBIC)
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        return resized.crop((left, top, left + size, top + size))
    return {"squash": image.resize((size, size), Image.BICUBIC), "shortest": cover(size), "0.875": cover(int(size / 0.875))}


def check_power(images, pixels, embed, mean, std):
    """Asserts that a wrong geometry or normalization shows, and that one level of noise does not."""
    right = embed(np.stack(pixels))
    size = pixels[0].shape[-1]
    mean3, std3 = np.array(mean)[:, None, None], np.array(std)[:, None, None]
    report = {}
    for name in other_views(images[0], size):
        views = [np.asarray(other_views(image, size)[name], np.float32) / 255 for image in images]
        views = np.stack([(view.transpose(2, 0, 1) - mean3) / std3 for view in views]).astype(np.float32)
        distance = np.abs(np.stack(pixels) - views).mean() * np.mean(std) * 255
        report[name] = (round(float(distance), 1), int((cosines(right, embed(views)) < 0.999).sum()))
    other_norm = np.stack([(levels(p, mean, std).transpose(2, 0, 1) / 255 - 0.45) / 0.35 for p in pixels]).astype(np.float32)
    report["normalization"] = (99.0, int((cosines(right, embed(other_norm)) < 0.999).sum()))
    # Another decoder's chroma may be off by half a level everywhere, and by more at edges.
    noise = np.random.default_rng(0).choice([-1, 0, 1], np.stack(pixels).shape) + np.array([0.35, -0.26, 0.43])[:, None, None]
    noise = noise / 255 / std3
    noisy = cosines(right, embed((np.stack(pixels) + noise).astype(np.float32)))
    common = unit(right) @ unit(right).T
    print("   wrong views (levels apart, photographs that show it):", report, f"noise {noisy.min():.6f} common {common.mean():.2f}")
    for name, (distance, shown) in report.items():
        needed = 0 if distance < 4 else 8 if distance < 10 else 12
        assert shown >= needed, f"{name}: only {shown} of 20 photographs show it"
    assert noisy.min() > 0.9995, f"one level of noise: {noisy.min()}"


def rounded(rows):
    return [[float(f"{value:.6g}") for value in row] for row in np.asarray(rows, np.float64)]


def write(family, tool, expect, image=None, text=None):
    """Writes the goldens of a family.

    expect: what the tool resolves; the keys of IMAGE_KEYS are the image's, text_refused is a word of the refusal where prompts
    cannot be read, and the others are the text's.
    image: {"pixels": 20 arrays [3, S, S], "embed": function of a batch, "mean", "std"}
    text: {"ids": 20 lists, "embeddings": [20, D]}
    """
    folder = FIXTURES / family
    goldens = {}
    if image:
        pixels = [np.asarray(p, np.float32) for p in image["pixels"]]
        check_power(photographs.read(), pixels, image["embed"], image["mean"], image["std"])
        goldens["images"] = rounded(image["embed"](np.stack(pixels)))
        for number in KEPT:
            exact = levels(pixels[number], image["mean"], image["std"])
            shown = Image.fromarray(np.clip(np.round(exact), 0, 255).astype(np.uint8))
            shown.save(folder / f"pixels-{number:02}.png", optimize=True)
    if text:
        assert len(text["ids"]) == len(PROMPTS)
        common = unit(text["embeddings"]) @ unit(text["embeddings"]).T
        nearest = common[np.triu_indices(len(common), 1)].max()
        print(f"   prompts: common {common.mean():.2f}, nearest pair {nearest:.5f}")
        assert nearest < 0.9995, "prompts are too much alike to tell a wrong token"
        goldens["ids"] = [[int(i) for i in row] for row in text["ids"]]
        goldens["prompts"] = rounded(text["embeddings"])
    manifest = {"tool": tool, "expect": {}}
    if image:
        manifest["expect"]["image"] = {key: expect[key] for key in IMAGE_KEYS if key in expect}
    if text:
        manifest["expect"]["text"] = {key: value for key, value in expect.items() if key not in IMAGE_KEYS}
    if "text_refused" in expect:
        manifest["expect"]["text_refused"] = expect["text_refused"]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    lines = ",\n".join(f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for key, rows in goldens.items())
    (folder / "goldens.json").write_text("{" + lines + "}\n")
    Path(FIXTURES.parent, "prompts.json").write_text(json.dumps(PROMPTS, ensure_ascii=False, indent=1) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"   {family}: {size / 1024:.0f} KB:", *sorted(str(p.relative_to(folder)) for p in (folder / 'teacher').rglob("*") if p.is_file()))
