"""Stages 4 to 6: cached latents, then the text encoder, then the UNet, from scratch.

    python diffusion.py --work DIR --part latents
    python diffusion.py --work DIR --part text --minutes 3
    python diffusion.py --work DIR --part train --minutes 35
    python diffusion.py --work DIR --reach all ...          the same with the full grammar: full.py; then --part distil: distil.py

Latents come from the inner autoencoder at half size (see vae.py), of every scene of scenes.py on every background that is drawn;
standardised by channel. The text encoder learns first and alone, as in Stable Diffusion, whose
CLIP was trained before: to tell from a caption, in either language, what is drawn, on which colour, and how that looks from afar.
The trainer predicts v at zero terminal SNR (or else flat backgrounds drift to grey) with plain squared error, timesteps leaning
towards noise, where the picture is decided; 10 % of captions are dropped for guidance.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import captions
import frog
from common import BACKGROUNDS, NAMED, Clock, Ema, Team, compose, device_setup, rgb, save, to_tensor
from norm import fuse_norms
from scenes import DRAWN, in_reach, scenes, tables
from vae import build as build_vae, outermost

NAMED_SHARE = np.array([BACKGROUNDS[b][1] for b in NAMED], np.float64)
NAMED_SHARE /= NAMED_SHARE.sum()

SHAPES = {      # UNet channels, text width, text layers, levels with attention
    "mini": ((64, 128, 192), 128, 3, 1),
    "full": ((96, 192, 256), 192, 3, 2),
    "toy": ((32, 32, 32), 32, 1, 1),
}


def build(shape, tokens):
    ch, width, layers, reading = SHAPES[shape]
    down = ["CrossAttnDownBlock2D" if level >= 3 - reading else "DownBlock2D" for level in range(3)]
    unet = UNet2DConditionModel(
        sample_size=32, in_channels=8, out_channels=8, block_out_channels=ch, layers_per_block=1,
        down_block_types=down, up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)],
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
    """Every scene on every background, in their order: latents.pt."""
    device, autocast = device_setup(args.seed)
    state = torch.load(args.work / "vae-inner.pt", weights_only=False)
    vae = build_vae(state["shape"])
    vae.load_state_dict(state["average"])
    outermost(vae, False)
    vae = fuse_norms(vae.to(device, memory_format=torch.channels_last)).eval()
    pictures = np.load(args.work / "scenes.npy", mmap_mode="r")
    latents = []
    for rgba in pictures:
        with torch.inference_mode(), autocast:
            x = to_tensor([compose(rgba, rgb(b)) for b in NAMED])
            latents.append(vae.encode(x.to(device)).latent_dist.mean.float().cpu().half())
    z = torch.stack(latents).float()
    path = args.work / "latents.pt"
    old = torch.load(path, weights_only=False) if path.exists() else None     # a UNet that has learned keeps its scale
    mean, std = (old["mean"], old["std"]) if old else (z.mean((0, 1, 3, 4)), z.std((0, 1, 3, 4)))
    z = (z - mean[:, None, None]) / std[:, None, None]
    save(path, z=z.half(), mean=mean, std=std)
    print(f"{tuple(z.shape)} latents, std by channel {[round(v, 2) for v in std.tolist()]}", flush=True)


def tokens_of(tokenizer, words):
    return tokenizer(words, padding="max_length", max_length=captions.LENGTH, truncation=True, return_tensors="pt").input_ids


class Teacher:
    """A text encoder that a UNet reads already, from another work folder: what it says of single things is to stay, as the
    vocabulary grows."""
    def __init__(self, folder, shape):
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        _, self.text = build(shape, len(self.tokenizer))
        self.text.load_state_dict(torch.load(folder / "text.pt", weights_only=False)["text"])
        self.text.requires_grad_(False)

    def give(self, text, tokenizer):
        """Its weights to a text encoder of another vocabulary: rows of words that both know, and all the rest."""
        table, own = self.text.get_input_embeddings().weight, text.get_input_embeddings().weight
        start = own.detach().clone()
        known = self.tokenizer.get_vocab()
        for word, i in tokenizer.get_vocab().items():
            if word in known:
                start[i] = table[known[word]]
        rest = {k: v for k, v in self.text.state_dict().items() if v.shape != table.shape}
        text.load_state_dict(rest, strict=False)
        with torch.no_grad():
            own.copy_(start)

    def say(self, words):
        return self.text(tokens_of(self.tokenizer, words)).last_hidden_state.float()


def train_text(args):
    """The mean over a caption's places, which is what cross-attention reads at first, tells what is drawn and how it looks from
    afar."""
    torch.manual_seed(args.seed)
    found = scenes(args.draw, captions.DEFAULT_STYLE)
    pictures = np.load(args.work / "scenes.npy", mmap_mode="r")
    apart = pictures.shape[1] // 8
    rough = np.stack([[compose(p, rgb(b)) for b in NAMED] for p in pictures[:, apart // 2::apart, apart // 2::apart]]).astype(np.float32)
    rough = torch.from_numpy(rough).flatten(2) / 127.5 - 1
    table, moods, things = tables()
    counts = len(table), len(moods) + 1, len(things) + 1, len(captions.STYLES), len(NAMED)
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    _, text = build(args.shape, len(tokenizer))
    teacher = Teacher(args.teacher, args.shape) if args.teacher else None
    path = args.work / "text.pt"
    if path.exists():
        text.load_state_dict(torch.load(path, weights_only=False)["text"])
    elif teacher:
        teacher.give(text, tokenizer)
    width = text.config.hidden_size
    heads = nn.ModuleList([nn.Linear(width, n) for n in (*counts, rough.shape[2])])
    params = [*text.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW([{"params": [*text.parameters()], "rate": args.lr}, {"params": [*heads.parameters()], "rate": 5 * args.lr}],
                                  lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    rng, clock, step, sums = np.random.default_rng(args.seed), Clock(args.minutes), 0, []
    share = draw_shares(found)
    while clock.share() < 1:
        for group in optimiser.param_groups:
            group["lr"] = clock.lr(group["rate"], step)
        pick, ground = rng.choice(len(found), 128, p=share), rng.integers(len(NAMED), size=128)
        drawn = [found[i] for i in pick]
        words = [captions.caption(s, NAMED[b], rng) for s, b in zip(drawn, ground)]
        truth = torch.tensor([[s.subject, s.mood + 1, s.thing + 1, captions.STYLES.index(s.style), b] for s, b in zip(drawn, ground)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            context = text(tokens_of(tokenizer, words)).last_hidden_state.float()
            told = [h(context.mean(1)).float() for h in heads]
        look = F.mse_loss(told[-1], rough[torch.from_numpy(pick), torch.from_numpy(ground)])
        loss = sum(F.cross_entropy(t, truth[:, k]) for k, t in enumerate(told[:-1])) + 4 * look
        kept = torch.zeros(())
        if teacher:
            plain = [k for k, s in enumerate(drawn) if s.mood < 0 and s.thing < 0]
            with torch.no_grad():
                said = teacher.say([words[k] for k in plain])
            kept = F.mse_loss(context[plain], said) / said.var()
            loss = loss + 5 * kept
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        step += 1
        sums.append([*[(t.argmax(1) == truth[:, k]).float().mean().item() for k, t in enumerate(told[:-1])], look.item(), kept.item()])
        if step % 50 == 0:
            figures = " ".join(f"{n} {v:.3f}" for n, v in zip(("things", "moods", "with", "styles", "colours", "look", "kept"), np.mean(sums, 0)))
            sums = []
            print(f"step {step} minute {clock.used() / 60:.1f} {figures}", flush=True)
    save(path, text=text.state_dict())


KIND_SHARES = 0.54, 0.14, 0.32       # of all draws: single things, the frog in its moods, things with something


def draw_shares(found, hard=None):
    """Every scene's share of the draws: a kind's is divided evenly, or by how hard the scenes are; held-out scenes, and those out
    of reach, have none."""
    hard = np.ones(len(found)) if hard is None else hard
    kind = np.array([2 if s.thing >= 0 else 1 if s.mood >= 0 else 0 for s in found])
    drawn = np.array([in_reach(s) and not s.held_out for s in found])
    share = np.zeros(len(found))
    for k, part in enumerate(KIND_SHARES):
        here = (kind == k) & drawn
        if here.any():
            share[here] = part * hard[here] / hard[here].sum()
    return share / share.sum()


def telling(z, found):
    """[scenes, backgrounds, 32, 32]: how much each place of a latent counts. Where it differs from its siblings', of the same
    subject with another thing or mood, it is what the caption tells, and counts up to six times: sunglasses are a
    fiftieth of a picture."""
    groups = {}
    for i, s in enumerate(found):
        if in_reach(s):
            things = tables()[2]
            where = "eyes" if s.thing < 0 else things[s.thing]["place"]
            mood = s.mood if where != "eyes" or s.style != frog.STYLE else None
            groups.setdefault((s.subject, s.style, where, mood), []).append(i)
    out = torch.ones(z.shape[0], z.shape[1], *z.shape[3:], dtype=torch.half)
    for members in groups.values():
        if len(members) > 1:
            some = z[members].float()
            apart = (some - some.mean(0)).square().mean(2)
            out[members] = (1 + 5 * apart / (apart + 0.25)).half()
    return out


def train(args):
    device, autocast = device_setup(args.seed)
    path = args.work / "diffusion.pt"
    data = torch.load(args.work / "latents.pt", weights_only=False)
    z = data["z"].to(device)
    found = scenes(args.draw, captions.DEFAULT_STYLE)
    if len(found) != len(z):
        raise SystemExit(f"latents.pt has {len(z)} scenes, --draw {' '.join(args.draw)} makes {len(found)}: run --part latents again")
    share = draw_shares(found)
    counts = telling(data["z"], found).to(device)
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    unet, text = build(args.shape, len(tokenizer))
    state = torch.load(path, weights_only=False) if path.exists() else None
    if state:
        unet.load_state_dict(state["unet"])
    text.load_state_dict(torch.load(args.work / "text.pt", weights_only=False)["text"])
    unet = fuse_norms(unet.to(device, memory_format=torch.channels_last))
    text = text.to(device)
    params = list(unet.parameters())
    team = Team(params)
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
    rng = np.random.default_rng(args.seed + step + 1000000 * team.rank)
    torch.manual_seed(args.seed + step + 1000000 * team.rank)
    clock = Clock(args.minutes, state["used"] if state else 0)

    def checkpoint():
        now, mean = ema.snapshot(unet)
        words = text.state_dict()
        save(path, unet=now, text=words, average=dict(unet=mean, text=words), ema=ema.state(), optimiser=optimiser.state_dict(), step=step,
             samples=samples,
             used=clock.used(), shape=args.shape)

    # Running error of each scene: what is new or hard is drawn more often, so that names may be added to a model that knows others.
    hard = np.ones(len(found))
    saved, losses = clock.used(), []
    while True:
        clock = team.clock(clock)
        if clock.share() >= 1:
            break
        if step % 50 == 0:
            share = draw_shares(found, hard)
        for group in optimiser.param_groups:
            group["lr"] = group["times"] * clock.lr(args.lr, step)
        pick, ground = rng.choice(len(found), args.batch, p=share), rng.choice(len(NAMED), args.batch, p=NAMED_SHARE)
        words = ["" if rng.random() < 0.1 else captions.caption(found[i], NAMED[b], rng) for i, b in zip(pick, ground)]
        ids = tokens_of(tokenizer, words).to(device)
        where = torch.from_numpy(pick).to(device), torch.from_numpy(ground).to(device)
        x0, count = z[where].float().contiguous(memory_format=torch.channels_last), counts[where].float()
        u = torch.rand(args.batch, device=device)
        # Draws near pure noise: only there does the caption decide, and all there is to a drawing of one step. The others are
        # for taking small noise away cleanly, in drawings of more.
        early = torch.rand_like(u) < args.near
        t = torch.where(early, 940 + 60 * u, 1000 * u ** 0.8).long().clamp(max=999)
        a = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        noisy, v = a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0
        with autocast:
            with torch.no_grad():
                context = text(ids).last_hidden_state
            out = unet(noisy, t, context).sample
        errors = ((out.float() - v).square().mean(1) * count).mean((1, 2)) / count.mean((1, 2))
        loss = errors.mean()
        for i, said, near, error in zip(pick, words, early.tolist(), errors.tolist()):
            if said and near:
                hard[i] += 0.1 * (min(1.0, error) - hard[i])
        team.step(loss, optimiser, ema, path)
        step += 1
        losses.append(loss.item())
        samples += args.batch * team.world
        if step % 50 == 0 and team.rank == 0:
            print(f"step {step} minute {clock.used() / 60:.1f} samples {samples} loss {np.mean(losses):.4f}",
                  flush=True)
            losses = []
        if clock.used() - saved > 120 and team.rank == 0:
            saved = clock.used()
            checkpoint()
    if team.rank == 0:
        checkpoint()
        print(f"done: {step} steps, {samples} samples, {clock.used() / 60:.1f} minutes", flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--part", choices=["latents", "text", "train", "distil"], required=True)
    ap.add_argument("--minutes", type=float, default=35)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--near", type=float, help="share of the draws near pure noise; 0.8, and with --reach all 0.25")
    ap.add_argument("--shape", default="mini")
    ap.add_argument("--draw", nargs="+", default=DRAWN, help="which of the concepts, by their draw column")
    ap.add_argument("--teacher", type=Path, help="text: another work folder whose words are kept")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--reach", choices=["small", "all"], default="small", help="all: the full grammar (full.py)")
    ap.add_argument("--art", type=Path, help="all: the art, for latents")
    ap.add_argument("--size", type=int, default=256, help="all: pixels of the scenes, half of the model's")
    ap.add_argument("--variants", type=int, default=6, help="all: captions of each scene on each background")
    ap.add_argument("--workers", type=int, default=0, help="all: processes that draw and write; 0: one a processor")
    ap.add_argument("--report", type=int, default=200, help="all: steps between two lines of the log")
    ap.add_argument("--stop", type=float, default=0, help="all: leave after so many of the --minutes, to be gone on with")
    ap.add_argument("--rank", type=int, default=8, help="distil: of the LoRA")
    ap.add_argument("--guidance", type=float, default=2.5, help="distil: baked in")
    args = ap.parse_args()
    if args.near is None:
        args.near = 0.8 if args.reach == "small" else 0.25
    if args.reach == "small" and args.part != "distil":
        return {"latents": make_latents, "text": train_text, "train": train}[args.part](args)
    import distil
    import full
    {"latents": full.make_latents, "text": full.train_text, "train": full.train, "distil": distil.train}[args.part](args)


if __name__ == "__main__":
    main()
