"""Folders that optimum-cli writes, with transformers 4.57 models and processors."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

import photographs
import tokenizers_of
from common import CLIP_MEAN, CLIP_STD, FIXTURES, IMAGENET_MEAN, IMAGENET_STD, fresh, randomize, run, spread, write
from prompts import PROMPTS

HALF = [0.5, 0.5, 0.5]


def tool():
    import optimum.version
    import transformers
    from importlib.metadata import version

    return f"optimum {optimum.version.__version__}, optimum-onnx {version('optimum-onnx')}, transformers {transformers.__version__}"


def export(model, parts, folder, task, **more):
    """Saves model and processors as a user has them, and exports as `optimum-cli export onnx` does."""
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        for part in parts:
            part.save_pretrained(saved)
        main_export(saved, output=folder, task=task, **more)


def processed(processor):
    """The processor's pixels of the photographs."""
    return [processor(images=image, return_tensors="np")["pixel_values"][0] for image in photographs.read()]


def clip_model(vocabulary):
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 77, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 1,
            "projection_dim": 16}
    tower = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48,
             "patch_size": 8, "projection_dim": 16}
    return randomize(CLIPModel(CLIPConfig(text_config=text, vision_config=tower, projection_dim=16)), 1)


def clip_parts(**image):
    from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast

    with tempfile.TemporaryDirectory() as files:
        count = tokenizers_of.clip_files(files)
        tokenizer = CLIPTokenizerFast(vocab_file=f"{files}/vocab.json", merges_file=f"{files}/merges.txt", model_max_length=77)
    image = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}, **image}
    return CLIPProcessor(image_processor=CLIPImageProcessor(**image), tokenizer=tokenizer), count


def clip():
    """A processor and a model that answers to images."""
    processor, count = clip_parts()
    model = clip_model(count)
    with torch.no_grad():
        outputs = model.get_image_features(pixel_values=torch.as_tensor(np.stack(processed(processor))))
        spread(model.visual_projection.weight, outputs)
    return processor, model


CLIP_EXPECT = {"size": 48, "mode": "shortest", "resize": 48, "offset": "floor", "mean": CLIP_MEAN, "std": CLIP_STD, "resample": "bicubic",
               "context": 77, "image_output": "image_embeds", "text_output": "text_embeds"}


def two_towers(family, pixels, normalization, encoded, files, outputs, expect, dummies=None):
    """Goldens by ONNX Runtime. `encoded`: the tokenizer's arrays, one prompt each. `files`, `outputs`: image's, text's.

    `dummies`: inputs of the other half, if one graph has both towers.
    """
    folder = FIXTURES / family / "teacher"
    ids = dummies or {}

    def embed(batch):
        return run(folder / files[0], {"pixel_values": batch, **ids}, outputs[0])

    def text(tokens):
        other = {"pixel_values": pixels[0][None]} if dummies else {}
        return run(folder / files[1], {**tokens, **other}, outputs[1])[0]

    mean, std = normalization
    write(family, tool(), expect, {"pixels": pixels, "embed": embed, "mean": mean, "std": std},
          {"ids": [tokens["input_ids"][0] for tokens in encoded], "embeddings": np.stack([text(tokens) for tokens in encoded])})


def clip_optimum():
    """`optimum-cli export onnx --task zero-shot-image-classification`: one graph with both towers."""
    folder = fresh("clip-optimum")
    processor, model = clip()
    export(model, [processor], folder, "zero-shot-image-classification")
    encoded = [dict(processor.tokenizer(prompt, truncation=True, return_tensors="np")) for prompt in PROMPTS]
    dummy = {"input_ids": np.array([[1, 2]]), "attention_mask": np.array([[1, 1]])}
    two_towers("clip-optimum", processed(processor), (CLIP_MEAN, CLIP_STD), encoded, ["model.onnx"] * 2,
               ("image_embeds", "text_embeds"), CLIP_EXPECT, dummy)


def tower(model, processor, path, outputs):
    """One tower with the outputs that transformers.js's export configurations name."""
    from optimum.exporters.onnx import export as export_graph
    from optimum.exporters.onnx.model_configs import CLIPTextOnnxConfig, CLIPVisionModelOnnxConfig

    base = CLIPVisionModelOnnxConfig if "Vision" in type(model).__name__ else CLIPTextOnnxConfig
    named = type("TowerConfig", (base,), {"outputs": property(lambda self: {name: {0: "batch_size"} for name in outputs})})
    path.parent.mkdir(exist_ok=True)
    export_graph(model.eval(), named(model.config, preprocessors=[processor]), path, opset=17)


def clip_transformersjs():
    """transformers.js's layout: `onnx/vision_model.onnx`, `onnx/text_model.onnx`, and a quantized variant beside."""
    from onnxruntime.quantization import quantize_dynamic
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    folder = fresh("clip-transformersjs")
    processor, model = clip()
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        vision, text = CLIPVisionModelWithProjection.from_pretrained(saved), CLIPTextModelWithProjection.from_pretrained(saved)
    for half, name, output in ((vision, "vision_model", "image_embeds"), (text, "text_model", "text_embeds")):
        tower(half, processor, folder / "onnx" / f"{name}.onnx", [output])
    quantize_dynamic(folder / "onnx" / "vision_model.onnx", folder / "onnx" / "vision_model_quantized.onnx")
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    Path(folder, "quantize_config.json").write_text('{"modes": ["q8"], "per_channel": true, "reduce_range": true}')
    encoded = [{"input_ids": processor.tokenizer(prompt, truncation=True, return_tensors="np")["input_ids"]} for prompt in PROMPTS]
    two_towers("clip-transformersjs", processed(processor), (CLIP_MEAN, CLIP_STD), encoded,
               ["onnx/vision_model.onnx", "onnx/text_model.onnx"], ("image_embeds", "text_embeds"), CLIP_EXPECT)


def siglip_model(vocabulary, pad, eos):
    from transformers import SiglipConfig, SiglipModel

    text = {"vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 64, "pad_token_id": pad, "eos_token_id": eos, "bos_token_id": pad, "projection_size": 24}
    tower = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48,
             "patch_size": 8}
    return randomize(SiglipModel(SiglipConfig(text_config=text, vision_config=tower)), 2)


def siglip_centered(model, pixels, encoded):
    """The heads' last layers have a bias, which takes away what all photographs and all prompts have in common."""
    with torch.no_grad():
        outputs = model.get_image_features(pixel_values=torch.as_tensor(np.stack(pixels)))
        spread(model.vision_model.head.mlp.fc2.bias, outputs)
        outputs = model.get_text_features(input_ids=torch.as_tensor(np.concatenate([tokens["input_ids"] for tokens in encoded])))
        spread(model.text_model.head.bias, outputs, common=0)
    return model


def padded(tokenizer):
    """Token ids as SigLIP's processors give them: always 64, without a mask."""
    return [{"input_ids": tokenizer(prompt, truncation=True, padding="max_length", max_length=64, return_tensors="np")["input_ids"]}
            for prompt in PROMPTS]


SIGLIP_EXPECT = {"size": 48, "mode": "squash", "resize": 48, "offset": "floor", "mean": HALF, "std": HALF, "resample": "bicubic", "context": 64,
                 "padding": "fixed"}


def siglip_processor(tokenizer, resample=3):
    from transformers import SiglipImageProcessor, SiglipProcessor

    images = SiglipImageProcessor(size={"height": 48, "width": 48}, resample=resample)
    return SiglipProcessor(image_processor=images, tokenizer=tokenizer)


def siglip2_optimum():
    """SigLIP 2 (fixed resolution; `model_type` is siglip, as in its published checkpoints) with Gemma's tokenizer."""
    folder = fresh("siglip2-optimum")
    with tempfile.TemporaryDirectory() as files:
        tokenizer = tokenizers_of.gemma(files)
    processor = siglip_processor(tokenizer, resample=2)
    pixels = processed(processor)
    encoded = padded(tokenizer)
    model = siglip_centered(siglip_model(len(tokenizer), 0, 1), pixels, encoded)
    export(model, [processor], folder, "zero-shot-image-classification")
    expect = {**SIGLIP_EXPECT, "resample": "bilinear", "pad_id": 0, "image_output": "image_embeds", "text_output": "text_embeds"}
    two_towers("siglip2-optimum", pixels, (HALF, HALF), encoded, ["model.onnx"] * 2, ("image_embeds", "text_embeds"), expect,
               {"input_ids": encoded[0]["input_ids"]})


def siglip_tokenizer(folder):
    from transformers import SiglipTokenizer

    return SiglipTokenizer(vocab_file=str(tokenizers_of.sentencepiece_model(folder)), model_max_length=64)


def siglip(files):
    """A processor whose tokenizer reads `spiece.model` in `files`, and a model."""
    processor = siglip_processor(siglip_tokenizer(files))
    model = siglip_model(len(processor.tokenizer), 1, 1)
    return processor, siglip_centered(model, processed(processor), padded(processor.tokenizer))


def siglip_transformersjs():
    """SigLIP in transformers.js's layout, whose converter writes `tokenizer.json` from `spiece.model`."""
    from transformers import PreTrainedTokenizerFast, SiglipTextModel, SiglipVisionModel

    folder = fresh("siglip-transformersjs")
    with tempfile.TemporaryDirectory() as files:
        processor, model = siglip(files)
        fast = tokenizers_of.siglip_fast(processor.tokenizer)
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            vision, text = SiglipVisionModel.from_pretrained(saved), SiglipTextModel.from_pretrained(saved)
        for half, name in ((vision, "vision_model"), (text, "text_model")):
            tower(half, processor, folder / "onnx" / f"{name}.onnx", ["last_hidden_state", "pooler_output"])
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        fast.save(str(folder / "tokenizer.json"))
    reader = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="</s>", model_max_length=64)
    encoded = padded(reader)
    expect = {**SIGLIP_EXPECT, "pad_id": 1, "image_output": "pooler_output", "text_output": "pooler_output"}
    two_towers("siglip-transformersjs", processed(processor), (HALF, HALF), encoded,
               ["onnx/vision_model.onnx", "onnx/text_model.onnx"], ("pooler_output", "pooler_output"), expect)


def siglip_spiece():
    """What optimum leaves of SigLIP with transformers 4.57: `spiece.model`, no `tokenizer.json`. Images work, prompts cannot."""
    folder = fresh("siglip-spiece-alone")
    with tempfile.TemporaryDirectory() as files:
        processor, model = siglip(files)
        export(model, [processor], folder, "zero-shot-image-classification")
    dummy = {"input_ids": np.array([[5, 6, 1] + [1] * 61])}
    image = {"pixels": processed(processor), "mean": HALF, "std": HALF,
             "embed": lambda batch: run(folder / "model.onnx", {"pixel_values": batch, **dummy}, "image_embeds")}
    expect = {key: SIGLIP_EXPECT[key] for key in ("size", "mode", "resize", "offset", "mean", "std", "resample")}
    write("siglip-spiece-alone", tool(), {**expect, "image_output": "image_embeds", "text_refused": "spiece.model"}, image)


def vision(family, model, processor, normalization, expect, output, pool, bias, task="feature-extraction"):
    """An image-only model by `optimum-cli export onnx --task feature-extraction`, or another task."""
    folder = fresh(family)
    pixels = processed(processor)
    batch = torch.as_tensor(np.stack(pixels))
    with torch.no_grad():
        outputs = pool(getattr(model(batch), output))
    if bias:
        spread(model.get_parameter(bias), outputs)
    export(model, [processor], folder, task)
    image = {"pixels": pixels, "embed": lambda batch: pool(run(folder / "model.onnx", {"pixel_values": batch}, output)),
             "mean": normalization[0], "std": normalization[1]}
    write(family, tool(), {**expect, "mean": normalization[0], "std": normalization[1], "image_output": output}, image)


def first_token(rows):
    return rows[:, 0]


SMALL_VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


def dinov2():
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    model = randomize(Dinov2Model(Dinov2Config(**SMALL_VIT, image_size=56)), 3)
    processor = BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, image_mean=IMAGENET_MEAN,
                                  image_std=IMAGENET_STD)
    expect = {"size": 56, "mode": "shortest", "resize": 64, "offset": "floor", "resample": "bicubic", "image_pooling": "cls"}
    vision("dinov2-optimum", model, processor, (IMAGENET_MEAN, IMAGENET_STD), expect, "last_hidden_state", first_token,
           "layernorm.bias")


def vit():
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    model = randomize(ViTModel(ViTConfig(**SMALL_VIT, image_size=48)), 4)
    processor = ViTImageProcessor(size={"height": 48, "width": 48})
    expect = {"size": 48, "mode": "squash", "resize": 48, "offset": "floor", "resample": "bilinear", "image_pooling": "cls"}
    vision("vit-optimum", model, processor, (HALF, HALF), expect, "last_hidden_state", first_token, "layernorm.bias")


def vit_classifier():
    """A classifier: its only output are the logits, which can be embeddings, with a warning."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    model = randomize(ViTForImageClassification(ViTConfig(**SMALL_VIT, image_size=48, num_labels=12)), 4)
    processor = ViTImageProcessor(size={"height": 48, "width": 48})
    expect = {"size": 48, "mode": "squash", "resize": 48, "offset": "floor", "resample": "bilinear"}
    vision("vit-classifier-optimum", model, processor, (HALF, HALF), expect, "logits", lambda rows: rows, "classifier.bias",
           "image-classification")


def convnext():
    """ConvNeXt's processor: below 384 px a shortest side of size / crop_pct. The only output is the map before the last
    normalization."""
    from transformers import ConvNextConfig, ConvNextImageProcessor, ConvNextModel

    model = randomize(ConvNextModel(ConvNextConfig(hidden_sizes=[8, 12, 16, 32], depths=[1, 1, 1, 1], image_size=64)), 5)
    processor = ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
    expect = {"size": 64, "mode": "shortest", "resize": 73, "offset": "floor", "resample": "bilinear", "image_pooling": "gap"}
    vision("convnext-optimum", model, processor, (IMAGENET_MEAN, IMAGENET_STD), expect, "last_hidden_state",
           lambda maps: maps.mean((2, 3)), None)
    # Nothing says how a map becomes a vector, so that this key is needed; everything else comes from the folder.
    (FIXTURES / "convnext-optimum" / "teacher" / "teacher.toml").write_text('[image]\npooling = "gap"\n')


FAMILIES = {"clip-optimum": clip_optimum, "clip-transformersjs": clip_transformersjs, "siglip2-optimum": siglip2_optimum,
            "siglip-transformersjs": siglip_transformersjs, "siglip-spiece-alone": siglip_spiece, "dinov2-optimum": dinov2,
            "vit-optimum": vit, "vit-classifier-optimum": vit_classifier, "convnext-optimum": convnext}
