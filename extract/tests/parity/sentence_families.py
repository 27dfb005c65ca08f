"""Text encoders of sentence-transformers: its own ONNX folder, and optimum's export."""

import tempfile

import numpy as np
import torch

import tokenizers_of
from common import fresh, randomize, write
from prompts import PROMPTS


def model(files, *later, pooling="mean", lower=True, length=24):
    """A small BERT with pooling and the modules that come `later`, saved in `files` and opened again.

    length: what sentence_bert_config.json says; the tokenizer's own files say 24.
    """
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel

    with tempfile.TemporaryDirectory() as bert:
        tokenizer = tokenizers_of.bert(bert, lower)
        config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                            max_position_embeddings=32, pad_token_id=0)
        randomize(BertModel(config), 7).save_pretrained(bert)
        transformer = models.Transformer(bert, max_seq_length=24)
        encoder = SentenceTransformer(modules=[transformer, models.Pooling(16, pooling_mode=pooling), *later])
        encoder.max_seq_length = length
        encoder.save_pretrained(files)
    return SentenceTransformer(files)


def write_text(family, encoder, expect):
    import sentence_transformers

    text = None if "text_refused" in expect else goldens(encoder)
    write(family, f"sentence-transformers {sentence_transformers.__version__}", {"pad_id": 0, **expect}, text=text)


def goldens(encoder):
    """What `encode` makes of each prompt by itself, and the ids without padding."""
    ids = [encoder.tokenize([prompt])["input_ids"][0].tolist() for prompt in PROMPTS]
    embeddings = np.stack([encoder.encode(prompt) for prompt in PROMPTS])
    return {"ids": ids, "embeddings": embeddings}


def backend(family, expect, *later, **options):
    """`SentenceTransformer(folder, backend="onnx").save_pretrained(...)`: `onnx/model.onnx` beside `1_Pooling`."""
    from sentence_transformers import SentenceTransformer

    folder = fresh(family)
    with tempfile.TemporaryDirectory() as files:
        encoder = model(files, *later, **options)
        SentenceTransformer(files, backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"}).save_pretrained(str(folder))
    (folder / "README.md").unlink()
    write_text(family, encoder, expect)


def mean():
    from sentence_transformers import models

    backend("sentence-mean", {"pooling": "mean", "context": 24}, models.Normalize())


def cls():
    backend("sentence-cls", {"pooling": "cls", "context": 20}, pooling="cls", lower=False, length=20)


def dense():
    """A layer behind the pooling, as in the multilingual text encoders for CLIP, which the ONNX file does not hold."""
    from sentence_transformers import models

    layer = models.Dense(16, 12, bias=False, activation_function=torch.nn.Identity())
    backend("sentence-dense", {"text_refused": "Dense"}, layer)


def optimum():
    """`optimum-cli export onnx`: one file with `token_embeddings` and `sentence_embedding`, which includes the dense layer."""
    from optimum.exporters.onnx import main_export
    from sentence_transformers import models

    folder = fresh("sentence-optimum")
    layer = models.Dense(16, 12, bias=False, activation_function=torch.nn.Identity())
    with tempfile.TemporaryDirectory() as files:
        encoder = model(files, layer)
        main_export(files, output=folder, task="feature-extraction", library_name="sentence_transformers")
    write_text("sentence-optimum", encoder, {"text_output": "sentence_embedding", "context": 24})


FAMILIES = {"sentence-mean": mean, "sentence-cls": cls, "sentence-dense": dense, "sentence-optimum": optimum}
