"""Stage 9: look at it.

    python sheet.py --model DIR --out sheet.png [--names cat dog ...]     drawn by diffusers from the exported folder
    python sheet.py --model DIR --out sheet.png --prompts compositions.tsv    a row's English prompt and the Korean one
    python sheet.py --work DIR --part inner --out vae.png                 reconstructions of the autoencoder

Without --names or --prompts: every name in the model's card, in English or, with --tongue ko, in Korean. The backgrounds take turns.
"""
import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from common import BACKGROUNDS, BACKGROUNDS_KO, compose, rgb, to_tensor

FONTS = ["/usr/share/fonts/truetype/nanum/NanumGothic.ttf", "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
         "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"]


def grid(pictures, labels, cell, columns):
    font = next((ImageFont.truetype(f, max(9, cell // 11)) for f in FONTS if Path(f).exists()),
                ImageFont.load_default())
    strip = max(12, cell // 8) if labels else 0
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * cell, rows * (cell + strip)), "white")
    for i, p in enumerate(pictures):
        x, y = i % columns * cell, i // columns * (cell + strip)
        out.paste(p.resize((cell, cell), Image.LANCZOS), (x, y))
        if labels:
            label = Image.new("RGB", (cell, strip), "white")        # of its own, so that a long one ends at its cell
            ImageDraw.Draw(label).text((2, 0), labels[i], fill="black", font=font)
            out.paste(label, (x, y + cell))
    return out


def reconstructions(args):
    import vae as autoencoder
    state = torch.load(args.work / f"vae-{args.part}.pt", weights_only=False)
    vae = autoencoder.build(state["shape"])
    vae.load_state_dict(state["average"])
    half = args.part != "outer"
    if half:
        autoencoder.outermost(vae, False)
    vae = vae.to(memory_format=torch.channels_last).eval()
    scenes = np.load(args.work / "scenes.npy", mmap_mode="r")
    rng = np.random.default_rng(5)
    pictures = []
    for k, i in enumerate(rng.choice(len(scenes), min(args.count, len(scenes)), replace=False)):
        rgba = scenes[i] if half else scenes[i].repeat(2, 0).repeat(2, 1)
        x = to_tensor([compose(rgba, rgb(list(BACKGROUNDS)[k % 4]))])
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.float()
        for v in (x, y):
            pictures.append(Image.fromarray(((v[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).byte().numpy()))
    grid(pictures, None, 256 if half else 384, 8 if half else 4).save(args.out)


def drawings(args):
    from diffusers import LCMScheduler, StableDiffusionPipeline
    from safetensors.torch import load_file
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = StableDiffusionPipeline.from_pretrained(args.model, safety_checker=None, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    card = json.loads((args.model / "moji.json").read_text())
    if args.lora:               # a few steps, as distil.py means them
        from distil import LADDER, merged
        found = load_file(args.lora)
        lora = {k[5:-len(".lora_A.weight")]: (v, found[k.replace(".lora_A.", ".lora_B.")]) for k, v in found.items() if ".lora_A." in k}
        pipe.unet.load_state_dict(merged(pipe.unet.state_dict(), {k: (a.to(device), b.to(device)) for k, (a, b) in lora.items()}))
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=LADDER)
        card["defaults"] |= {"steps": 4, "guidance": 1.0}
    wanted = []
    colours = list(card["backgrounds"])

    def english(i, name):
        c = colours[i % len(colours)]
        wanted.append((f"{name}, {card['default_style']}, {c} background", f"{name}, {c}"))

    def korean(i, name):
        word = BACKGROUNDS_KO[colours[i % len(colours)]][0]
        wanted.append((f"{name}, {card['default_style']}, {word} 배경", f"{name}, {word}"))

    if args.names:
        wanted = [(n, n) for n in args.names]
    elif args.prompts:
        with open(args.prompts, encoding="utf-8") as f:
            for i, row in enumerate(csv.DictReader(f, delimiter="\t")):
                english(i, row["en"]), korean(i, row["ko"])
    else:
        for i, name in enumerate(card["draws"][args.tongue]):
            english(i, name) if args.tongue == "en" else korean(i, name)
    wanted = wanted[:args.count]
    pictures = []
    many = 8 if device == "cpu" else 64
    for k in range(0, len(wanted), many):
        part = wanted[k:k + many]
        with torch.autocast(device, dtype=torch.bfloat16, enabled=args.bf16):
            pictures += pipe([p for p, _ in part], num_inference_steps=card["defaults"]["steps"],
                             guidance_scale=args.guidance or card["defaults"]["guidance"],
                             height=card["defaults"]["size"], width=card["defaults"]["size"],
                             generator=[torch.Generator().manual_seed(args.seed + k + j)
                                        for j in range(len(part))]).images
    grid(pictures, [l for _, l in wanted], args.cell, args.columns).quantize(256).save(args.out, optimize=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", type=Path)
    ap.add_argument("--work", type=Path)
    ap.add_argument("--lora", type=Path, help="of distil.py: four steps of LCM")
    ap.add_argument("--part", choices=["inner", "decoder", "outer"])
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--names", nargs="+")
    ap.add_argument("--tongue", choices=["en", "ko"], default="en", help="of the card's names")
    ap.add_argument("--prompts", type=Path)
    ap.add_argument("--count", type=int, default=1000)
    ap.add_argument("--cell", type=int, default=112)
    ap.add_argument("--columns", type=int, default=12)
    ap.add_argument("--guidance", type=float)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--bf16", action="store_true")
    args = ap.parse_args()
    drawings(args) if args.model else reconstructions(args)


if __name__ == "__main__":
    main()
