"""Image processors of transformers: the `preprocessor_config.json` that each writes, and its pixels of two photographs.

    processors/NAME/preprocessor_config.json
    processors/NAME/normalization.json        mean and standard deviation of RGB in 0..1 that it has in effect
    processors/NAME/pixels-NN.png             before normalization; none if it gives no square of three channels

`python processors.py` writes them. tests/it/parity.rs puts each beside a model whose size is free.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import transformers
from PIL import Image

import photographs
from common import KEPT, levels

PROCESSORS = Path(__file__).parent / "processors"
SIDE = {"height": 32, "width": 32}

# Name: class, arguments. Lengths are small; everything else is the class's default.
CASES = {
    "beit": ("BeitImageProcessor", {"size": {"height": 37, "width": 37}, "crop_size": SIDE, "do_center_crop": True}),
    "bit": ("BitImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": SIDE}),
    "blip": ("BlipImageProcessor", {"size": SIDE}),
    "chinese-clip": ("ChineseCLIPImageProcessor", {"size": SIDE, "crop_size": SIDE}),
    "clip-fast": ("CLIPImageProcessorFast", {"size": {"shortest_edge": 37}, "crop_size": SIDE}),
    "clip-square": ("CLIPImageProcessor", {"size": SIDE, "crop_size": SIDE}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}}),
    "deit": ("DeiTImageProcessor", {"size": {"height": 37, "width": 37}, "crop_size": SIDE}),
    "deit-fast": ("DeiTImageProcessorFast", {"size": {"height": 37, "width": 37}, "crop_size": SIDE}),
    "efficientformer": ("EfficientFormerImageProcessor", {"size": {"height": 37, "width": 37}, "crop_size": SIDE}),
    "efficientnet": ("EfficientNetImageProcessor", {"size": SIDE}),
    "efficientnet-offset": ("EfficientNetImageProcessor", {"size": SIDE, "rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False}),
    "flava": ("FlavaImageProcessor", {"size": SIDE, "crop_size": SIDE}),
    "levit": ("LevitImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": SIDE}),
    "mobilenet-v1": ("MobileNetV1ImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": SIDE}),
    "mobilenet-v2": ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": SIDE}),
    "mobilevit": ("MobileViTImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": SIDE}),
    "perceiver": ("PerceiverImageProcessor", {"size": SIDE, "crop_size": {"height": 37, "width": 37}}),
    "poolformer": ("PoolFormerImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": SIDE}),
    "poolformer-square": ("PoolFormerImageProcessor", {"size": {"height": 32, "width": 32}, "crop_size": SIDE, "crop_pct": 0.9}),
    "pvt": ("PvtImageProcessor", {"size": SIDE}),
    "siglip-fast": ("SiglipImageProcessorFast", {"size": SIDE}),
    "vit-fast": ("ViTImageProcessorFast", {"size": SIDE}),
    "vit-lanczos": ("ViTImageProcessor", {"size": SIDE, "resample": 1}),
    "vit-no-normalize": ("ViTImageProcessor", {"size": SIDE, "do_normalize": False}),
    "vit-no-rescale": ("ViTImageProcessor", {"size": SIDE, "do_rescale": False}),
    "imagegpt": ("ImageGPTImageProcessor", {"size": SIDE, "clusters": [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]}),
    "vilt": ("ViltImageProcessor", {"size": {"shortest_edge": 32}}),
    "dpt": ("DPTImageProcessor", {"size": SIDE, "keep_aspect_ratio": True, "ensure_multiple_of": 8}),
    "dinov3": ("DINOv3ViTImageProcessorFast", {"size": SIDE}),
    "videomae": ("VideoMAEImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": SIDE}),
}


def output(processor, image):
    """Pixels as the model gets them, `[3, S, S]`."""
    return np.asarray(processor(images=image, return_tensors="pt")["pixel_values"][0], np.float64).reshape(-1, 3, 32, 32)[0]


def normalization(processor):
    """Mean and standard deviation that the processor has in effect, from a black and a white image."""
    black, white = (output(processor, Image.new("RGB", (32, 32), color)).mean((1, 2)) for color in ("black", "white"))
    return (-black / (white - black)).tolist(), (1 / (white - black)).tolist()


def main():
    shutil.rmtree(PROCESSORS, ignore_errors=True)
    for name, (kind, arguments) in CASES.items():
        processor = getattr(transformers, kind)(**arguments)
        folder = PROCESSORS / name
        processor.save_pretrained(folder)
        try:
            mean, std = normalization(processor)
            pixels = {number: levels(output(processor, photographs.read()[number]), mean, std) for number in KEPT}
        except Exception as error:  # Not a square of three channels: it has to be refused.
            print(name, type(error).__name__, str(error)[:150])
            continue
        (folder / "normalization.json").write_text(json.dumps({"mean": mean, "std": std}) + "\n")
        for number, exact in pixels.items():
            assert -1 < exact.min() and exact.max() < 256, (name, exact.min(), exact.max())
            Image.fromarray(np.clip(np.round(exact), 0, 255).astype(np.uint8)).save(folder / f"pixels-{number:02}.png", optimize=True)


if __name__ == "__main__":
    main()
