"""A small image-caption encoder, trained on real art alone: it judges the drawings.

Image side: a small residual net on 64 px. Text side: hashed words and letter groups, summed. Both give unit vectors; the loss
is InfoNCE from each picture to all captions, in English and in Korean. Half of the pictures are compositions, and
both of their parts are right answers.
"""
import math
import time
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import compose
import realart

SIDE, WIDTH, BUCKETS = 64, 160, 16384
FIRST_SIDE = 40         # for the first 40 % of the training: twice the steps in the same time


class Block(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.first = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(b), nn.BatchNorm2d(b)])
        self.skip = nn.Conv2d(a, b, 1, bias=False)

    def forward(self, x):
        y = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(y + self.skip(F.avg_pool2d(x, 2, ceil_mode=True) if self.first.stride[0] == 2 else x))


class Encoder(nn.Module):
    def __init__(self, channels=(32, 64, 128, 256)):
        super().__init__()
        c = channels
        self.image = nn.Sequential(
            nn.Conv2d(3, c[0], 4, 2, 1, bias=False), nn.BatchNorm2d(c[0]), nn.ReLU(),
            Block(c[0], c[1], 2), Block(c[1], c[2], 2), Block(c[2], c[3], 2), Block(c[3], c[3], 1))
        self.out = nn.Linear(2 * c[3], WIDTH)
        self.text = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum")
        nn.init.normal_(self.text.weight, std=0.1)
        self.scale = nn.Parameter(torch.tensor(math.log(12.0)))

    def pictures(self, x):
        """x [B,3,SIDE,SIDE] in 0..1 -> unit vectors [B,WIDTH]."""
        f = self.image((x * 4 - 2).contiguous(memory_format=torch.channels_last)).float()
        return F.normalize(self.out(torch.cat([f.mean((2, 3)), f.amax((2, 3))], 1)).float(), dim=1)

    def texts(self, bags):
        """bags: lists of bucket numbers -> unit vectors."""
        flat = torch.from_numpy(np.concatenate(bags))
        starts = torch.from_numpy(np.cumsum([0] + [len(b) for b in bags[:-1]]))
        return F.normalize(self.text(flat, starts), dim=1)

    @torch.inference_mode()
    def see(self, x):
        self.eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.cat([self.pictures(part) for part in x.split(128)])

    @torch.inference_mode()
    def read(self, texts):
        self.eval()
        return self.texts([bag(t) for t in texts])


def bag(text):
    """Buckets of a text's words and of their groups of one to four letters."""
    grams = set()
    for word in text.lower().replace(",", " ").replace("-", " ").split():
        grams.add(word)
        padded = f"<{word}>"
        for n in ((1, 2, 3) if ord(word[0]) > 0x1100 else (3, 4)):
            grams.update(padded[i:i + n] for i in range(len(padded) - n + 1))
    return np.array(sorted(zlib.crc32(g.encode()) % BUCKETS for g in grams))


class Lessons:
    """Batches of pictures with what is in them: real art of every set but the held one."""
    def __init__(self, art, held, wanted, rng):
        self.art, self.rng = art, rng
        self.whole, self.bare = ({}, {})
        for own, bare in ((self.whole, False), (self.bare, True)):
            for i in art.rows(held, False, bare).tolist():
                own.setdefault(art.concept[i].item(), []).append(i)
        self.concepts = sorted(self.whole)
        self.place = {c: compose.PLACES[r["slug"]] for c, r in enumerate(wanted) if r["slug"] in compose.PLACES}
        # subjects that are asked for are shown as often as all the rest together
        subjects = {row["parts"][0] for row in realart.compositions()}
        self.subjects = [c for c in self.concepts if wanted[c]["slug"] in subjects]
        self.attachments = [c for c in self.place if c in (self.bare if self.place[c] == compose.MOOD else self.whole)]

    def pick(self, concepts, pictures):
        own = pictures[concepts[self.rng.integers(len(concepts))]]
        return own[self.rng.integers(len(own))]

    def composition(self):
        """A subject with an attachment, of any two sets; the place is often any, since drawings have theirs."""
        r = self.rng
        subject = self.pick(self.subjects if r.random() < 0.5 else self.concepts, self.whole)
        what = self.attachments[r.integers(len(self.attachments))] if r.random() < 0.85 else None
        mood = self.place.get(what) == compose.MOOD
        attachment = self.pick([what] if what is not None else self.concepts, self.bare if mood else self.whole)
        place = self.place.get(what, compose.BESIDE)
        if r.random() < 0.35 and not mood:
            place = int(r.integers(compose.MOOD))
        return compose.pair(r, subject, self.art.box[subject].tolist(), attachment, place)

    def batch(self, n, share, side=SIDE):
        r, pictures = self.rng, []
        target = torch.zeros(n, int(self.art.concept.max()) + 1)
        for i in range(n):
            layers = self.composition() if r.random() < share else compose.single(r, self.pick(self.concepts, self.whole))
            inside = sorted({self.art.concept[l[0]].item() for l in layers})
            target[i, inside] = 1 / len(inside)
            pictures.append(layers)
        colours = torch.from_numpy(r.random((n, 3), np.float32))
        x = compose.render(self.art, pictures, colours, side)
        return self.worn(x), target

    def worn(self, x):
        """Colours off a little, edges soft, some grain: drawings are not as crisp as art."""
        r, n = self.rng, len(x)
        gain = torch.from_numpy(r.uniform(0.85, 1.15, (n, 3, 1, 1)).astype(np.float32))
        x = x * gain
        soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        mix = torch.from_numpy(r.choice([0, 0, 0.5, 1], (n, 1, 1, 1)).astype(np.float32))
        noise = torch.from_numpy(r.choice([0, 0.02, 0.05], (n, 1, 1, 1)).astype(np.float32))
        return (x + mix * (soft - x) + noise * torch.randn(x.shape)).clamp(0, 1)


def train(path, art, held, wanted, captions, minutes, batch=128, seed=1, channels=(32, 64, 128, 256), say=print):
    """Train for so many minutes of the processor's time (a busy machine takes longer, and learns as much), or go on where
    WORK's checkpoint stopped; a finished one is only read."""
    torch.manual_seed(seed)
    net = Encoder(channels).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    state = torch.load(path, weights_only=False) if path.exists() else {"used": 0.0, "step": 0}
    if "net" in state:
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
    rng = np.random.default_rng([seed, state["step"]])
    lessons = Lessons(art, held, wanted, rng)
    bags = {l: [[bag(t) for t in texts] for texts in captions[l]] for l in captions}
    start, step, losses = time.process_time() - state["used"], state["step"], []
    saved = time.time()

    def save(used):
        part = path.with_suffix(".part")
        torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "used": used, "step": step}, part)
        part.rename(path)

    net.train()
    while (used := time.process_time() - start) < minutes * 60:
        share = used / (minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        x, target = lessons.batch(batch, 0.5, FIRST_SIDE if share < 0.4 else SIDE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = net.pictures(x)
        loss = 0
        for own in bags.values():
            # the name as it is half of the time, else any text that means the same
            texts = net.texts([b[0] if rng.random() < 0.5 else b[rng.integers(len(b))] for b in own])
            loss = loss - (target * (net.scale.exp() * seen @ texts.T).log_softmax(1)).sum(1).mean() / len(bags)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            net.scale.clamp_(max=math.log(60.0))
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            say(f"encoder: step {step}, minute {used / 60:.1f}, loss {np.mean(losses):.3f}")
            losses = []
        if time.time() - saved > 60:
            saved = time.time()
            save(used)
    if step > state["step"]:
        save(used)
    return net.eval()
