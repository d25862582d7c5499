"""Holds a LoRA that moji merges into a full-size U-Net against PEFT, which adds it while the U-Net runs.

    make engine
    python merged.py FOLDER SCRATCH [--moji build/moji] [--threads 1] [--size 512]

FOLDER is a Stable Diffusion 1.x in diffusers' layout (tests/gpu/synthetic.py makes one of random numbers). The
LoRA is random too, of rank 16 on every attention, and diffusers writes it. Both compute in f32 on the same noise
and text. Ends with an error if they differ by more than 1e-5, relative L2. Needs torch, diffusers, peft,
safetensors, 8 GiB of memory.
"""
import argparse
import pathlib
import sys

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

import forms

MOST = 1e-5


def peft_unet(folder, scratch):
    """diffusers' U-Net with the LoRA beside its layers, and the file that diffusers wrote of it."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    unet.add_adapter(LoraConfig(r=16, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"],
                                init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(
        scratch, unet_lora_layers=get_peft_model_state_dict(unet), weight_name="rank16.safetensors",
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict())
    return unet, scratch / "rank16.safetensors"


def noise_of(x, after):
    """What the U-Net gave, from the latents before and after DDIM's only step, 999 -> the end."""
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64).square()
    alphas = (1 - betas).cumprod(0).numpy()
    first, last = alphas[999], alphas[0]
    scale = (last / first) ** 0.5
    return (after - scale * x) / ((1 - last) ** 0.5 - scale * (1 - first) ** 0.5)


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@torch.no_grad()
def compare(unet, folder, scratch, moji, threads, *lora):
    """Their prediction of the noise and by how much ours is another."""
    forms.draw(moji, folder, scratch / "dump", "--threads", threads, "--type", "f32", *lora)
    noise, after, context = (np.load(scratch / "dump" / (n + ".npy")) for n in ("noise", "latents_01", "embeddings"))
    (unet.enable_adapters if lora else unet.disable_adapters)()
    theirs = unet(torch.from_numpy(noise).float().permute(0, 3, 1, 2), torch.tensor(999),
                  torch.from_numpy(context).float()).sample.permute(0, 2, 3, 1).double().numpy()
    return theirs, relative(noise_of(noise.astype("float64"), after.astype("float64")), theirs)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("folder", type=pathlib.Path)
    args.add_argument("scratch", type=pathlib.Path)
    args.add_argument("--moji", default=forms.ROOT / "build" / "moji")
    args.add_argument("--threads", default="1")
    args.add_argument("--size", default="512")
    a = args.parse_args()
    forms.SIZE = a.size
    a.scratch.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(a.threads))
    unet, lora = peft_unet(a.folder, a.scratch)
    without, plain = compare(unet, a.folder, a.scratch, a.moji, a.threads)
    added, merged = compare(unet, a.folder, a.scratch, a.moji, a.threads, "--lora", f"{lora}:1")
    print(f"U-Net of {sum(p.numel() for n, p in unet.named_parameters() if 'lora_' not in n):,} parameters in f32, "
          f"relative L2: ours and theirs without LoRA {plain:.1e}; ours merged and theirs at run time {merged:.1e}; "
          f"with the LoRA and without {relative(added, without):.1e}")
    return bool(max(merged, plain) > MOST)


if __name__ == "__main__":
    sys.exit(main())
