"""Stage 7: the decoder, fitted to what the UNet draws.

    python fit.py --art DIR --work DIR --minutes 25         writes DIR/vae-drawn.pt

A drawing of one step is decided by its caption, so there is a picture that it should have been. Until here the decoder has seen
latents of the encoder alone; now it learns to make that picture, at full size, of the drawn ones too: flat frames of latents that
are not quite flat, edges of soft ones. One batch in four is of the encoder's latents, so that what is edited stays as it was.
"""
import argparse
import queue
import threading
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

import captions
from art import render
from common import NAMED, SCALE, Clock, Ema, Team, compose, device_setup, rgb, save, to_tensor
from diffusion import build as build_unet, draw_shares, scheduler, tokens_of
from norm import fuse_norms
from scenes import DRAWN, Art, scenes
from vae import build as build_vae, difference, frame, outermost, unflat


class Painter:
    """The one-step drawings of captions, as the autoencoder's latents."""
    def __init__(self, work, shape, size, device, autocast):
        state = torch.load(work / "diffusion.pt", weights_only=False)["average"]
        data = torch.load(work / "latents.pt", weights_only=False)
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        self.unet, self.text = build_unet(shape, len(self.tokenizer))
        self.unet.load_state_dict(state["unet"]), self.text.load_state_dict(state["text"])
        self.unet = fuse_norms(self.unet.to(device, memory_format=torch.channels_last)).eval()
        self.text = self.text.to(device).eval()
        self.mean, self.std = data["mean"].view(-1, 1, 1), data["std"].view(-1, 1, 1)
        self.scheduler, self.device, self.autocast, self.side = scheduler(), device, autocast, size // 16
        self.scheduler.set_timesteps(1)

    @torch.inference_mode()
    def paint(self, words):
        t = self.scheduler.timesteps[0]
        noise = torch.randn(len(words), 8, self.side, self.side)
        with self.autocast:
            context = self.text(tokens_of(self.tokenizer, words).to(self.device)).last_hidden_state
            v = self.unet(noise.to(self.device, memory_format=torch.channels_last), t, context).sample
        return self.scheduler.step(v.float().cpu(), t, noise).prev_sample * self.std + self.mean


class Pictures:
    """Scenes at full size on a background, made ahead of time in a thread."""
    def __init__(self, art, found, size, rng, share, batch):
        self.art, self.found, self.rng, self.share, self.batch = Art(art, captions.DEFAULT_STYLE), found, rng, share, batch
        self.side = round(size * SCALE / 2) * 2
        self.edge = (size - self.side) // 2
        self.queue = queue.Queue(6)
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            pick = self.rng.choice(len(self.found), self.batch, p=self.share)
            ground = self.rng.integers(len(NAMED), size=self.batch)
            out = []
            for i, b in zip(pick, ground):
                rgba = np.pad(render(self.art.svg(self.found[i]), self.side), ((self.edge,) * 2, (self.edge,) * 2, (0, 0)))
                out.append(compose(rgba, rgb(NAMED[b])))
            self.queue.put((pick, ground, to_tensor(out)))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--art", type=Path, required=True)
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--minutes", type=float, default=25)
    ap.add_argument("--batch", type=int, default=1)
    ap.add_argument("--lr", type=float, default=4e-4)
    ap.add_argument("--shape", default="mini")
    ap.add_argument("--size", type=int, default=512)
    ap.add_argument("--draw", nargs="+", default=DRAWN)
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    device, autocast = device_setup(args.seed)
    path = args.work / "vae-drawn.pt"
    state = torch.load(path, weights_only=False) if path.exists() else None

    inner = torch.load(args.work / "vae-inner.pt", weights_only=False)["average"]
    teacher = build_vae(args.shape)
    teacher.load_state_dict(inner)
    outermost(teacher, False)
    teacher = fuse_norms(teacher.to(device, memory_format=torch.channels_last)).requires_grad_(False)
    vae = build_vae(args.shape)
    vae.load_state_dict(state["weights"] if state else torch.load(args.work / "vae-outer.pt", weights_only=False)["average"])
    vae = fuse_norms(vae.to(device, memory_format=torch.channels_last)).requires_grad_(False)
    for m in (vae.post_quant_conv, vae.decoder):
        m.requires_grad_(True)
    params = [p for p in vae.parameters() if p.requires_grad]
    team = Team(params)
    optimiser = torch.optim.AdamW(params, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    ema = Ema(params, 0.998, state["ema"] if state else None)
    step = state["step"] if state else 0
    if state:
        optimiser.load_state_dict(state["optimiser"])

    rng = np.random.default_rng(args.seed + step + 1000000 * team.rank)
    torch.manual_seed(args.seed + step + 1000000 * team.rank)
    found = scenes(args.draw, captions.DEFAULT_STYLE)
    painter = Painter(args.work, args.shape, args.size, device, autocast)
    pictures = Pictures(args.art, found, args.size, rng.spawn(1)[0], draw_shares(found), args.batch)
    clock = Clock(args.minutes, state["used"] if state else 0)

    def checkpoint():
        weights, average = ema.snapshot(vae)
        save(path, weights=weights, average=average, ema=ema.state(), optimiser=optimiser.state_dict(), step=step, used=clock.used(),
             shape=args.shape)

    saved, total = clock.used(), []
    while True:
        clock = team.clock(clock)
        if clock.share() >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = clock.lr(args.lr, step)
        pick, ground, x = pictures.queue.get()
        x = x.to(device)
        if step % 4:
            z = painter.paint([captions.caption(found[i], NAMED[b], rng) for i, b in zip(pick, ground)]).to(device)
        else:
            with torch.inference_mode(), autocast:
                z = teacher.encode(F.avg_pool2d(x, 2)).latent_dist.mean.float()
        with autocast:
            y = vae.decode(z.clone()).sample
        y = y.float()
        loss = difference(y, x) + frame(y, x) + 2 * frame(y, x, 2) + 2 * unflat(y, x)
        team.step(loss, optimiser, ema, path)
        if step % 4:
            total.append([(y - x).abs().mean().item() * 127.5, unflat(y, x).item() * 127.5])
        step += 1
        if step % 50 == 0 and team.rank == 0:
            print(f"step {step} minute {clock.used() / 60:.1f} l1 {np.mean(total, 0)[0]:.2f}/255 frame {np.mean(total, 0)[1]:.2f}/255", flush=True)
            total = []
        if clock.used() - saved > 120 and team.rank == 0:
            saved = clock.used()
            checkpoint()
    if team.rank == 0:
        checkpoint()
        print(f"done: {step} steps, {clock.used() / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
