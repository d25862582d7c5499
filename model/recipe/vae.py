"""Stage 2: the autoencoder, in three parts.

    python vae.py --work DIR --part inner --minutes 20      at half size, outermost resampling left out, from crops
    python vae.py --work DIR --part decoder --minutes 20    the same from whole pictures, encoder frozen
    python vae.py --work DIR --part outer --minutes 10      at full size, latents kept as they are

The autoencoder is 16-fold: 512 px become 32x32 latents of 8 channels. Most of its cost is at full size, where there is
least to learn, so it is grown: first everything learns on half-size pictures with the outermost halving and
doubling left out (an 8-fold autoencoder at a quarter of the cost), then those two are put in as a plain box
average and a plain copy, and the outer layers learn to sharpen at full size. Group norms see other statistics in a crop than
in a picture, hence the part in between. The latents are those of the first part for good (the last part holds the
encoder's first block to them), so a diffusion model can train on them while the decoder still learns.
"""
import argparse
import copy
import queue
import threading
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from common import BACKGROUNDS, Clock, Ema, Team, compose, device_setup, open_art, place, rgb, save, to_tensor
from norm import fuse_norms

SHAPES = {"mini": (16, 16, 32, 96, 160), "toy": (8, 8, 16, 16, 16)}
SHAPES["full"] = SHAPES["mini"]         # diffusion.py's larger UNet works in the same latents


def build(shape="mini"):
    ch = SHAPES[shape]
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 5,
        up_block_types=["UpDecoderBlock2D"] * 5, block_out_channels=ch, layers_per_block=1, latent_channels=8,
        norm_num_groups=8, mid_block_add_attention=False, sample_size=512, scaling_factor=1.0)
    with torch.no_grad():
        # Residual branches start small and shortcuts as copies, so that colour finds its way through on day one.
        for name, p in vae.named_parameters():
            if name.endswith("conv2.weight"):
                p.mul_(0.2)
        vae.quant_conv.weight[8:].mul_(0.1)
        vae.quant_conv.bias[8:] = -6        # start with little noise: log-variance -6
        # The outermost pair: box average, copy.
        down = vae.encoder.down_blocks[0].downsamplers[0].conv
        up = vae.decoder.up_blocks[3].upsamplers[0].conv
        for conv in (down, up):
            conv.weight.zero_(), conv.bias.zero_()
        for c in range(ch[0]):
            down.weight[c, c, :2, :2] = 0.25        # diffusers pads right and below: taps 0 and 1 are the 2x2 box
        for c in range(ch[1]):
            up.weight[c, c, 1, 1] = 1
    return vae


class Skip(nn.Module):
    def forward(self, x, *_, **__):
        return x


def outermost(vae, on):
    """Take the outermost halving and doubling out (on=False), or put them back."""
    d, u = vae.encoder.down_blocks[0], vae.decoder.up_blocks[3]
    if not hasattr(vae, "_outer"):
        vae._outer = [(d.downsamplers[0], u.upsamplers[0]), (Skip(), Skip())]     # in a list, so that it is no second submodule
    d.downsamplers[0], u.upsamplers[0] = vae._outer[0 if on else 1]


class Crops:
    """Random crops of random pictures on random flat colours, half of them of the concepts."""
    def __init__(self, work, half, rng):
        self.art, index = open_art(work)
        self.art = self.art[:len(index)]
        if half:        # half-size copies, made once
            small = work / "art-half.npy"
            if not small.exists():
                n, s = len(index), self.art.shape[1] // 2
                out = np.empty((n, s, s, 4), np.uint8)
                for i in range(n):
                    out[i] = self.art[i].reshape(s, 2, s, 2, 4).astype(np.uint16).sum((1, 3)) + 2 >> 2
                np.save(small, out)
            self.art = np.load(small)
        self.rng = rng
        self.own = [i for i, e in enumerate(index) if e["concept"]]
        self.other = [i for i, e in enumerate(index) if not e["concept"]] or self.own
        self.named = [b for b, (_, weight) in BACKGROUNDS.items() if weight]
        self.scenes = np.load(work / "scenes.npy", mmap_mode="r") if half else None
        self.queue = queue.Queue(16)

    def colour(self):
        r = self.rng
        if r.random() < 0.6:
            return rgb(list(BACKGROUNDS)[r.integers(len(BACKGROUNDS))])
        return r.integers(0, 256, 3).astype(np.float32)

    def batch(self, n, side):
        r, out = self.rng, []
        full = self.art.shape[1]
        while len(out) < n:
            pick = self.own if r.random() < 0.6 else self.other
            a = self.art[pick[r.integers(len(pick))]]
            # Crops hang over the edge by up to a quarter, so that margins are seen too.
            y, x = r.integers(-side // 4, full - side + side // 4 + 1, 2)
            c = np.zeros((side, side, 4), np.uint8)
            y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + side, full), min(x + side, full)
            c[y0 - y:y1 - y, x0 - x:x1 - x] = a[y0:y1, x0:x1]
            if np.ptp(c[::4, ::4], (0, 1)).max() < 24 and r.random() < 0.9:
                continue            # next to nothing to learn in a flat crop
            if r.random() < 0.5:
                c = c[:, ::-1]
            out.append(compose(c, self.colour()))
        return to_tensor(out)

    def wholes(self, n, smaller=0.0):
        """n whole pictures with their margin, most of them just what the diffusion model learns to draw. A share of the batches
        is of 3 n pictures at half the size: as good a lesson in colours, for less."""
        r, out = self.rng, []
        half = r.random() < smaller
        n = 3 * n if half else n
        for _ in range(n):
            u = r.random()
            pick = self.own if u < 0.88 else self.other
            if u < 0.75 and self.scenes is not None:
                rgba = self.scenes[r.integers(len(self.scenes))]
            else:
                rgba = place(np.array(self.art[pick[r.integers(len(pick))]]))
            if half:
                rgba = rgba.reshape(rgba.shape[0] // 2, 2, -1, 2, 4).mean((1, 3), dtype=np.float32)
            if r.random() < 0.4:    # emoji are mostly yellow and red: without this, greens and violets are guessed
                rgba = rgba[..., [*r.permutation(3), 3]]
            out.append(compose(rgba, rgb(self.more if self.more and r.random() < 0.5 else self.named[r.integers(len(self.named))]) if u < 0.75 else self.colour()))
        return to_tensor(out)

    def start(self, feeders, way, *numbers):
        """Make batches ahead of time in threads, each with draws of its own; next() hands them out."""
        def work(own):
            while True:
                self.queue.put(getattr(own, way)(*numbers))
        for rng in [self.rng, *self.rng.spawn(feeders - 1)]:
            own = copy.copy(self)
            own.rng = rng
            threading.Thread(target=work, args=(own,), daemon=True).start()

    def next(self):
        return self.queue.get()


def difference(y, x):
    """L1, squared, edges, and L1 of smaller copies."""
    d = y - x
    loss = d.abs().mean() + 0.5 * (d * d).mean()
    loss = loss + 0.5 * ((d[..., 1:] - d[..., :-1]).abs().mean() + (d[:, :, 1:] - d[:, :, :-1]).abs().mean())
    # Red-green and blue-green differences count again: without this one of the colour axes stays unlearned for long.
    chroma = F.avg_pool2d(d[:, ::2] - d[:, 1:2], 2)
    loss = loss + chroma.abs().mean() + (chroma * chroma).mean()
    for k in (2, 4, 8):
        loss = loss + 0.3 * F.avg_pool2d(d, k).abs().mean()
    return loss


def frame(y, x, wide=4):
    """L1 along the frame of whole pictures, where convolutions see padding: a flat background should stay flat there."""
    d = (y - x).abs()
    return (d[:, :, :wide].mean() + d[:, :, -wide:].mean() + d[..., :wide].mean() + d[..., -wide:].mean()) / 4


def unflat(y, x, wide=8):
    """Root mean square along the frame, of each channel alone: what the evaluation measures, and as strong for the last two
    levels of 255 as for the first twenty."""
    d = (y - x).square()
    sides = d[:, :, :wide], d[:, :, -wide:], d[..., :wide], d[..., -wide:]
    return sum(s.mean((2, 3)) for s in sides).div(4).add(1e-6).sqrt().mean()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--part", choices=["inner", "decoder", "outer"], required=True)
    ap.add_argument("--minutes", type=float, default=20)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--side", type=int, default=0, help="crop side; 0: whole pictures")
    ap.add_argument("--more", choices=BACKGROUNDS, help="the background of half of the whole pictures")
    ap.add_argument("--smaller", type=float, default=0.0, help="share of whole pictures at half of the stage's size")
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--feeders", type=int, default=1, help="threads that make batches")
    ap.add_argument("--shape", default="mini")
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    inner, outer = args.part == "inner", args.part == "outer"
    device, autocast = device_setup(args.seed)
    path = args.work / f"vae-{args.part}.pt"

    vae = build(args.shape)
    teacher = None
    state = torch.load(path, weights_only=False) if path.exists() else None
    if not inner:
        before = args.work / "vae-decoder.pt"
        before = before if outer and before.exists() else args.work / "vae-inner.pt"
        first = torch.load(before, weights_only=False)["average"]
        vae.load_state_dict(first)
        teacher = build(args.shape)
        teacher.load_state_dict(first)
        outermost(teacher, False)
        teacher = fuse_norms(teacher.to(device, memory_format=torch.channels_last)).requires_grad_(False)
    if state:
        vae.load_state_dict(state["weights"])
    vae = vae.to(device, memory_format=torch.channels_last)
    if not inner:
        vae.requires_grad_(False)
        learn = [vae.post_quant_conv, vae.decoder]
        if outer:       # only what lies at the outer edge moves: cheap, and the latents stay
            learn = [vae.encoder.conv_in, vae.encoder.down_blocks[0], vae.decoder.up_blocks[2].upsamplers,
                     vae.decoder.up_blocks[3], vae.decoder.up_blocks[4], vae.decoder.conv_norm_out, vae.decoder.conv_out]
        for m in learn:
            m.requires_grad_(True)
    params = [p for p in vae.parameters() if p.requires_grad]
    outermost(vae, outer)
    fuse_norms(vae)
    team = Team(params)
    if device == "cuda":
        vae.encoder.compile(), vae.decoder.compile()
    optimiser = torch.optim.AdamW(params, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    ema = Ema(params, 0.998, state.get("ema") if state else None)
    step = 0
    if state:
        step = state["step"]
        if "optimiser" in state:        # not in what pieces.py kept
            optimiser.load_state_dict(state["optimiser"])
    crops = Crops(args.work, not outer, np.random.default_rng(args.seed + step + 1000000 * team.rank))
    crops.more = args.more
    clock = Clock(args.minutes, state["used"] if state else 0)

    def checkpoint():
        outermost(vae, True)
        weights, average = ema.snapshot(vae)
        outermost(vae, outer)
        save(path, weights=weights, average=average, ema=ema.state(), optimiser=optimiser.state_dict(), step=step,
             used=clock.used(), shape=args.shape)

    if args.side:
        crops.start(args.feeders, "batch", args.batch, args.side)
    else:
        crops.start(args.feeders, "wholes", args.batch, args.smaller)
    saved, total = clock.used(), []
    while True:
        clock = team.clock(clock)
        if clock.share() >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = clock.lr(args.lr, step)
        x = crops.next().to(device)
        with autocast:
            if inner:
                posterior = vae.encode(x).latent_dist
                z, logvar = posterior.mean.float(), posterior.logvar.float()
            else:
                with torch.no_grad():
                    posterior = teacher.encode(F.avg_pool2d(x, 2) if outer else x).latent_dist
                z, logvar = posterior.mean.float(), posterior.logvar.float()
                # a decoder that will be fed by a diffusion model should bear a little more noise than the encoder's own
                logvar = logvar.exp().add(0.02 * z.var()).log()
                if outer and step % 4 == 0:         # the encoder's gradient runs through frozen layers and costs most
                    copied = vae.encode(x).latent_dist.mean
            y = vae.decode(z + torch.randn_like(z) * torch.exp(0.5 * logvar)).sample
        loss = difference(y.float(), x)
        if not args.side:
            loss = loss + frame(y.float(), x) + 2 * frame(y.float(), x, 2 if outer else 1) + 2 * unflat(y.float(), x)
        kl = 0.5 * (z * z + logvar.exp() - 1 - logvar).mean()
        if inner:
            loss = loss + 5e-4 * kl
        elif outer and step % 4 == 0:
            loss = loss + F.mse_loss(copied.float(), z) / z.var()
        team.step(loss, optimiser, ema, path)
        step += 1
        total.append([(y.float() - x).abs().mean().item() * 127.5, kl.item(), z.std().item()])
        if step % 50 == 0 and team.rank == 0:
            l1, k, s = np.mean(total, 0)
            total = []
            print(f"step {step} minute {clock.used() / 60:.1f} l1 {l1:.2f}/255 kl {k:.2f} "
                  f"std {s:.2f}", flush=True)
        if clock.used() - saved > 120 and team.rank == 0:
            saved = clock.used()
            checkpoint()
    if team.rank == 0:
        checkpoint()
        print(f"done: {step} steps, {clock.used() / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
