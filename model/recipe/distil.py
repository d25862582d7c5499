"""Stage 7: few steps. Consistency distillation in latents (LCM, Luo et al. 2023, arXiv 2310.04378), guidance baked in, as a LoRA.

From a noisy latent the teacher (the averaged UNet, with guidance) takes one DDIM step down the fifty-step ladder of
LCMScheduler; what the student makes of both ends must be the same picture. The student is the teacher with a LoRA on every linear
layer and convolution, so that both variants cost one UNet and a small file. Draw with sampler lcm, no guidance, one to four steps.
"""
import torch
from torch import nn

from common import Clock, device_setup, save
from diffusion import scheduler
from full import Data, models, noised
from norm import fuse_norms

LADDER = 50             # original_inference_steps of LCMScheduler
SIGMA, SCALING = 0.5, 10.0      # its sigma_data and timestep_scaling


class Lora(nn.Module):
    """A layer with a low-rank addition, which starts as nothing."""
    def __init__(self, base, rank):
        super().__init__()
        self.base, self.on = base, True
        if isinstance(base, nn.Conv2d):
            rank = min(rank, base.out_channels)
            self.down = nn.Conv2d(base.in_channels, rank, base.kernel_size, base.stride, base.padding, bias=False)
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            rank = min(rank, base.out_features)
            self.down, self.up = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / base.weight[0].numel() ** 0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x)) if self.on else self.base(x)


def put_on(unet, rank):
    """Wraps the UNet's layers -> {name: Lora}."""
    found = {}
    for name, module in list(unet.named_modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and not isinstance(module, Lora) and "time_embed" not in name:
                found[f"{name}.{child}".lstrip(".")] = Lora(layer, rank)
                setattr(module, child, found[f"{name}.{child}".lstrip(".")])
    return found


def tensors(weights):
    """A LoRA as diffusers writes it: {"unet.NAME.lora_A.weight": ...}."""
    return {f"unet.{name}.lora_{letter}.weight": w for name, pair in weights.items() for letter, w in zip("AB", pair)}


def merged(unet_state, weights):
    """UNet weights with a LoRA added in."""
    out = dict(unet_state)
    for name, (down, up) in weights.items():
        out[name + ".weight"] = out[name + ".weight"] + (up.flatten(1).float() @ down.flatten(1).float()).view_as(out[name + ".weight"])
    return out


def picture_of(x, v, t, alphas):
    """What a consistency model makes of x at t: LCMScheduler's mixture of x and the predicted x0."""
    a, s = alphas[t].view(-1, 1, 1, 1), (t.float() * SCALING).view(-1, 1, 1, 1)
    skip, out = SIGMA ** 2 / (s ** 2 + SIGMA ** 2), s / (s ** 2 + SIGMA ** 2).sqrt()
    return skip * x + out * (a.sqrt() * x - (1 - a).sqrt() * v)


def ddim(x, v, t, to, alphas):
    """One step of DDIM; to: -1 is the end."""
    a = alphas[t].view(-1, 1, 1, 1)
    b = torch.where(to >= 0, alphas[to.clamp(min=0)], torch.ones_like(alphas[:1])).view(-1, 1, 1, 1)
    x0, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
    return b.sqrt() * x0 + (1 - b).sqrt() * noise


def train(args):
    device, autocast = device_setup(args.seed)
    data = Data(args, device)
    unet, text, empty, state = models(args, device)
    unet.load_state_dict(state["average"]["unet"])
    unet = fuse_norms(unet.to(device, memory_format=torch.channels_last).requires_grad_(False))
    student = put_on(unet, args.rank)
    unet.to(device, memory_format=torch.channels_last)
    params = [p for l in student.values() for p in (l.down.weight, l.up.weight)]
    path = args.work / "distilled.pt"
    old = torch.load(path, weights_only=False, map_location=device) if path.exists() else None
    if old:
        with torch.no_grad():
            for p, kept in zip(params, old["params"]):
                p.copy_(kept)
    mean = [p.detach().clone() for p in params] if not old else old["mean"]
    optimiser = torch.optim.AdamW(params, lr=args.lr, betas=(0.9, 0.99), weight_decay=0, fused=True)
    if old:
        optimiser.load_state_dict(old["optimiser"])
    step, clock = old["step"] if old else 0, Clock(args.minutes, old["used"] if old else 0)
    alphas = scheduler().alphas_cumprod.to(device)
    torch.manual_seed(args.seed + step)
    print(f"LoRA of rank {args.rank}: {sum(p.numel() for p in params) / 1e6:.2f} M weights on {len(student)} layers", flush=True)
    if device == "cuda":
        unet.compile()

    def switch(on):
        for l in student.values():
            l.on = on

    def averaged(run):
        """The student as its own running average, for the target."""
        with torch.no_grad():
            kept = [p.detach().clone() for p in params]
            torch._foreach_copy_(params, mean)
            out = run()
            torch._foreach_copy_(params, kept)
        return out

    def checkpoint():
        lora = {n: (mean[2 * i].half().cpu(), mean[2 * i + 1].half().cpu()) for i, n in enumerate(student)}
        save(path, lora=lora, params=[p.detach() for p in params], mean=mean, optimiser=optimiser.state_dict(), step=step,
             used=clock.used(), shape=args.shape, guidance=args.guidance)

    apart, total, counted, saved = 1000 // LADDER, torch.zeros((), device=device), 0, clock.used()
    nothing = None
    while clock.share() < 1:
        for group in optimiser.param_groups:
            group["lr"] = clock.lr(args.lr, step, 100)
        pick, ground, ids = data.draw(args.batch)
        x0 = data.z[pick, ground].float().contiguous(memory_format=torch.channels_last)
        t = torch.randint(1, LADDER + 1, (args.batch,), device=device) * apart - 1      # 19, 39, ... 999
        t = torch.where(torch.rand(args.batch, device=device) < args.near, torch.full_like(t, 999), t)
        x, _ = noised(x0, alphas, t)
        to = t - apart
        with autocast, torch.no_grad():
            context = text(ids).last_hidden_state
            nothing = text(empty[None]).last_hidden_state if nothing is None else nothing
            switch(False)
            said, plain = unet(torch.cat([x, x]), torch.cat([t, t]), torch.cat([context, nothing.expand_as(context)])).sample.float().chunk(2)
            switch(True)
            lower = ddim(x, plain + args.guidance * (said - plain), t, to, alphas)
        with autocast:
            target = averaged(lambda: unet(lower, to.clamp(min=0), context).sample.float())
            v = unet(x, t, context).sample.float()
        target = torch.where(to.view(-1, 1, 1, 1) >= 0, picture_of(lower, target, to.clamp(min=0), alphas), lower)
        gap = (picture_of(x, v, t, alphas) - target).square()
        loss = (gap + 1e-3 ** 2).sqrt().mean() - 1e-3        # pseudo-Huber
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        torch._foreach_lerp_(mean, [p.detach() for p in params], 1 - min(0.95, (1 + step) / (10 + step)))
        step, counted = step + 1, counted + 1
        total += loss.detach()
        if step % args.report == 0:
            print(f"distil: step {step} minute {clock.used() / 60:.1f} loss {(total / counted).item():.4f}", flush=True)
            total, counted = torch.zeros_like(total), 0
            if clock.used() - saved > 120:
                saved = clock.used()
                checkpoint()
    checkpoint()
    print(f"done: {step} steps of distillation, {clock.used() / 60:.1f} minutes", flush=True)
