"""Stages 4 to 6: cached latents, then the text encoder, then the UNet, from scratch.

    python diffusion.py --work DIR --part latents
    python diffusion.py --work DIR --part text --minutes 3
    python diffusion.py --work DIR --part train --minutes 35

Latents come from the inner autoencoder at half size (see vae.py), of every concept in concepts.tsv, in every
caption style, on every background that is drawn; standardised by channel. The text encoder learns first and alone, as in Stable Diffusion, whose
CLIP was trained before: to tell from a caption, in either language, what is drawn, on which colour, and how that looks from afar.
The trainer predicts v at zero terminal SNR (or else flat backgrounds drift to grey) with plain squared error, timesteps leaning
towards noise at first, where the picture is decided; 10 % of captions are dropped for guidance.
"""
import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import captions
from art import concepts
from common import BACKGROUNDS, Clock, Ema, compose, device_setup, open_art, rgb, save, to_tensor
from norm import fuse_norms
from vae import build as build_vae, outermost, place

SHAPES = {      # UNet channels, text width, text layers
    "mini": ((64, 128, 192), 128, 3),
    "toy": ((32, 32, 32), 32, 1),
}


def build(shape, tokens):
    ch, width, layers = SHAPES[shape]
    unet = UNet2DConditionModel(
        sample_size=32, in_channels=8, out_channels=8, block_out_channels=ch, layers_per_block=1,
        down_block_types=["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
        cross_attention_dim=width, attention_head_dim=4, norm_num_groups=32)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=tokens, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=captions.LENGTH, projection_dim=width, hidden_act="quick_gelu",
        bos_token_id=tokens - 2, eos_token_id=tokens - 1, pad_token_id=tokens - 1))
    with torch.no_grad():
        # CLIP's own start (0.02) makes all captions alike. Here words start far apart, and attention strong enough that every
        # place after a word carries some of it: cross-attention starts as a plain average over all 32 places.
        embeddings = [m for m in text.modules() if isinstance(m, nn.Embedding)]
        embeddings[0].weight.normal_(0, 1)
        embeddings[1].weight.normal_(0, 0.1)
        for name, p in text.named_parameters():
            if name.endswith(("v_proj.weight", "out_proj.weight")):
                p.mul_(2.5)
    return unet, text


def scheduler():
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=True, steps_offset=1, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing")


def make_latents(args):
    device, autocast = device_setup(args.seed)
    state = torch.load(args.work / "vae-inner.pt", weights_only=False)
    vae = build_vae(state["shape"])
    vae.load_state_dict(state["average"])
    outermost(vae, False)
    vae = fuse_norms(vae.to(device, memory_format=torch.channels_last)).eval()
    _, index = open_art(args.work)
    art = np.load(args.work / "art-half.npy", mmap_mode="r")
    rows = {r["slug"]: i for i, r in enumerate(concepts())}
    table = concepts()
    # Moves of 8 half-size pixels are moves of one latent pixel. Off by default: with half an hour of two CPU cores, one
    # answer to each caption is learned sharply and several are learned as a blur.
    shifts = [(0, 0), (8, 0), (0, -8)] if args.vary else [(0, 0)]
    latents, labels, waiting = [], [], []

    @torch.inference_mode()
    def flush():
        with autocast:
            z = vae.encode(to_tensor([w[0] for w in waiting]).to(device)).latent_dist.mean
        latents.append(z.float().cpu().half())
        labels.extend(w[1] for w in waiting)
        waiting.clear()

    for i, entry in enumerate(index):
        if not entry["concept"] or entry["set"] not in captions.STYLES:
            continue
        row = rows[entry["concept"]]
        for k, shift in enumerate(shifts):
            base = place(np.array(art[i]), *shift)
            for j, background in enumerate(BACKGROUNDS):
                if not BACKGROUNDS[background][1]:
                    continue
                # The main place is mirrored too; the shifted ones take turns.
                flips = ([0, 1] if k == 0 else [(j + k) % 2]) if args.vary and table[row]["mirror"] == "yes" else [0]
                for flip in flips:
                    picture = base[:, ::-1] if flip else base
                    waiting.append((compose(picture, rgb(background)),
                                 [row, captions.STYLES.index(entry["set"]), j, k, flip]))
                    if len(waiting) == 32:
                        flush()
    if waiting:
        flush()
    z = torch.cat(latents).float()
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    z = (z - mean[:, None, None]) / std[:, None, None]
    save(args.work / "latents.pt", z=z.half(), labels=torch.tensor(labels), mean=mean, std=std)
    print(f"{len(z)} latents, std by channel {[round(v, 2) for v in std.tolist()]}", flush=True)


def train_text(args):
    """The mean over a caption's places, which is what cross-attention reads at first, tells name, colour and rough picture."""
    torch.manual_seed(args.seed)
    data = torch.load(args.work / "latents.pt", weights_only=False)
    labels = data["labels"].numpy()
    rough = F.avg_pool2d(data["z"].float(), 4).flatten(1)
    rough = rough / rough.std()
    table, backgrounds = concepts(), list(BACKGROUNDS)
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    _, text = build(args.shape, len(tokenizer))
    width = text.config.hidden_size
    heads = nn.ModuleList([nn.Linear(width, n) for n in (len(table), len(backgrounds), len(captions.STYLES), rough.shape[1])])
    path, rate = args.work / "text.pt", args.lr
    if path.exists():       # more names for a text encoder that a U-Net already reads: it should move little
        text.load_state_dict(torch.load(path, weights_only=False)["text"])
        rate = args.lr / 10
    params = [*text.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW([{"params": [*text.parameters()], "rate": rate}, {"params": [*heads.parameters()], "rate": 5 * args.lr}],
                                  lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    rng, clock, step, sums = np.random.default_rng(args.seed), Clock(args.minutes), 0, []
    while clock.share() < 1:
        for group in optimiser.param_groups:
            group["lr"] = clock.lr(group["rate"], step)
        pick = rng.integers(len(labels), size=128)
        words = [captions.caption(table[r], captions.STYLES[s], backgrounds[b], rng) for r, s, b, _, _ in labels[pick]]
        ids = tokenizer(words, padding="max_length", max_length=captions.LENGTH, truncation=True, return_tensors="pt").input_ids
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mean = text(ids).last_hidden_state.mean(1)
            name, colour, style, look = (h(mean).float() for h in heads)
        truth = torch.from_numpy(labels[pick])
        loss = (F.cross_entropy(name, truth[:, 0]) + F.cross_entropy(colour, truth[:, 2]) + F.cross_entropy(style, truth[:, 1])
                + F.mse_loss(look, rough[torch.from_numpy(pick)]))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        step += 1
        sums.append([(name.argmax(1) == truth[:, 0]).float().mean().item(),
                     (colour.argmax(1) == truth[:, 2]).float().mean().item(), F.mse_loss(look, rough[torch.from_numpy(pick)]).item()])
        if step % 50 == 0:
            n, c, m = np.mean(sums, 0)
            sums = []
            print(f"step {step} minute {clock.used() / 60:.1f} names {n:.3f} colours {c:.3f} look {m:.3f}", flush=True)
    save(path, text=text.state_dict())


def train(args):
    # With WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT set, several processes share a batch. On a CPU two processes of
    # one thread each, pinned to a core, make nearly twice the steps of one process with two threads.
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world > 1:
        dist.init_process_group("gloo")
    device, autocast = device_setup(args.seed)
    path = args.work / "diffusion.pt"
    data = torch.load(args.work / "latents.pt", weights_only=False)
    z, labels = data["z"].to(device), data["labels"].numpy()
    # Draw concepts evenly, then style and background by weight: every picture's share of the draws.
    weight = np.array([BACKGROUNDS[list(BACKGROUNDS)[b]][1] * args.style_weights[s] * (1.5 if k == 0 else 1)
                       for _, s, b, k, _ in labels], np.float64)
    for row in np.unique(labels[:, 0]):
        weight[labels[:, 0] == row] /= weight[labels[:, 0] == row].sum()
    weight /= weight.sum()
    table = concepts()
    # Latents may have been made for more concepts and backgrounds than are now drawn.
    drawn = np.array([table[r]["draw"] in args.draw for r in labels[:, 0]])
    weight *= drawn
    weight /= weight.sum()
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    unet, text = build(args.shape, len(tokenizer))
    state = torch.load(path, weights_only=False) if path.exists() else None
    if state:
        unet.load_state_dict(state["unet"])
    text.load_state_dict(torch.load(args.work / "text.pt", weights_only=False)["text"])
    unet = fuse_norms(unet.to(device, memory_format=torch.channels_last))
    text = text.to(device)
    params = list(unet.parameters())
    print(f"unet {sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M, "
          f"text {sum(p.numel() for p in text.parameters()) / 1e6:.2f} M, {len(z)} latents", flush=True)
    # Trained along, the text model first learns the background and presses the names, as yet no use, into one heap.
    text.requires_grad_(False)
    # What reads the caption learns three times as fast.
    words = [p for n, p in unet.named_parameters() if ".attn2." in n]
    ids = {id(p) for p in words}
    optimiser = torch.optim.AdamW(
        [{"params": [p for p in params if id(p) not in ids], "times": 1}, {"params": words, "times": 3}],
        lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = Ema(params, 0.998, state["ema"] if state else None)
    step = state["step"] if state else 0
    samples = state.get("samples", step * 16) if state else 0
    if state and len(state["optimiser"]["param_groups"]) == 2:
        optimiser.load_state_dict(state["optimiser"])
    alphas = scheduler().alphas_cumprod.to(device)
    rng = np.random.default_rng(args.seed + step + 1000000 * rank)
    torch.manual_seed(args.seed + step + 1000000 * rank)
    flat = torch.zeros(sum(p.numel() for p in params), device=device)
    clock = Clock(args.minutes, state["used"] if state else 0)
    backgrounds = list(BACKGROUNDS)

    def checkpoint():
        weights = dict(unet={k: v.clone() for k, v in unet.state_dict().items()},
                       text={k: v.clone() for k, v in text.state_dict().items()})
        ema.swap()
        average = dict(unet={k: v.clone() for k, v in unet.state_dict().items()},
                       text={k: v.clone() for k, v in text.state_dict().items()})
        ema.swap()
        save(path, **weights, average=average, ema=ema.state(), optimiser=optimiser.state_dict(), step=step,
             samples=samples,
             used=clock.used(), shape=args.shape)

    saved, losses = clock.used(), []
    while True:
        if world > 1:       # one clock for all: the same learning rate, the same last step
            used = torch.tensor([clock.used()], dtype=torch.float64)
            dist.broadcast(used, 0)
            clock = Clock(args.minutes, used.item())
        if clock.share() >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = group["times"] * clock.lr(args.lr, step)
        pick = rng.choice(len(z), args.batch, p=weight)
        words = ["" if rng.random() < 0.1 else
                 captions.caption(table[r], captions.STYLES[s], backgrounds[b], rng)
                 for r, s, b, _, _ in labels[pick]]
        ids = tokenizer(words, padding="max_length", max_length=captions.LENGTH, truncation=True,
                        return_tensors="pt").input_ids.to(device)
        x0 = z[torch.from_numpy(pick).to(device)].float().contiguous(memory_format=torch.channels_last)
        u = torch.rand(args.batch, device=device)
        # At first most draws are near pure noise: only there does the caption decide, and it is learned last. Towards the end
        # they are even, so that small noise is taken away cleanly too.
        early = torch.rand_like(u) < args.near * (1 - clock.share())
        t = torch.where(early, 940 + 60 * u, 1000 * u ** 0.8).long().clamp(max=999)
        a = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        noisy, v = a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0
        with autocast:
            with torch.no_grad():
                context = text(ids).last_hidden_state
            out = unet(noisy, t, context).sample
        loss = F.mse_loss(out.float(), v)
        optimiser.zero_grad()
        loss.backward()
        if world > 1:
            torch.cat([p.grad.flatten() for p in params], out=flat)
            dist.all_reduce(flat)
            flat.div_(world)
            at = 0
            for p in params:
                p.grad = flat[at:at + p.numel()].view_as(p)
                at += p.numel()
        if not torch.isfinite(nn.utils.clip_grad_norm_(params, 1.0)):
            raise SystemExit(f"step {step}: a gradient that is not finite; {path.name} keeps the state before")
        optimiser.step()
        ema.update()
        step += 1
        losses.append(loss.item())
        samples += args.batch * world
        if step % 50 == 0 and rank == 0:
            print(f"step {step} minute {clock.used() / 60:.1f} samples {samples} loss {np.mean(losses):.4f}",
                  flush=True)
            losses = []
        if clock.used() - saved > 120 and rank == 0:
            saved = clock.used()
            checkpoint()
    if rank == 0:
        checkpoint()
        print(f"done: {step} steps, {samples} samples, {clock.used() / 60:.1f} minutes", flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--part", choices=["latents", "text", "train"], required=True)
    ap.add_argument("--minutes", type=float, default=35)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--near", type=float, default=0.8, help="share of the draws near pure noise at the start")
    ap.add_argument("--shape", default="mini")
    ap.add_argument("--draw", nargs="+", default=["first", "yes"], help="which of the concepts, by their draw column")
    ap.add_argument("--vary", action="store_true", help="mirrored and shifted copies too")
    ap.add_argument("--style-weights", type=float, nargs="+", default=[1.0] * len(captions.STYLES))
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    {"latents": make_latents, "text": train_text, "train": train}[args.part](args)


if __name__ == "__main__":
    main()
