# SPDX-License-Identifier: Apache-2.0
"""Write the Hugging Face tree from the training state, in BF16.

    python export.py --state state --tree ..
"""
import argparse
import json
import os

import torch
from safetensors.torch import save_file

import common
from model import IMAGE, LATENT, TEXT

VERSION = "0.40.0.dev0"  # of the public classes whose configuration this is


def write_json(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    os.replace(path + ".part", path)


def write_weights(path, state):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    half = {k: v.to(torch.bfloat16).contiguous() for k, v in state.items()}
    save_file(half, path + ".part", metadata={"format": "pt"})
    os.replace(path + ".part", path)


def text_config():
    c = TEXT
    return {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": None, "dtype": "bfloat16",
        "eos_token_id": None, "head_dim": c["head_dim"], "hidden_act": "silu",
        "hidden_size": c["dim"], "initializer_range": 0.02,
        "intermediate_size": c["hidden"], "layer_types": ["full_attention"] * c["layers"],
        "max_position_embeddings": 40960, "max_window_layers": c["layers"],
        "model_type": "qwen3", "num_attention_heads": c["heads"],
        "num_hidden_layers": c["layers"], "num_key_value_heads": c["kv_heads"],
        "pad_token_id": None, "rms_norm_eps": 1e-06, "rope_theta": 1000000,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_window": None, "tie_word_embeddings": True, "use_cache": True,
        "use_sliding_window": False, "vocab_size": c["vocab"],
    }


def transformer_config():
    c = IMAGE
    return {
        "_class_name": "ZImageTransformer2DModel", "_diffusers_version": VERSION,
        "all_f_patch_size": [1], "all_patch_size": [2], "axes_dims": list(c["axes"]),
        "axes_lens": [1536, 512, 512], "cap_feat_dim": TEXT["dim"], "dim": c["dim"],
        "in_channels": 16, "n_heads": c["heads"], "n_kv_heads": c["heads"],
        "n_layers": c["layers"], "n_refiner_layers": c["refiners"], "norm_eps": 1e-05,
        "qk_norm": True, "rope_theta": c["theta"], "t_scale": 1000.0,
    }


def vae_config(shift, scale):
    levels = len(LATENT["channels"])
    return {
        "_class_name": "AutoencoderKL", "_diffusers_version": VERSION, "act_fn": "silu",
        "block_out_channels": list(LATENT["channels"]),
        "down_block_types": ["DownEncoderBlock2D"] * levels, "force_upcast": True,
        "in_channels": 3, "latent_channels": LATENT["latent"], "latents_mean": None,
        "latents_std": None, "layers_per_block": 1, "mid_block_add_attention": True,
        "norm_num_groups": LATENT["groups"], "out_channels": 3, "sample_size": 256,
        "scaling_factor": scale, "shift_factor": shift,
        "up_block_types": ["UpDecoderBlock2D"] * levels, "use_post_quant_conv": False,
        "use_quant_conv": False,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", default="state")
    parser.add_argument("--tree", default="..")
    args = parser.parse_args()

    def at(*parts):
        return os.path.join(args.tree, *parts)

    weights = common.load(os.path.join(args.state, "student-ema.pt"), "cpu")
    text = {"model." + k[5:]: v for k, v in weights.items() if k.startswith("text.")}
    image = {k[12:]: v for k, v in weights.items() if k.startswith("transformer.")}
    vae = common.load(os.path.join(args.state, "vae.pt"), "cpu")
    shift, scale = (round(vae.pop(k).item(), 6) for k in ("shift", "scale"))
    write_weights(at("text_encoder", "model.safetensors"), text)
    write_weights(at("transformer", "diffusion_pytorch_model.safetensors"), image)
    write_weights(at("vae", "diffusion_pytorch_model.safetensors"), vae)
    write_json(at("text_encoder", "config.json"), text_config())
    write_json(at("transformer", "config.json"), transformer_config())
    write_json(at("vae", "config.json"), vae_config(shift, scale))
    write_json(at("scheduler", "scheduler_config.json"), {
        "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": VERSION,
        "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": False})
    write_json(at("model_index.json"), {
        "_class_name": "ZImagePipeline", "_diffusers_version": VERSION,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3Model"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"]})
    total = sum(os.path.getsize(os.path.join(d, f)) for d, _, names in os.walk(args.tree)
                for f in names if "train" not in d and f != "README.md" and f[-4:] != ".png")
    print(f"{total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
