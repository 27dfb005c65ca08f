"""Folders of transformers 5: `processor_config.json` with the image processor inside, graphs by both of torch's exporters."""

import tempfile

import numpy as np
import torch

import photographs
import tokenizers_of
from common import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, fresh, randomize, run, spread, without_traces, write
from prompts import PROMPTS

HALF = [0.5, 0.5, 0.5]
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TEXT, "hidden_size": 24, "intermediate_size": 48, "image_size": 48, "patch_size": 8}


def tool():
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}"


def processed(processor):
    """The processor's pixels of the photographs."""
    return [processor(images=image, return_tensors="pt")["pixel_values"][0].numpy() for image in photographs.read()]


class Outputs(torch.nn.Module):
    """A model as a function of named inputs that returns some of its outputs, as people wrap it for an export."""

    def __init__(self, model, inputs, outputs):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *values):
        result = self.model(**dict(zip(self.inputs, values)))
        return tuple(getattr(result, name) for name in self.outputs)


def export(model, examples, outputs, path, dynamo):
    """Writes one graph with free batches (and free token axes); `examples` by input name."""
    wrapped, names = Outputs(model.eval(), list(examples), outputs), list(examples)
    axes = {name: {0: "batch", **({} if name == "pixel_values" else {1: "sequence"})} for name in names}
    values = tuple(torch.as_tensor(value) for value in examples.values())
    if dynamo:
        free = {axis: torch.export.Dim(axis, min=1, max=4096) for axis in ("batch", "sequence")}
        shapes = tuple({at: free[axis] for at, axis in axes[name].items()} for name in names)
        torch.onnx.export(wrapped, values, path, input_names=names, output_names=outputs, dynamo=True, external_data=False,
                          dynamic_shapes=(shapes,), verbose=False)
        without_traces(path)
    else:
        named = {**axes, **{name: {0: "batch"} for name in outputs}}
        torch.onnx.export(wrapped, values, path, input_names=names, output_names=outputs, dynamo=False, dynamic_axes=named,
                          opset_version=17)


def towers(family, vision, text, processor, encoded, outputs, normalization, expect, dynamo):
    """Exports both towers as `image.onnx` and `text.onnx` and writes the goldens. `outputs`: image's, text's."""
    folder = fresh(family)
    pixels = processed(processor)
    processor.save_pretrained(folder)
    export(vision, {"pixel_values": np.stack(pixels[:2])}, [outputs[0]], folder / "image.onnx", dynamo)
    pairs = {key: np.concatenate([tokens[key][:, :5] for tokens in encoded[:2]]) for key in encoded[0]}
    export(text, pairs if not expect.get("padding") else {key: encoded[0][key] for key in pairs}, [outputs[1]], folder / "text.onnx", dynamo)
    image = {"pixels": pixels, "mean": normalization[0], "std": normalization[1],
             "embed": lambda rows: run(folder / "image.onnx", {"pixel_values": rows}, outputs[0])}
    texts = np.stack([run(folder / "text.onnx", tokens, outputs[1])[0] for tokens in encoded])
    write(family, tool(), {**expect, "mean": normalization[0], "std": normalization[1]}, image,
          {"ids": [tokens["input_ids"][0] for tokens in encoded], "embeddings": texts})
    return folder


def clip():
    """CLIP's towers with projections; the prompts' padding comes from the tokenizer."""
    from transformers import (CLIPImageProcessor, CLIPModel, CLIPConfig, CLIPProcessor, CLIPTextModelWithProjection, CLIPTokenizer,
                              CLIPVisionModelWithProjection)

    with tempfile.TemporaryDirectory() as files:
        count = tokenizers_of.clip_files(files)
        tokenizer = CLIPTokenizer.from_pretrained(files, model_max_length=77)
    images = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    processor = CLIPProcessor(image_processor=images, tokenizer=tokenizer)
    text = {**TEXT, "vocab_size": count, "bos_token_id": count - 2, "eos_token_id": count - 1, "projection_dim": 16}
    config = CLIPConfig(text_config=text, vision_config={**VISION, "projection_dim": 16}, projection_dim=16)
    model = randomize(CLIPModel(config), 1)
    with torch.no_grad():
        outputs = model.get_image_features(pixel_values=torch.as_tensor(np.stack(processed(processor)))).pooler_output
        spread(model.visual_projection.weight, outputs)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        vision, text = CLIPVisionModelWithProjection.from_pretrained(saved), CLIPTextModelWithProjection.from_pretrained(saved)
    encoded = [dict(processor(text=prompt, truncation=True, return_tensors="np")) for prompt in PROMPTS]
    encoded = [{key: np.asarray(tokens[key]) for key in ("input_ids", "attention_mask")} for tokens in encoded]
    expect = {"size": 48, "mode": "shortest", "resize": 48, "offset": "floor", "resample": "bicubic", "context": 77}
    folder = towers("clip-transformers5", vision, text, processor, encoded, ("image_embeds", "text_embeds"), (CLIP_MEAN, CLIP_STD),
                    expect, False)
    config.save_pretrained(folder)


def siglip2():
    """SigLIP 2's own tokenizer, which lower-cases; towers of which the pooled output is the embedding."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    with tempfile.TemporaryDirectory() as files:
        tokenizer = tokenizers_of.siglip2(files)
    images = SiglipImageProcessor(size={"height": 48, "width": 48}, resample=2)
    processor = SiglipProcessor(image_processor=images, tokenizer=tokenizer)
    encoded = [dict(processor(text=prompt, padding="max_length", truncation=True, max_length=64, return_tensors="np")) for prompt in PROMPTS]
    encoded = [{"input_ids": np.asarray(tokens["input_ids"])} for tokens in encoded]
    pixels = torch.as_tensor(np.stack(processed(processor)))
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
            "projection_size": 24}
    config = SiglipConfig(text_config=text, vision_config=VISION)
    model = randomize(SiglipModel(config), 2)
    ids = torch.as_tensor(np.concatenate([tokens["input_ids"] for tokens in encoded]))
    with torch.no_grad():
        spread(model.vision_model.head.mlp.fc2.bias, model.vision_model(pixels).pooler_output)
        spread(model.text_model.head.bias, model.text_model(ids).pooler_output, common=0)
    expect = {"size": 48, "mode": "squash", "resize": 48, "offset": "floor", "resample": "bilinear", "context": 64, "padding": "fixed", "pad_id": 0}
    folder = towers("siglip2-transformers5", model.vision_model, model.text_model, processor, encoded, ("pooler_output", "pooler_output"),
                    (HALF, HALF), expect, False)
    config.save_pretrained(folder)


def image_only(family, model, processor, bias, output, pool, expect, dynamo):
    """An image model's `model.onnx` with its config and processor."""
    folder = fresh(family)
    pixels = processed(processor)
    batch = torch.as_tensor(np.stack(pixels))
    with torch.no_grad():
        spread(model.get_parameter(bias), pool(getattr(model(batch), output)))
    processor.save_pretrained(folder)
    model.config.save_pretrained(folder)
    export(model, {"pixel_values": batch[:2]}, ["last_hidden_state", "pooler_output"], folder / "model.onnx", dynamo)
    image = {"pixels": pixels, "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
             "embed": lambda rows: pool(run(folder / "model.onnx", {"pixel_values": rows}, output))}
    write(family, tool(), {**expect, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "image_output": output}, image)


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


def dinov3():
    """DINOv3 with registers: squash on floats, `pooler_output` is the class token."""
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    model = randomize(DINOv3ViTModel(DINOv3ViTConfig(**SMALL, image_size=48, num_register_tokens=4)), 3)
    processor = DINOv3ViTImageProcessor(size={"height": 48, "width": 48})
    expect = {"size": 48, "mode": "squash", "resize": 48, "offset": "floor", "resample": "bilinear"}
    image_only("dinov3-transformers5", model, processor, "norm.bias", "pooler_output", lambda rows: rows, expect, False)


def dinov2_registers():
    """DINOv2 with registers, whose processor is BiT's."""
    from transformers import BitImageProcessor, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    model = randomize(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, image_size=56, num_register_tokens=4)), 4)
    processor = BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, image_mean=IMAGENET_MEAN,
                                  image_std=IMAGENET_STD)
    expect = {"size": 56, "mode": "shortest", "resize": 64, "offset": "floor", "resample": "bicubic"}
    image_only("dinov2-registers-transformers5", model, processor, "layernorm.bias", "pooler_output", lambda rows: rows, expect, True)


FAMILIES = {"clip-transformers5": clip, "siglip2-transformers5": siglip2, "dinov3-transformers5": dinov3,
            "dinov2-registers-transformers5": dinov2_registers}
