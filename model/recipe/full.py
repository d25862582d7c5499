"""Stages 4 to 6 with the full grammar, `diffusion.py --reach all`: latents of all scenes, the text encoder, the UNet.

What a step needs lies on the device before the first one: latents in half precision (16 KB a picture), captions as tokens in
several variants, shares of the draws. Then the host only starts kernels: nothing in the loop waits for the device.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTokenizer

from captions import DEFAULT_STYLE
from common import BACKGROUNDS, NAMED, Clock, Ema, device_setup, rgb, save
from crowd import Crowd
from diffusion import build, scheduler, tokens_of
from grammar import STYLES
from norm import fuse_norms
from vae import build as build_vae, outermost

# Of all draws: single things; two things in a relation; the rest, one or two things done to one
KIND_SHARES = {"single": 0.3, "relation": 0.25, "others": 0.45}
DEFAULT_STYLE_TIMES = 2         # the style that needs no word is asked for most
FIRST = 4096                    # scenes that the latents' mean and spread are taken from


def on_grounds(rgba, device):
    """Pictures [n,h,w,4], premultiplied bytes -> [n * backgrounds,3,h,w] in -1..1, composed on the device."""
    x = torch.as_tensor(rgba).to(device).float().div(255).permute(0, 3, 1, 2)
    colours = torch.tensor(np.stack([rgb(b) for b in NAMED]) / 255, device=device, dtype=torch.float32)
    x = x[:, None, :3] + (1 - x[:, None, 3:]) * colours[None, :, :, None, None]
    return (x.flatten(0, 1) * 2 - 1).contiguous(memory_format=torch.channels_last)


def make_latents(args):
    """latents-all.npy: fp16 [scenes, backgrounds, 8, h, w], standardised; latents.pt: their mean and spread, which scenes there
    are, and how each looks from afar."""
    device, autocast = device_setup(args.seed)
    crowd = Crowd(args.work, args.art, workers=args.workers)
    state = torch.load(args.work / "vae-inner.pt", weights_only=False)
    vae = build_vae(state["shape"])
    vae.load_state_dict(state["average"])
    outermost(vae, False)
    vae = fuse_norms(vae.to(device, memory_format=torch.channels_last)).eval()
    if device == "cuda":
        vae.encoder.compile(dynamic=True)
    which = np.flatnonzero(crowd.column("held") == 0)
    which = np.random.default_rng(args.seed).permutation(which)         # the first ones stand for all
    made, rough = np.zeros(len(crowd), bool), np.zeros((len(crowd), 8, 8, 4), np.uint8)
    side, path = args.size // 8, args.work / "latents-all.npy"
    part = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.float16, (len(crowd), len(NAMED), 8, side, side))
    scale = args.work / "scale.npy"         # a UNet that has learned keeps it
    mean, std = torch.from_numpy(np.load(scale)).to(device) if scale.exists() else (None, None)
    waiting, done = [], 0

    def keep(rows, z):
        part[rows] = ((z - mean[:, None, None]) / std[:, None, None]).half().cpu().numpy()
    for rows, pictures, ok in crowd.drawings(which, args.size):
        rows, pictures = rows[ok], pictures[ok]
        if not len(rows):
            continue
        made[rows] = True
        apart = args.size // 8
        rough[rows] = pictures[:, apart // 2::apart, apart // 2::apart]
        with torch.inference_mode(), autocast:
            z = vae.encode(on_grounds(pictures, device)).latent_dist.mean.float().unflatten(0, (-1, len(NAMED)))
        done += len(rows)
        if mean is None:
            waiting.append((rows, z))
            if done >= min(FIRST, 0.8 * len(which)):
                every = torch.cat([w for _, w in waiting])
                mean, std = every.mean((0, 1, 3, 4)), every.std((0, 1, 3, 4))
                np.save(scale, torch.stack([mean, std]).cpu().numpy())
                for w in waiting:
                    keep(*w)
        else:
            keep(rows, z)
        if done // 10000 > (done - len(rows)) // 10000:
            print(f"{done} of {len(which)} scenes", flush=True)
    part.flush()
    path.with_suffix(".part").rename(path)
    save(args.work / "latents.pt", mean=mean.cpu(), std=std.cpu(), made=made, rough=rough)
    print(f"{made.sum()} latents on {len(NAMED)} backgrounds, std by channel {[round(v, 2) for v in std.tolist()]}", flush=True)


class Data:
    """Everything that the draws come from, on the device."""
    def __init__(self, args, device, latents=True):
        self.crowd, self.device = Crowd(args.work, args.art, workers=args.workers), device
        about = torch.load(args.work / "latents.pt", weights_only=False)
        if len(about["made"]) != len(self.crowd):
            raise SystemExit(f"latents.pt has {len(about['made'])} scenes, crowd.npy {len(self.crowd)}: run --part latents again")
        self.rough = torch.from_numpy(about["rough"]).to(device)
        self.z = torch.from_numpy(np.load(args.work / "latents-all.npy", mmap_mode="c")).to(device) if latents else None
        path = args.work / f"captions-{args.variants}.npy"
        if not path.exists():
            np.save(path, self.crowd.captions(args.variants, args.seed))
        self.ids = torch.from_numpy(np.load(path).astype(np.int16)).to(device)
        facts, self.counts = self.crowd.facts()
        self.facts = torch.from_numpy(facts).long().to(device)
        self.shares = torch.from_numpy(self.scene_shares(about["made"])).to(device)
        weights = torch.tensor([BACKGROUNDS[b][1] for b in NAMED], dtype=torch.float32)
        self.grounds = (torch.from_numpy(self.crowd.grounds()).float() * weights).to(device)

    def scene_shares(self, made):
        crowd = self.crowd
        kind = np.where(crowd.column("other") >= 0, "relation", np.where(crowd.rows[:, 2:6].max(1) < 0, "single", "others"))
        weight = np.where(crowd.facts()[0][:, 3] == STYLES.index(DEFAULT_STYLE), float(DEFAULT_STYLE_TIMES), 1.0)
        weight *= made & (crowd.column("held") == 0)
        out = np.zeros(len(crowd))
        for k, part in KIND_SHARES.items():
            here = (kind == k) * weight
            out += part * here / max(here.sum(), 1e-9)
        return (out / out.sum()).astype(np.float32)

    def draw(self, n):
        """Row numbers and background numbers of n draws, and their captions' tokens."""
        pick = torch.multinomial(self.shares, n, replacement=True)
        ground = torch.multinomial(self.grounds[pick], 1)[:, 0]
        variant = torch.randint(self.ids.shape[2], (n,), device=self.device)
        return pick, ground, self.ids[pick, ground, variant].long()

    def look(self, pick, ground):
        return on_grounds(self.rough[pick], self.device).unflatten(0, (-1, len(NAMED)))[torch.arange(len(pick), device=self.device), ground].flatten(1)


def train_text(args):
    """As diffusion.train_text: the mean over a caption's places tells all that there is to be told, and the look from afar."""
    device, autocast = device_setup(args.seed)
    data = Data(args, device, latents=False)
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    _, text = build(args.shape, len(tokenizer))
    path = args.work / "text.pt"
    if path.exists():
        text.load_state_dict(torch.load(path, weights_only=False)["text"])
    heads = nn.ModuleList([nn.Linear(text.config.hidden_size, n) for n in (*data.counts, len(NAMED), 8 * 8 * 3)])
    text, heads = text.to(device), heads.to(device)
    params = [*text.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW([{"params": [*text.parameters()], "rate": args.lr}, {"params": [*heads.parameters()], "rate": 5 * args.lr}],
                                  lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    if device == "cuda":
        text.compile()
    clock, step, sums = Clock(args.minutes), 0, []
    while clock.share() < 1:
        for group in optimiser.param_groups:
            group["lr"] = clock.lr(group["rate"], step)
        pick, ground, ids = data.draw(args.batch)
        truth = torch.cat([data.facts[pick], ground[:, None]], 1)
        with autocast:
            mean = text(ids).last_hidden_state.float().mean(1)
            told = [h(mean).float() for h in heads]
        look = F.mse_loss(told[-1], data.look(pick, ground))
        loss = sum(F.cross_entropy(t, truth[:, k]) for k, t in enumerate(told[:-1])) + 4 * look
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        step += 1
        if step % 20 == 0:
            sums.append(torch.stack([*[(t.argmax(1) == truth[:, k]).float().mean() for k, t in enumerate(told[:-1])], look.detach()]))
        if step % 200 == 0 or clock.share() >= 1 and sums:
            figures = zip(("things", "moods", "with", "styles", "ways", "others", "colours", "look"), torch.stack(sums).mean(0).tolist())
            sums = []
            print(f"text: step {step} minute {clock.used() / 60:.1f} " + " ".join(f"{n} {v:.3f}" for n, v in figures), flush=True)
    save(path, text=text.state_dict())


def models(args, device):
    """UNet and text encoder from the checkpoints of work -> unet, text (frozen), tokens of no words, the checkpoint or None."""
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    unet, text = build(args.shape, len(tokenizer))
    path = args.work / "diffusion.pt"
    state = torch.load(path, weights_only=False, map_location="cpu") if path.exists() else None
    text.load_state_dict(torch.load(args.work / "text.pt", weights_only=False)["text"])
    text = text.to(device).requires_grad_(False)
    return unet, text, tokens_of(tokenizer, [""])[0].to(device), state


def noised(x0, alphas, t):
    """Latents at timesteps t, with the v that leads back; alphas: cumulative products."""
    a = alphas[t].view(-1, 1, 1, 1)
    noise = torch.randn_like(x0)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0


def train(args):
    device, autocast = device_setup(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    data = Data(args, device)
    unet, text, empty, state = models(args, device)
    if state:
        unet.load_state_dict(state["unet"])
    unet = fuse_norms(unet.to(device, memory_format=torch.channels_last))
    params = list(unet.parameters())
    print(f"unet {sum(p.numel() for p in params) / 1e6:.2f} M, text {sum(p.numel() for p in text.parameters()) / 1e6:.2f} M, "
          f"{len(data.crowd)} scenes, vocabulary {text.config.vocab_size}", flush=True)
    words = [p for n, p in unet.named_parameters() if ".attn2." in n]      # what reads the caption learns three times as fast
    known = {id(p) for p in words}
    optimiser = torch.optim.AdamW([{"params": [p for p in params if id(p) not in known], "times": 1}, {"params": words, "times": 3}],
                                  lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = Ema(params, 0.9995, state["ema"] if state else None)         # from pieces.py: the weights are the average
    ema.mean = [m.to(device) for m in ema.mean]
    step, samples = (state["step"], state["samples"]) if state else (0, 0)
    if state and "optimiser" in state:
        optimiser.load_state_dict(state["optimiser"])
    alphas = scheduler().alphas_cumprod.to(device)
    torch.manual_seed(args.seed + step)
    clock = Clock(args.minutes, state["used"] if state else 0)
    if device == "cuda":
        unet.compile()
        text.compile()

    def checkpoint():
        weights, average = ema.snapshot(unet)
        words = {k: v.detach().cpu().clone() for k, v in text.state_dict().items()}
        save(args.work / "diffusion.pt", unet=weights, text=words, average=dict(unet=average, text=words), ema=ema.state(),
             optimiser=optimiser.state_dict(), step=step, samples=samples, used=clock.used(), shape=args.shape)

    saved, total, counted = clock.used(), torch.zeros((), device=device), 0
    until = min(clock.total, clock.used() + 60 * args.stop) if args.stop else clock.total
    while clock.used() < until:
        for group in optimiser.param_groups:
            group["lr"] = group["times"] * clock.lr(args.lr, step, 200)
        pick, ground, ids = data.draw(args.batch)
        drop = torch.rand(args.batch, 1, device=device) < 0.1           # for guidance
        ids = torch.where(drop, empty, ids)
        x0 = data.z[pick, ground].float().contiguous(memory_format=torch.channels_last)
        u = torch.rand(args.batch, device=device)
        # near pure noise the caption decides; the rest are spread evenly over all of a drawing's steps
        t = torch.where(torch.rand_like(u) < args.near, 940 + 60 * u, 1000 * u).long().clamp(max=999)
        noisy, v = noised(x0, alphas, t)
        with autocast:
            with torch.no_grad():
                context = text(ids).last_hidden_state
            out = unet(noisy, t, context).sample
        loss = F.mse_loss(out.float(), v)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        ema.update()
        step, samples, counted = step + 1, samples + args.batch, counted + 1
        total += loss.detach()
        if step % args.report == 0:
            mean = (total / counted).item()
            total, counted = torch.zeros_like(total), 0
            print(f"step {step} minute {clock.used() / 60:.1f} samples {samples} loss {mean:.4f}", flush=True)
            if not np.isfinite(mean):
                raise SystemExit("a loss that is not finite; diffusion.pt keeps the state before")
            if clock.used() - saved > 120:
                saved = clock.used()
                checkpoint()
    checkpoint()
    print(f"done: {step} steps, {samples} samples, {clock.used() / 60:.1f} minutes", flush=True)
