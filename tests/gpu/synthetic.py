#!/usr/bin/env python3
"""synthetic.py FOLDER: a Stable Diffusion 1.4 of random numbers, as measure.sh wants it.

The shapes are those of the published configs (tests/fixtures/networks/*_sd14.json and their lists
of parameters), so times are those of the real model; the pictures mean nothing. Needs torch and
safetensors. The tokenizer is that of tests/fixtures/tiny-sd.
"""
import json
import math
import os
import shutil
import sys

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
NETWORKS = os.path.join(HERE, "..", "fixtures", "networks")
TINY = os.path.join(HERE, "..", "fixtures", "tiny-sd")
PARTS = {
    "text_encoder": ("clip_sd14", "model.safetensors"),
    "unet": ("unet_sd14", "diffusion_pytorch_model.safetensors"),
    "vae": ("vae_sd14", "diffusion_pytorch_model.safetensors"),
}


def tensor(name, shape, dice):
    """Kept small enough that f16 does not overflow, random enough to be no special case."""
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    fan = math.prod(shape[1:])
    return torch.randn(shape, generator=dice) / math.sqrt(fan)


def main(folder):
    dice = torch.Generator().manual_seed(1)
    for part, (network, file) in PARTS.items():
        os.makedirs(os.path.join(folder, part), exist_ok=True)
        shutil.copy(os.path.join(NETWORKS, network + ".json"),
                    os.path.join(folder, part, "config.json"))
        tensors = {}
        with open(os.path.join(NETWORKS, network + ".parameters"), encoding="utf-8") as f:
            for line in f:
                name, *shape = line.split()
                shape = [int(n) for n in " ".join(shape).strip("[]").replace(",", " ").split()]
                tensors[name] = tensor(name, shape, dice).half()
        save_file(tensors, os.path.join(folder, part, file))
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(os.path.join(TINY, name), os.path.join(folder, name), dirs_exist_ok=True)
    shutil.copy(os.path.join(TINY, "model_index.json"), folder)
    with open(os.path.join(folder, "moji.json"), "w", encoding="utf-8") as f:
        json.dump({"name": "synthetic SD 1.4", "defaults": {"steps": 20, "sampler": "ddim"}}, f)


if __name__ == "__main__":
    main(sys.argv[1])
