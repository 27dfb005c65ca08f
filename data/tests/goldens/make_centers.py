"""Writes reference center crops by the tools that teachers are published with.

    python make_centers.py        (Pillow 13.0.0, torchvision 0.23.0, transformers 4.57.3, timm 1.0.31, open_clip_torch 3.3.0)

centers/CASE.png     what a tool's own preprocessing shows of scene.png and others, before it is normalized
centers.json         the tool and the crop of each case
centers.txt          sizes and offsets alone, for many shapes: resize mode, offset, width and height of the image, size of the
                     output, length, then width and height after the resize, and first column and row kept (negative: padded)
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
from open_clip.transform import ResizeKeepRatio, center_crop_or_pad, image_transform
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from transformers import (
    BitImageProcessor, CLIPImageProcessor, CLIPImageProcessorFast, ConvNextImageProcessor, EfficientNetImageProcessor,
    LevitImageProcessor, PoolFormerImageProcessor, SiglipImageProcessor, ViTImageProcessor,
)
from transformers.image_transforms import center_crop, get_resize_output_image_size

HERE = Path(__file__).parent
CENTERS = HERE / "centers"
LANDSCAPE, PORTRAIT, TINY = "scene-161x113.png", "scene-113x161.png", "tiny-7x5.png"
FILTERS = {
    "nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC, "lanczos": InterpolationMode.LANCZOS,
}
PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def torchvision(resample, size, length):
    return T.Compose([T.Resize(length, FILTERS[resample]), T.CenterCrop(size)])


def timm(mode, resample, size, crop_pct):
    steps = transforms_imagenet_eval(size, crop_pct=crop_pct, crop_mode=mode, interpolation=resample, normalize=False)
    return lambda image: np.asarray(steps(image)).transpose(1, 2, 0)


def open_clip(mode, resample, size):
    steps = image_transform(size, False, resize_mode=mode, interpolation=resample).transforms
    return T.Compose(steps[:-2])  # without ToTensor and Normalize


def transformers(processor, **settings):
    made = processor(do_rescale=False, do_normalize=False, **settings)
    return lambda image: np.asarray(made(image, return_tensors="pt")["pixel_values"][0]).transpose(1, 2, 0)


def cases():
    """name, image, resample, size, length, resize mode, offset, the tool"""
    torch_, hf = ("shortest", "half-even"), ("shortest", "floor")
    for image, kind in [(LANDSCAPE, "landscape"), (PORTRAIT, "portrait")]:
        yield f"torchvision-{kind}", image, "bilinear", 48, 55, *torch_, torchvision("bilinear", 48, 55)
        yield f"timm-center-{kind}", image, "bicubic", 45, 50, *torch_, timm("center", "bicubic", 45, 0.9)
        yield f"timm-squash-{kind}", image, "bicubic", 47, 49, "squash", "half-even", timm("squash", "bicubic", 47, 0.95)
        yield f"timm-squash-whole-{kind}", image, "lanczos", 47, 47, "squash", "half-even", timm("squash", "lanczos", 47, 1.0)
        for mode in ["shortest", "squash", "longest"]:
            tool = open_clip(mode, "bicubic", 48)
            yield f"open_clip-{mode}-{kind}", image, "bicubic", 48, 48, mode, "half-even", tool
        yield f"open_clip-longest-odd-{kind}", image, "bilinear", 51, 51, "longest", "half-even", open_clip("longest", "bilinear", 51)
        tool = transformers(CLIPImageProcessor, size={"shortest_edge": 50}, crop_size=45)
        yield f"clip-{kind}", image, "bicubic", 45, 50, *hf, tool
        yield f"clip-whole-{kind}", image, "bicubic", 48, 48, *hf, transformers(CLIPImageProcessor, size={"shortest_edge": 48}, crop_size=48)
        yield f"siglip-{kind}", image, "bicubic", 49, 49, "squash", "floor", transformers(SiglipImageProcessor, size={"height": 49, "width": 49})
        yield f"vit-{kind}", image, "bilinear", 48, 48, "squash", "floor", transformers(ViTImageProcessor, size={"height": 48, "width": 48})
        tool = transformers(BitImageProcessor, size={"shortest_edge": 55}, crop_size={"height": 48, "width": 48})
        yield f"dinov2-{kind}", image, "bicubic", 48, 55, *hf, tool
        tool = transformers(ConvNextImageProcessor, size={"shortest_edge": 47}, crop_pct=0.875, resample=3)
        yield f"convnext-{kind}", image, "bicubic", 47, 53, *hf, tool
        tool = transformers(LevitImageProcessor, size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
        yield f"levit-{kind}", image, "bicubic", 48, 54, *hf, tool
        tool = transformers(PoolFormerImageProcessor, size={"shortest_edge": 45}, crop_pct=0.9, crop_size=45)
        yield f"poolformer-{kind}", image, "bicubic", 45, 50, *hf, tool
        tool = transformers(EfficientNetImageProcessor, size={"height": 56, "width": 56}, do_center_crop=True, include_top=False,
                            crop_size={"height": 47, "width": 47}, resample=2)
        yield f"efficientnet-{kind}", image, "bilinear", 47, 56, "squash", "floor", tool
    # Smaller than the crop: all sides padded, one side padded and the other cut, enlarged and padded.
    yield "padded-torchvision", LANDSCAPE, "bicubic", 55, 20, *torch_, torchvision("bicubic", 55, 20)
    yield "padded-torchvision-portrait", PORTRAIT, "bilinear", 28, 21, *torch_, torchvision("bilinear", 28, 21)
    yield "padded-clip", LANDSCAPE, "bicubic", 28, 22, *hf, transformers(CLIPImageProcessor, size={"shortest_edge": 22}, crop_size=28)
    tool = transformers(CLIPImageProcessorFast, size={"shortest_edge": 5}, crop_size=10)
    yield "padded-clip-fast", TINY, "bicubic", 10, 5, *hf, tool
    yield "padded-tiny", TINY, "bicubic", 33, 33, "longest", "half-even", open_clip("longest", "bicubic", 33)
    tool = transformers(EfficientNetImageProcessor, size={"height": 20, "width": 20}, do_center_crop=True, include_top=False,
                        crop_size={"height": 34, "width": 34}, resample=3)
    yield "padded-squash", PORTRAIT, "bicubic", 34, 20, "squash", "floor", tool
    tool = T.Compose([ResizeKeepRatio(48, longest=1), lambda image: center_crop_or_pad(image, 36)])
    yield "longest-cut", LANDSCAPE, "bicubic", 36, 48, "longest", "half-even", tool


def kept(cropped):
    """First column and row that a crop keeps. Pixels count from 1 in both directions: row * 4096 + column + 1."""
    cropped = np.asarray(cropped)
    rows, columns = np.nonzero(cropped)
    row, column = divmod(int(cropped[rows[0], columns[0]]) - 1, 4096)
    return column - int(columns[0]), row - int(rows[0])


def crop_of(offset, width, height, size):
    numbers = (np.arange(height)[:, None] * 4096 + np.arange(width)[None] + 1).astype(np.int32)
    if offset == "half-even":
        image = Image.fromarray(numbers)
        by_torchvision, by_open_clip = (kept(crop(image, [size, size])) for crop in (F.center_crop, center_crop_or_pad))
        assert by_torchvision == by_open_clip
        return by_torchvision
    fast = CLIPImageProcessorFast(do_resize=False, do_rescale=False, do_normalize=False, do_convert_rgb=False, crop_size=size)
    by_fast = kept(fast(np.repeat(numbers[None], 3, 0), return_tensors="pt", input_data_format="channels_first")["pixel_values"][0][0])
    if min(width, height) >= size:
        assert by_fast == kept(center_crop(numbers[None], (size, size), input_data_format="channels_first")[0])
    return by_fast


def resized(mode, width, height, length):
    image = Image.new("L", (width, height))
    if mode == "shortest":
        by_torchvision = F.resize(image, length, InterpolationMode.NEAREST).size
        rows, columns = get_resize_output_image_size(
            np.zeros((height, width, 3), np.uint8), length, default_to_square=False, input_data_format="channels_last"
        )
        assert by_torchvision == (columns, rows)
        return by_torchvision
    if mode == "squash":
        return length, length
    rows, columns = ResizeKeepRatio.get_params(image, (length, length), 1.0)
    return columns, rows


def shapes():
    draw = random.Random(14)
    sizes = [1, 7, 32, 63, 97, 224]
    for mode in ["shortest", "squash", "longest"]:
        for offset in ["half-even", "floor"]:
            for _ in range(120):
                width, height = (draw.randint(1, 700) for _ in range(2))
                size = draw.choice(sizes)
                length = max(1, min(size * 100, round(size * draw.choice([1, 1, 0.5, 0.8, 1.05, 1.14, 1.33, 1.5])) + draw.randint(0, 2)))
                to = resized(mode, width, height, length)
                if 0 < min(to) and max(to) < 4000:
                    yield mode, offset, width, height, size, length, *to, *crop_of(offset, *to, size)


def main():
    shutil.rmtree(CENTERS, ignore_errors=True)
    CENTERS.mkdir()
    listed = []
    for name, image, resample, size, length, mode, offset, tool in cases():
        pixels = np.asarray(tool(Image.open(HERE / image).convert("RGB"))).astype(np.uint8)
        assert pixels.shape == (size, size, 3), (name, pixels.shape)
        Image.fromarray(pixels).save(CENTERS / f"{name}.png", optimize=True)
        case = {"name": name, "image": image, "size": size, "length": length, "resize": mode, "offset": offset, "resample": resample}
        listed.append(case)
    (HERE / "centers.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in listed) + "\n]\n")
    (HERE / "centers.txt").write_text("".join(" ".join(map(str, shape)) + "\n" for shape in shapes()))
    print(len(listed), "cases,", len((HERE / "centers.txt").read_text().splitlines()), "shapes")


if __name__ == "__main__":
    main()
