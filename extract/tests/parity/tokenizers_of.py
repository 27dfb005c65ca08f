"""Tokenizers of the real classes with vocabularies of a few hundred entries."""

import collections
import json
from pathlib import Path

from prompts import WORDS

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters():
    """GPT-2's letters for the 256 bytes, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learned_merges(count):
    """The `count` most frequent pairs, merged one after the other, with CLIP's mark at a word's end."""
    words = collections.Counter(WORDS)
    split = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges = []
    for _ in range(count):
        pairs = collections.Counter()
        for word, parts in split.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, parts in split.items():
            merged, at = [], 0
            while at < len(parts):
                step = 2 if parts[at : at + 2] == best else 1
                merged.append("".join(parts[at : at + step]))
                at += step
            split[word] = tuple(merged)
    return merges


def clip_files(folder, merges=48):
    """Writes CLIP's `vocab.json` and `merges.txt`; returns the vocabulary's size."""
    letters, pairs = byte_letters(), learned_merges(merges)
    vocabulary = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in pairs] + [START, END]
    Path(folder, "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False))
    Path(folder, "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    return len(vocabulary)


def bert(folder, lower=True):
    """A `BertTokenizerFast`, saved in `folder`; returns it."""
    from transformers import BertTokenizerFast

    letters = [chr(i) for i in range(33, 127)] + list("éèêëàâäöüûîïçœ—…“”")
    pieces = ["##" + letter for letter in letters if letter.isalnum()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *pieces, *dict.fromkeys(w for w in WORDS if len(w) > 1)]
    path = Path(folder, "vocab.txt")
    path.write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(vocab_file=str(path), do_lower_case=lower, model_max_length=24)
    tokenizer.save_pretrained(folder)
    return tokenizer


def sentencepiece_model(folder):
    """A unigram model as SigLIP's: `spiece.model` with `</s>` 1 and `<unk>` 2."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 3 + [chr(i) for i in range(33, 127)] * 2), model_prefix=str(Path(folder, "spiece")),
        vocab_size=180, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
        character_coverage=1.0, normalization_rule_name="identity", minloglevel=2)
    Path(folder, "spiece.vocab").unlink()
    return Path(folder, "spiece.model")


def gemma_core():
    """BPE with byte fallback and blanks as `▁`: `<pad>` 0, `<eos>` 1, `<bos>` 2, `<unk>` 3, then the bytes."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, processors, trainers

    core = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=special, show_progress=False)
    sentences = [" ".join(WORDS[i : i + 6]) for i in range(0, len(WORDS), 3)]
    core.train_from_iterator(sentences, trainer)
    document = json.loads(core.to_str())
    # The trainer marks the bytes as special; in Gemma's file they are plain entries of the vocabulary.
    document["added_tokens"] = [token for token in document["added_tokens"] if token["id"] < 4]
    core = tokenizers.Tokenizer.from_str(json.dumps(document))
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.post_processor = processors.TemplateProcessing(single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)])
    return core


def gemma(folder):
    """A `GemmaTokenizerFast` as SigLIP 2's, with `<eos>` appended."""
    from transformers import GemmaTokenizerFast

    gemma_core().save(str(Path(folder, "core.json")))
    return GemmaTokenizerFast(tokenizer_file=str(Path(folder, "core.json")), add_bos_token=False, add_eos_token=True,
                              model_max_length=64, padding_side="right")


def siglip2(folder):
    """transformers 5's `Siglip2Tokenizer`, which reads the same file and lower-cases."""
    from transformers import Siglip2Tokenizer

    gemma_core().save(str(Path(folder, "tokenizer.json")))
    config = {"tokenizer_class": "Siglip2Tokenizer", "model_max_length": 64, "padding_side": "right", "pad_token": "<pad>",
              "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>", "mask_token": None}
    Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
    return Siglip2Tokenizer.from_pretrained(folder)


def siglip_fast(slow):
    """The `tokenizers` form of a `SiglipTokenizer`, as transformers.js's converter makes it."""
    from tokenizers import Regex, normalizers, processors
    from transformers.convert_slow_tokenizer import SpmConverter

    class Converter(SpmConverter):
        handle_byte_fallback = False

        def normalizer(self, proto):
            punctuation = Regex(r"""[!"\#\$%\&'\(\)\*\+,\-\.\/:;<=>\?@\[\\\]\^_`\{\|\}\~]""")
            own = [normalizers.Lowercase(), normalizers.Replace(punctuation, ""), normalizers.Replace(Regex(r"\s+"), " "),
                   normalizers.Strip()]
            return normalizers.Sequence([*own, super().normalizer(proto)])

        def vocab(self, proto):
            return [(piece.piece, piece.score) for piece in proto.pieces]

        def unk_id(self, proto):
            return proto.trainer_spec.unk_id

        def post_processor(self):
            return processors.TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 1)])

    return Converter(slow).converted()
