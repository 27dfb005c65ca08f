"""open_clip models: `save_for_hf`'s folder, with both towers exported as `visual.onnx` and `textual.onnx`."""

import gzip
import json
import shutil
import tempfile
import unittest.mock
from pathlib import Path

import numpy as np
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from timm.models import eva, vision_transformer

import photographs
import tokenizers_of
from common import fresh, randomize, run, spread, without_traces, write
from prompts import PROMPTS

TRUNK = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 1.5}


@timm.models.register_model
def parity_siglip(pretrained=False, **arguments):
    """SigLIP's trunk, small."""
    small = {**TRUNK, "class_token": False, "global_pool": "map"}
    return vision_transformer._create_vision_transformer("vit_base_patch16_siglip_224", **{**small, **arguments})


@timm.models.register_model
def parity_eva02(pretrained=False, **arguments):
    """EVA-02-CLIP's trunk, small."""
    small = {**TRUNK, "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "use_rot_pos_emb": True}
    return eva._create_eva("eva02_base_patch16_clip_224", **{**small, "global_pool": "token", **arguments})


class Tower(torch.nn.Module):
    """One of a model's encoders, as people wrap it for an export."""

    def __init__(self, model, name):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, batch):
        return getattr(self.model, self.name)(batch)


def export(tower, example, path, names, dynamo):
    """Both of torch's exporters."""
    if dynamo:
        torch.onnx.export(tower, (example,), path, input_names=names[:1], output_names=names[1:], dynamo=True, external_data=False,
                          dynamic_shapes={"batch": {0: torch.export.Dim("batch")}}, verbose=False)
        without_traces(path)
    else:
        torch.onnx.export(tower, (example,), path, input_names=names[:1], output_names=names[1:], dynamo=False,
                          dynamic_axes={names[0]: {0: "batch"}, names[1]: {0: "batch"}}, opset_version=17)


def small_tokenizer(folder, vocabulary):
    """The tokenizer that open_clip finds for a folder; its own one with another `vocabulary` than the 49,408 tokens."""
    import open_clip

    original = open_clip.tokenizer.SimpleTokenizer
    small = lambda **more: original(**({"bpe_path": vocabulary} if vocabulary else {}), **more)
    with unittest.mock.patch.object(open_clip.factory, "SimpleTokenizer", small):
        return open_clip.get_tokenizer(f"local-dir:{folder}")


def last_layer(model, names):
    """The parameter among `names` that the model has, as [D, in] if it is a projection."""
    known = dict(model.named_parameters())
    parameter = next(known[name] for name in names if name in known)
    return parameter.detach() if parameter.dim() == 1 else parameter.detach().T


IMAGE_ENDS = ["visual.proj", "visual.trunk.head.bias", "visual.trunk.attn_pool.mlp.fc2.bias"]
TEXT_ENDS = ["text_projection", "text.text_projection.bias", "text.text_projection"]


def open_clip_family(family, config, tokenizer_files, expect, image_dynamo=False, text_dynamo=False, vocabulary=None, **preprocess):
    """A model of `config`, opened again from its saved folder, so that the goldens come from the folder alone.

    tokenizer_files: writes them into a folder. vocabulary: the merges of open_clip's own tokenizer, if the model takes that one.
    """
    import open_clip
    from open_clip.push_to_hf_hub import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, save_config_for_hf, save_for_hf

    folder = fresh(family)
    tokenizer_files(folder)
    with tempfile.TemporaryDirectory() as configs:
        path = Path(configs, f"{family}.json")
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
        model = randomize(open_clip.create_model(family, force_preprocess_cfg=preprocess), 6)
    save_config_for_hf(model, folder / HF_CONFIG_NAME, config)
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    ids = small_tokenizer(folder, vocabulary)(PROMPTS)
    with torch.no_grad():
        spread(last_layer(model, IMAGE_ENDS), model.encode_image(torch.stack([transform(image) for image in photographs.read()])))
        spread(last_layer(model, TEXT_ENDS), model.encode_text(ids), common=0)
    with tempfile.TemporaryDirectory() as saved:
        save_for_hf(model, unittest.mock.Mock(), config, saved, safe_serialization=True)
        shutil.copy(Path(saved, HF_SAFE_WEIGHTS_NAME), folder)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}", return_transform=True)
    (folder / HF_SAFE_WEIGHTS_NAME).unlink()  # The ONNX files take its place.
    model.eval()
    pixels = [transform(image).numpy() for image in photographs.read()]
    export(Tower(model, "encode_image"), torch.as_tensor(np.stack(pixels[:2])), folder / "visual.onnx",
           ["image", "image_features"], image_dynamo)
    export(Tower(model, "encode_text"), ids[:2], folder / "textual.onnx", ["text", "text_features"], text_dynamo)
    texts = run(folder / "textual.onnx", {"text": ids.numpy()}, "text_features")
    with torch.no_grad():
        assert np.allclose(texts, model.encode_text(ids).numpy(), atol=1e-4)
    mean, std = list(model.visual.image_mean), list(model.visual.image_std)
    image = {"pixels": pixels, "mean": mean, "std": std,
             "embed": lambda rows: run(folder / "visual.onnx", {"image": rows}, "image_features")}
    expect = {"size": 48, "mean": mean, "std": std, "context": config["text_cfg"]["context_length"], "padding": "fixed", **expect}
    write(family, f"open_clip {open_clip.__version__}, torch {torch.__version__}", expect, image,
          {"ids": ids.tolist(), "embeddings": texts})


def clip_tokenizer_files(folder):
    """The files of `openai/clip-vit-large-patch14`, which open_clip pushes beside models with its own tokenizer."""
    from transformers import CLIPTokenizerFast

    with tempfile.TemporaryDirectory() as files:
        tokenizers_of.clip_files(files)
        CLIPTokenizerFast(vocab_file=f"{files}/vocab.json", merges_file=f"{files}/merges.txt", model_max_length=77).save_pretrained(folder)


def bpe_file(folder):
    """The same vocabulary as open_clip's own tokenizer takes it: merges, zipped."""
    path = Path(folder, "bpe_simple_vocab_16e6.txt.gz")
    merges = "\n".join(f"{a} {b}" for a, b in tokenizers_of.learned_merges(48))
    path.write_bytes(gzip.compress(f'"bpe_simple_vocab_16e6.txt#version: 0.2\n{merges}'.encode(), mtime=0))
    return path


TEXT = {"context_length": 77, "vocab_size": 562, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 48, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "mlp_ratio": 1.5}


def clip():
    """A ViT-B-32's kind: shortest side, open_clip's own tokenizer, Hugging Face's tokenizer files beside it."""
    with tempfile.TemporaryDirectory() as files:
        open_clip_family("openclip-clip", {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
                         clip_tokenizer_files, {"mode": "shortest", "resize": 48, "offset": "half-even", "resample": "bicubic", "pad_id": 0},
                         vocabulary=str(bpe_file(files)))


def eva_longest():
    """An EVA-02-CLIP with longest side and padding, and no tokenizer files but the zipped merges."""
    vision = {"image_size": 48, "timm_model_name": "parity_eva02", "timm_model_pretrained": False, "timm_pool": "token", "timm_proj": None}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}
    with tempfile.TemporaryDirectory() as files:
        open_clip_family("openclip-eva02-longest", config, bpe_file,
                         {"mode": "longest", "resize": 48, "offset": "half-even", "resample": "bicubic", "pad_id": 0}, image_dynamo=True,
                         vocabulary=str(bpe_file(files)), resize_mode="longest")


def siglip_files(folder):
    """SigLIP's sentencepiece model as open_clip imports it: a `T5TokenizerFast` without extra ids."""
    from transformers import T5TokenizerFast

    with tempfile.TemporaryDirectory() as files:
        path = tokenizers_of.sentencepiece_model(files)
        tokenizer = T5TokenizerFast(str(path), extra_ids=0, legacy=False, pad_token="</s>", model_max_length=64)
        tokenizer.save_pretrained(folder)
    Path(folder, "spiece.model").unlink(missing_ok=True)


def siglip_squash():
    """SigLIP through timm's trunk: squash, context 64, `clean` canonicalize."""
    vision = {"image_size": 48, "timm_model_name": "parity_siglip", "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"}
    text = {"context_length": 64, "vocab_size": 200, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    config = {"embed_dim": 32, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision, "text_cfg": text}

    half = (0.5, 0.5, 0.5)
    open_clip_family("openclip-siglip-squash", config, siglip_files, {"mode": "squash", "resize": 48, "offset": "half-even", "resample": "bicubic", "pad_id": 1},
                     text_dynamo=True, resize_mode="squash", mean=half, std=half)


def clipa():
    """CLIPA: squash with bilinear, BERT's tokenizer whose separator becomes 0."""
    text = {"context_length": 32, "vocab_size": 400, "hf_tokenizer_name": "bert-base-uncased", "tokenizer_kwargs": {"strip_sep_token": True},
            "width": 24, "heads": 2, "layers": 1, "pool_type": "last", "no_causal_mask": True}
    config = {"embed_dim": 16, "vision_cfg": {**VISION, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}, "text_cfg": text}
    open_clip_family("openclip-clipa", config, tokenizers_of.bert,
                     {"mode": "squash", "resize": 48, "offset": "half-even", "resample": "bilinear", "pad_id": 0}, resize_mode="squash",
                     interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


FAMILIES = {"openclip-clip": clip, "openclip-eva02-longest": eva_longest, "openclip-siglip-squash": siglip_squash, "openclip-clipa": clipa}
