"""Stage 8: the model folder, in diffusers' layout, fp16.

    python export.py --work DIR --out DIR
    python export.py --work DIR --out DIR --reach all --distilled lora       beside it OUT-lcm.safetensors, for a few steps
    python export.py --work DIR --out DIR --reach all --distilled merge      the same in the weights: few steps are the default

Takes the averaged weights of whatever stages have run (random ones where none has), folds the latents' mean and spread
into the autoencoder's two 1x1 convolutions, so that scaling_factor is 1, and puts the folder in place in one rename.
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

import captions
import diffusion
import distil
import frog
import vae as autoencoder
from common import BACKGROUNDS, BACKGROUNDS_KO
from scenes import DRAWN, names, scenes


def single(draw, korean):
    """The main names of single things, and of the frog in its moods."""
    return [names(s, korean)[0] for s in scenes(draw, captions.DEFAULT_STYLE) if s.thing < 0 and (s.mood < 0 or s.style == frog.STYLE)]


def everything(work):
    """What a model of the full grammar draws by name, in English and in Korean, and its styles."""
    from grammar import STYLES
    rows = json.loads((work / "catalogue.json").read_text())
    return {t: [r[t] for r in rows] for t in ("en", "ko")}, STYLES


def card(args):
    if args.reach == "small":
        draws, styles, sources = {t: single(args.draw, t == "ko") for t in ("en", "ko")}, captions.STYLES, "Twemoji (CC-BY-4.0)"
    else:
        draws, styles = everything(args.work)
        sources = "Twemoji and EmojiOne (CC-BY-4.0), Noto and fxemoji (Apache-2.0), Fluent Emoji (MIT)"
    few = args.distilled == "merge"
    return {
        "name": "moji-mini", "version": args.version,
        "licence": f"see model/LICENSE: draws after {sources}",
        "defaults": {"steps": 4 if few else args.steps, "guidance": 1.0 if few else args.guidance,
                     "sampler": "lcm" if few else "ddim", "size": 512, "background": "green"},
        "prompt": "{prompt}, {style}, {background} background",
        "prompt_ko": "{prompt}, {style}, {background} 배경",
        "styles": styles, "default_style": captions.DEFAULT_STYLE,
        "backgrounds": {name: {"rgb": colour, "ko": BACKGROUNDS_KO[name]}
                        for name, (colour, weight) in BACKGROUNDS.items() if weight},
        "draws": draws,
    }


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--version", default="1")
    ap.add_argument("--shape", default="mini")
    ap.add_argument("--steps", type=int, default=1)
    ap.add_argument("--guidance", type=float, default=1.0)
    ap.add_argument("--draw", nargs="+", default=DRAWN, help="as given to diffusion.py: named in the card")
    ap.add_argument("--reach", choices=["small", "all"], default="small")
    ap.add_argument("--distilled", choices=["no", "lora", "merge"], default="no", help="what becomes of distil.py's LoRA")
    args = ap.parse_args()
    torch.manual_seed(0)

    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    vae = autoencoder.build(args.shape)
    for part in ("drawn", "outer", "decoder", "inner"):
        path = args.work / f"vae-{part}.pt"
        if path.exists():
            vae.load_state_dict(torch.load(path, weights_only=False)["average"])
            break
    unet, text = diffusion.build(args.shape, len(tokenizer))
    path = args.work / "diffusion.pt"
    if path.exists():
        average = torch.load(path, weights_only=False)["average"]
        unet.load_state_dict(average["unet"]), text.load_state_dict(average["text"])
    sampler = diffusion.scheduler()
    if args.distilled != "no":
        lora = torch.load(args.work / "distilled.pt", weights_only=False)["lora"]
        if args.distilled == "lora":
            save_file({k: v.contiguous() for k, v in distil.tensors(lora).items()}, args.out.with_name(args.out.name + "-lcm.safetensors"),
                      metadata={"format": "pt", "ss_output_name": f"{args.out.name} lcm"})
        else:
            unet.load_state_dict(distil.merged(unet.state_dict(), lora))
            sampler = LCMScheduler.from_config(sampler.config, original_inference_steps=distil.LADDER)
    path = args.work / "latents.pt"
    if path.exists():
        data = torch.load(path, weights_only=False)
        mean, std = data["mean"], data["std"]
        n = len(mean)
        q, p = vae.quant_conv, vae.post_quant_conv
        with torch.no_grad():
            # z' = (z - mean) / std; the log-variance moves by -2 log std
            q.weight[:n] /= std.view(-1, 1, 1, 1)
            q.bias[:n] = (q.bias[:n] - mean) / std
            q.bias[n:] -= 2 * std.log()
            p.bias += p.weight[:, :, 0, 0] @ mean
            p.weight *= std.view(1, -1, 1, 1)

    pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet,
                                   scheduler=sampler, safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False).to(torch.float16)
    part, old = args.out.with_name(args.out.name + ".part"), args.out.with_name(args.out.name + ".old")
    for p in (part, old):
        shutil.rmtree(p, ignore_errors=True)
    pipe.save_pretrained(part, safe_serialization=True)
    # transformers 5 drops the prefix that SD 1.x files carry; it reads both, other readers may not
    path = part / "text_encoder" / "model.safetensors"
    save_file({"text_model." + k.removeprefix("text_model."): v for k, v in load_file(path).items()}, path,
              metadata={"format": "pt"})
    # diffusers may write the tokenizer in a newer form alone: CLIP's own two files are the format here
    shutil.rmtree(part / "tokenizer")
    shutil.copytree(args.work / "tokenizer", part / "tokenizer")
    (part / "moji.json").write_text(json.dumps(card(args), indent=2, ensure_ascii=False) + "\n")
    for file in part.rglob("*.safetensors"):
        file.chmod(0o644)
    if args.out.exists():
        args.out.rename(old)
    part.rename(args.out)
    shutil.rmtree(old, ignore_errors=True)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out.name}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
