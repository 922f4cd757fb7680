# SPDX-License-Identifier: Apache-2.0
"""The tiny model as other programs lay theirs out: safetensors files, and what they call tensors.

A file is a dict of name -> (dtype, shape, bytes); all of it is done with the standard library.
"""
import json
import struct


def read(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"]),
                   data[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]])
            for name, entry in header.items()}


def write(path, tensors, metadata=None):
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))
    return path


def write_sharded(folder, stem, index, tensors, shards=2):
    """diffusers' and transformers' way: numbered files, and an index beside them."""
    names, where = list(tensors), {}
    for number in range(shards):
        part = {name: tensors[name] for name in names[number::shards]}
        file = f"{stem}-{number + 1:05}-of-{shards:05}.safetensors"
        write(folder / file, part)
        where.update(dict.fromkeys(part, file))
    total = sum(len(t[2]) for t in tensors.values())
    (folder / index).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}))


def comfy_transformer(tensors):
    """ComfyUI's names (its model is Lumina's): q, k and v in one, other heads and norms."""
    named = {}
    for name, (dtype, shape, data) in tensors.items():
        if ".attention.to_q." in name:
            parts = [tensors[name.replace("to_q", which)] for which in ("to_q", "to_k", "to_v")]
            named[name.replace("to_q", "qkv")] = (
                dtype, (3 * shape[0], *shape[1:]), b"".join(part[2] for part in parts))
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            for old, new in (("all_x_embedder.2-1.", "x_embedder."),
                             ("all_final_layer.2-1.", "final_layer."),
                             (".attention.to_out.0.", ".attention.out."),
                             (".attention.norm_q.", ".attention.q_norm."),
                             (".attention.norm_k.", ".attention.k_norm.")):
                name = name.replace(old, new)
            named[name] = (dtype, shape, data)
    return named


def bfl_vae(tensors, blocks=4):
    """The names that came with FLUX's ae.safetensors, where attention is 1x1 convolutions."""
    named = {}
    for name, (dtype, shape, data) in tensors.items():
        half, rest = name.split(".", 1)
        words = rest.split(".")
        if words[0] in ("up_blocks", "down_blocks"):
            number = blocks - 1 - int(words[1]) if words[0] == "up_blocks" else int(words[1])
            inner = (["block"] + words[3:] if words[2] == "resnets"
                     else ["upsample" if words[0] == "up_blocks" else "downsample", "conv", words[-1]])
            rest = ".".join([words[0][:-len("_blocks")], str(number), *inner])
        for old, new in (("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"),
                         ("mid_block.resnets.0", "mid.block_1"),
                         ("mid_block.resnets.1", "mid.block_2"),
                         ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
                         ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
                         ("mid_block.attentions.0.to_", "mid.attn_1.")):
            rest = rest.replace(old, new)
        if ".attn_1." in rest and len(shape) == 2:
            shape = (*shape, 1, 1)
        named[f"{half}.{rest}"] = (dtype, shape, data)
    return named


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}
