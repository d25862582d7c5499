"""What the stages share: colours, pictures from art.npy, checkpoints, timed learning rates."""
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

# Background words and their colours: white and the key colours are drawn most often (weight).
BACKGROUNDS = {
    "white": ("#ffffff", 3), "green": ("#00c800", 4), "blue": ("#1e5aff", 3), "magenta": ("#ff00ff", 4),
    "yellow": ("#ffd600", 0), "pink": ("#ffb4d2", 0), "grey": ("#969696", 0), "black": ("#101010", 0),
}
BACKGROUNDS_KO = {
    "white": ["흰색", "하얀색"], "green": ["초록색", "녹색"], "blue": ["파란색"], "magenta": ["자홍색"],
    "yellow": ["노란색"], "pink": ["분홍색"], "grey": ["회색"], "black": ["검은색", "검정색"],
}


NAMED = [b for b, (_, weight) in BACKGROUNDS.items() if weight]      # those that the diffusion model draws


def rgb(name):
    h = BACKGROUNDS[name][0]
    return np.array([int(h[i:i + 2], 16) for i in (1, 3, 5)], np.float32)


def compose(rgba, colour):
    """Premultiplied RGBA bytes [h,w,4] over a colour [3] -> float [h,w,3] in 0..255."""
    return rgba[..., :3] + (255 - rgba[..., 3:]) * (colour.astype(np.float32) / 255)


SCALE = 0.86            # of the frame that a picture's own frame fills: the margin


def place(rgba, scale=SCALE):
    """A square RGBA picture (premultiplied) shrunk to that share of its frame, in the middle."""
    n = rgba.shape[0]
    m = round(n * scale / 2) * 2
    small = np.stack([np.asarray(Image.fromarray(rgba[..., c]).resize((m, m), Image.BILINEAR)) for c in range(4)], -1)
    out = np.zeros_like(rgba)
    edge = (n - m) // 2
    out[edge:edge + m, edge:edge + m] = small
    return out


def to_tensor(pictures):
    """List of [h,w,3] in 0..255 -> [B,3,h,w] in -1..1."""
    x = torch.from_numpy(np.stack(pictures)) / 127.5 - 1
    return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def open_art(work):
    return np.load(work / "art.npy", mmap_mode="r"), json.loads((work / "art.json").read_text())


def save(path, **state):
    """A checkpoint is whole or not there: written beside, then renamed."""
    part = Path(str(path) + ".part")
    torch.save(state, part)
    os.replace(part, path)


class Clock:
    """Training is planned in minutes: lr follows the share of them that is used up. Survives a resume."""
    def __init__(self, minutes, used=0.0):
        self.total, self.start = minutes * 60, time.time() - used

    def used(self):
        return time.time() - self.start

    def share(self):
        return min(1.0, self.used() / self.total)

    def lr(self, peak, step, warmup=50):
        return peak * min(1, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.share())))


class Team:
    """With WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT set, several processes share a batch. On a CPU two processes of one
    thread each, pinned to a core, make nearly twice the steps of one process with two threads."""
    def __init__(self, params):
        self.world, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        self.params = params
        if self.world > 1:
            dist.init_process_group("gloo")

    def clock(self, clock):
        """One clock for all: the same learning rate, the same last step."""
        if self.world == 1:
            return clock
        used = torch.tensor([clock.used()], dtype=torch.float64)
        dist.broadcast(used, 0)
        return Clock(clock.total / 60, used.item())

    def average_gradients(self):
        if self.world == 1:
            return
        grads = [p.grad for p in self.params if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat.div_(self.world)
        for g, mean in zip(grads, flat.split([g.numel() for g in grads])):
            g.copy_(mean.view_as(g))

    def step(self, loss, optimiser, ema, path):
        """One step, all together. A gradient that is not finite ends it all before it does harm: path keeps the state of its last
        checkpoint."""
        optimiser.zero_grad()
        loss.backward()
        self.average_gradients()
        if not torch.isfinite(torch.nn.utils.clip_grad_norm_(self.params, 1.0)):
            raise SystemExit(f"a gradient that is not finite; {path.name} keeps the state before")
        optimiser.step()
        ema.update()


class Ema:
    """Running average of the weights; short memory at first, so that early exports are not the random start."""
    def __init__(self, params, decay, state=None):
        self.params, self.decay, self.step = list(params), decay, 0
        self.mean = [p.detach().clone() for p in self.params]
        if state:
            self.mean, self.step = state["mean"], state["step"]

    @torch.no_grad()
    def update(self):
        self.step += 1
        d = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.params], 1 - d)

    def state(self):
        return {"mean": self.mean, "step": self.step}

    def snapshot(self, model):
        """Copies of a model's state, on the host: as it is, and averaged."""
        copies = []
        for _ in range(2):
            copies.append({k: v.detach().cpu().clone() for k, v in model.state_dict().items()})
            self.swap()
        return copies

    def swap(self):
        for p, m in zip(self.params, self.mean):
            p.data, m.data = m.data, p.data


def device_setup(seed):
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, torch.autocast(device, dtype=torch.bfloat16)
