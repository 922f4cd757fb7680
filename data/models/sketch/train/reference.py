# SPDX-License-Identifier: Apache-2.0
"""Trace the tree through the public pipeline class, FP32 on the CPU.

Writes NAME.json (the request) and NAME.safetensors (the trace) for three
captions; the engine's tests compare with them. Needs diffusers and
transformers from the package index.

    python reference.py --tree .. --out ../../../../tests/data/sketch-golden
"""
import argparse
import json
import os

import numpy as np
import torch
from diffusers import ZImagePipeline
from safetensors.torch import save_file

REQUESTS = {
    "apple": ("a red apple", 7),
    "cat-chair": ("a cat above a blue chair", 11),
    "stars": ("three green stars on a yellow background", 3),
}

KEPT = (4, 8)  # steps whose latents are stored


def trace(pipe, prompt, seed, edge=256, steps=8):
    tensors, outputs = {}, []
    hook = pipe.transformer.register_forward_hook(lambda m, i, o: outputs.append(o))
    embeds, _ = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    text = pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False,
        add_generation_prompt=True, enable_thinking=True)
    tensors["prompt.token_ids"] = torch.tensor(pipe.tokenizer(text).input_ids)
    tensors["prompt.embeds"] = embeds[0].float()
    shape = (1, 16, edge // 8, edge // 8)
    tensors["latents.init"] = torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def keep(_, step, __, values):
        if step + 1 in KEPT:
            tensors[f"latents.step{step + 1:02d}"] = values["latents"].clone()
        return values

    image = pipe(prompt=prompt, height=edge, width=edge, num_inference_steps=steps,
                 guidance_scale=0.0, generator=torch.Generator().manual_seed(seed),
                 output_type="np", callback_on_step_end=keep,
                 callback_on_step_end_tensor_inputs=["latents"]).images[0]
    hook.remove()
    tensors["transformer.step01"] = outputs[0][0][0].float()
    tensors["scheduler.sigmas"] = pipe.scheduler.sigmas.float()
    tensors["scheduler.timesteps"] = pipe.scheduler.timesteps.float()
    tensors["image.u8"] = torch.from_numpy((image * 255).round().astype(np.uint8))
    return {k: v.detach().contiguous() for k, v in tensors.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", default="..")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    pipe = ZImagePipeline.from_pretrained(args.tree, torch_dtype=torch.float32)
    os.makedirs(args.out, exist_ok=True)
    for name, (prompt, seed) in REQUESTS.items():
        tensors = trace(pipe, prompt, seed)
        request = {"prompt": prompt, "negative": None, "height": 256, "width": 256,
                   "steps": 8, "seed": seed, "guidance": 0.0,
                   "cfg_normalization": False, "cfg_truncation": 1.0,
                   "tokens": len(tensors["prompt.token_ids"])}
        with open(os.path.join(args.out, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(request, file, indent=1)
            file.write("\n")
        save_file(tensors, os.path.join(args.out, name + ".safetensors"))
        print(name, {k: tuple(v.shape) for k, v in tensors.items()})


if __name__ == "__main__":
    main()
