# SPDX-License-Identifier: Apache-2.0
"""A small byte-level BPE tokenizer with Qwen's conventions.

Same normalisation (NFC), splitting expression, added tokens and chat template,
but a vocabulary learnt from the captions, so that their words are one token.

    python tokens.py --sprites sprites.npz --out ../tokenizer
"""
import argparse
import json
import os
import random

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>",
         "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>",
         "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
         "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>",
         "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
         "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
         "<think>", "</think>"]
SPECIAL = 14  # the first ones are special in Qwen's sense
VOCABULARY = 2048
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)


def learn(captions):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(ADDED), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(captions, trainer)
    return json.loads(tokenizer.to_str())


def write(tree, captions):
    """tokenizer.json and tokenizer_config.json into the folder `tree`."""
    os.makedirs(tree, exist_ok=True)
    content = learn(captions)
    first = len(content["model"]["vocab"])
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    content["added_tokens"] = [
        dict(id=first + k, content=text, **flags, special=k < SPECIAL)
        for k, text in enumerate(ADDED)]
    with open(os.path.join(tree, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, separators=(",", ":"))
    config = {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
        "added_tokens_decoder": {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"}
            for t in content["added_tokens"]},
        "additional_special_tokens": ADDED[1:SPECIAL],
        "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072,
        "pad_token": "<|endoftext|>", "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }
    with open(os.path.join(tree, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1, ensure_ascii=False)


class Encoder:
    """Captions to padded id arrays, the chat template applied."""

    def __init__(self, tree):
        self.tokenizer = Tokenizer.from_file(os.path.join(tree, "tokenizer.json"))
        self.pad = self.tokenizer.token_to_id("<|endoftext|>")

    def __call__(self, captions, padded):
        """ids [n,padded] int64, lengths [n]; longer captions are cut."""
        encoded = self.tokenizer.encode_batch([TEMPLATE.format(c) for c in captions])
        ids = np.full((len(captions), padded), self.pad, np.int64)
        lengths = np.empty(len(captions), np.int64)
        for row, one in enumerate(encoded):
            line = one.ids[:padded]
            ids[row, : len(line)], lengths[row] = line, len(line)
        return ids, lengths


def main():
    import compose
    import scenes

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", default="sprites.npz")
    parser.add_argument("--out", default="../tokenizer")
    parser.add_argument("--count", type=int, default=120000)
    args = parser.parse_args()
    infos = compose.load_sprites(args.sprites)[0]
    rng = random.Random(5)
    captions = [s["caption"] for s in scenes.many(infos, args.count, 5)]
    captions += [c.capitalize() for c in rng.sample(captions, args.count // 4)]
    names = [name for info in infos for name in info["names"]] * 12
    words = [f"a {n}" for n in names] + [scenes.plural(n) for n in names]
    frame = ["user\n" + c for c in captions] + ["\n", "assistant\n"] * 200
    write(args.out, frame + words)
    encoder = Encoder(args.out)
    lengths = encoder(captions[:20000], 512)[1]
    print("tokens: mean", lengths.mean(), "longest", lengths.max(),
          "over 32:", (lengths > 32).mean())


if __name__ == "__main__":
    main()
