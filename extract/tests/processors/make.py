"""Writes processors.json: what the real image processors of transformers, timm and open_clip do with their own files.

Each processor is made by its own class and saved by its own code. It then processes three images:

- 97 x 61 px whose red channel is the column and whose green channel is the row, each scaled to 0..255. The outer rows and
  columns of the result say which part of the image the processor keeps.
- a black and a white image, which give mean and standard deviation.

Run once per version of transformers, with requirements.txt of tests/parity:

    python make.py 4 > processors-4.json     # transformers 4.57: the slow classes and the "Fast" ones
    python make.py 5 > processors-5.json     # transformers 5
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 97, 61
RAMP = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
RAMP[..., 0] = np.round(np.arange(WIDTH) * 255 / (WIDTH - 1))[None, :]
RAMP[..., 1] = np.round(np.arange(HEIGHT) * 255 / (HEIGHT - 1))[:, None]
IMAGES = [Image.fromarray(RAMP), Image.new("RGB", (WIDTH, HEIGHT)), Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))]


def entry(name, files, arrays):
    """Name, the tool's files, the side, mean and std for values in 0..1, and the outer pixels of the ramp in bytes."""
    ramp, black, white = (np.asarray(array, np.float64) for array in arrays)
    low, high = black[:, black.shape[1] // 2, black.shape[2] // 2], white[:, white.shape[1] // 2, white.shape[2] // 2]
    std = 1 / (high - low)
    pixels = (ramp - low[:, None, None]) * std[:, None, None] * 255
    middle = ramp.shape[1] // 2
    outer = [pixels[0, middle, 0], pixels[0, middle, -1], pixels[1, 0, middle], pixels[1, -1, middle]]
    return {"name": name, "files": files, "size": ramp.shape[1], "mean": (-low * std).round(6).tolist(), "std": std.round(6).tolist(),
            "outer": [round(float(value), 2) for value in outer]}


def transformers_cases(version):
    import transformers as t

    cases = [  # class, arguments
        ("CLIP", {"size": {"shortest_edge": 40}, "crop_size": 32}),
        ("CLIP", {"size": {"height": 32, "width": 32}, "crop_size": 32}),
        ("CLIP", {"size": {"shortest_edge": 24}, "crop_size": 32}),
        ("Siglip", {"size": {"height": 32, "width": 32}}),
        ("ViT", {"size": {"height": 32, "width": 32}, "resample": 3}),
        ("ViT", {"size": 32, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}),
        ("DeiT", {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}}),
        ("Bit", {"size": {"shortest_edge": 40}, "crop_size": {"height": 35, "width": 35}}),
        ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.95}),
        ("ConvNext", {"size": {"shortest_edge": 48}}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("PoolFormer", {"size": {"shortest_edge": 32}, "crop_pct": 0.9, "crop_size": 32}),
        ("PoolFormer", {"size": {"height": 32, "width": 32}, "crop_pct": 0.8, "crop_size": 32}),
        ("Levit", {"size": {"shortest_edge": 32}, "crop_size": 32}),
        ("Levit", {"size": {"height": 36, "width": 36}, "crop_size": 32}),
        ("EfficientNet", {"size": {"height": 36, "width": 36}, "do_center_crop": True, "crop_size": 32}),
        ("EfficientNet", {"size": {"height": 32, "width": 32}, "include_top": False}),
        ("EfficientNet", {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5, "rescale_offset": True,
                          "include_top": False, "do_normalize": False}),
        ("MobileNetV1", {"size": {"shortest_edge": 40}, "crop_size": 32}),
        ("MobileNetV2", {"size": {"shortest_edge": 40}, "crop_size": 32}),
        ("ChineseCLIP", {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}),
        ("Blip", {"size": {"height": 32, "width": 32}}),
        ("Beit", {"size": {"height": 36, "width": 36}, "do_center_crop": True, "crop_size": 32}),
        ("Beit", {"size": {"height": 32, "width": 32}, "do_center_crop": False}),
        ("DPT", {"size": {"height": 32, "width": 32}}),
        ("Pvt", {"size": {"height": 32, "width": 32}}),
        ("Segformer", {"size": {"height": 32, "width": 32}}),
        ("Flava", {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}),
        ("OwlViT", {"size": {"height": 32, "width": 32}}),
        ("DINOv3ViT", {"size": {"height": 32, "width": 32}}),
        ("Llava", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    ]
    for name, arguments in cases:
        for suffix in ("ImageProcessor", "ImageProcessorFast") if version == 4 else ("ImageProcessor",):
            kind = getattr(t, name + suffix, None)
            if kind is None:
                continue
            processor = kind(**arguments)
            arrays = [processor(images=[image], return_tensors="pt")["pixel_values"][0].numpy() for image in IMAGES]
            with tempfile.TemporaryDirectory() as folder:
                processor.save_pretrained(folder)
                files = {path.name: json.loads(path.read_text()) for path in Path(folder).iterdir()}
            yield entry(f"{name + suffix} {arguments}", files, arrays)


def timm_cases():
    from timm.data import create_transform, resolve_data_config

    base = {"input_size": [3, 32, 32], "interpolation": "bicubic", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for settings in (
        {**base, "crop_pct": 0.95, "crop_mode": "center"},
        {**base, "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bilinear"},
        {**base, "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
        {**base, "input_size": [3, 35, 35]},
        {"input_size": [3, 32, 32], "test_input_size": [3, 40, 40], "crop_pct": 0.875, "test_crop_pct": 0.95},
    ):
        transform = create_transform(**resolve_data_config({}, pretrained_cfg=settings), is_training=False)
        config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": settings}
        yield entry(f"timm {settings}", {"config.json": config}, [transform(image).numpy() for image in IMAGES])


def open_clip_cases():
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    for settings in (
        {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
        {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
        {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "longest"},
        {"interpolation": "random", "resize_mode": "shortest"},
    ):
        cfg = PreprocessCfg(**merge_preprocess_dict({**merge_preprocess_dict(PreprocessCfg(), {"size": 32})}, settings))
        transform = image_transform_v2(cfg, is_train=False)
        config = {"model_cfg": {"embed_dim": 16, "vision_cfg": {"image_size": 32}}, "preprocess_cfg": settings}
        yield entry(f"open_clip {settings}", {"open_clip_config.json": config}, [transform(image).numpy() for image in IMAGES])


version = int(sys.argv[1])
cases = list(transformers_cases(version))
if version == 4:
    cases += [*timm_cases(), *open_clip_cases()]
print(json.dumps(cases, indent=1))
