"""Pictures made of real art: one emoji, or a subject with an attachment, on a flat background.

A picture is up to three layers, back to front: the row in the art (-1: none), and where it goes: centre x, y and half its
side, in a frame from -1 to 1; whether it is mirrored; its angle.
"""
import numpy as np
import torch
import torch.nn.functional as F

from realart import MOODS

LAYERS = 3
HAT, GLASSES, TEARS, BEHIND, CORNERS, ABOVE, BESIDE, MOOD = range(8)
PLACES = {
    "crown": HAT, "top-hat": HAT, "graduation-cap": HAT, "sunglasses": GLASSES, "glasses": GLASSES, "ribbon": HAT,
    "headphone": HAT, "fire": CORNERS, "red-heart": CORNERS, "droplet": TEARS, "zzz": CORNERS, "anger-symbol": CORNERS,
    "star": CORNERS, "cloud-with-rain": ABOVE, "high-voltage": CORNERS, "balloon": BESIDE, "cherry-blossom": BESIDE,
    "wrapped-gift": BESIDE, "musical-note": CORNERS, "sparkles": CORNERS, "snowflake": CORNERS, "sweat-droplets": CORNERS,
    "umbrella": ABOVE, "hot-beverage": BESIDE, "rainbow": BEHIND, "red-question-mark": CORNERS, "musical-notes": CORNERS,
    "light-bulb": CORNERS, **{face: MOOD for face in MOODS},
}


def single(rng, row):
    """One emoji as it is trained on: anywhere near the middle."""
    return [(row, rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), rng.uniform(0.6, 1.0), rng.random() < 0.5,
             rng.uniform(-0.25, 0.25))]


def centred(row):
    return [(row, 0.0, 0.0, 0.8, False, 0.0)]


def pair(rng, subject, box, attachment, place):
    """The attachment where people would put it; the subject makes room."""
    size = rng.uniform(0.6, 0.85)
    x, y = rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.15)
    if place in (HAT, ABOVE):
        y += 0.15
    left, top, right, bottom = (b * size + (x if i % 2 == 0 else y) for i, b in enumerate(box))
    wide, high, side = right - left, bottom - top, -1 if rng.random() < 0.5 else 1
    at = lambda px, py, s: (attachment, px, py, s, side < 0, rng.uniform(-0.15, 0.15))
    base = (subject, x, y, size, rng.random() < 0.5, rng.uniform(-0.1, 0.1))
    j = rng.uniform(-0.07, 0.07)
    if place == HAT:
        s = wide * rng.uniform(0.22, 0.36)
        return [base, at(x + rng.uniform(-0.2, 0.2) * wide, top + 0.1 * high - 0.4 * s, s)]
    if place == GLASSES:
        return [base, at(x + j, y - 0.05 * high + j, wide * rng.uniform(0.25, 0.4))]
    if place == TEARS:
        s, apart, py = wide * rng.uniform(0.08, 0.14), wide * rng.uniform(0.15, 0.28), y + high * rng.uniform(0, 0.25)
        return [base, at(x - apart, py, s), at(x + apart, py, s)]
    if place == BEHIND:
        s = size * rng.uniform(0.7, 1.1)
        if rng.random() < 0.5:
            return [at(x + j, y - 0.1 * high, s), base]
        return [base, at(x + j, bottom - 0.5 * s, s * 0.7)]
    if place == CORNERS:
        s = rng.uniform(0.14, 0.36)
        first = at(side * rng.uniform(0.5, 0.75), rng.uniform(-0.8, -0.4), s)
        return [base, first] if rng.random() < 0.5 else [base, first, at(-side * 0.65, rng.uniform(-0.7, 0.6), s)]
    if place == MOOD:
        s = min(wide, high) * rng.uniform(0.35, 0.6)
        return [base, (attachment, x + j, y + rng.uniform(-0.1, 0.2) * high, s, side < 0, 0.0)]
    if place == ABOVE:
        return [base, at(x + j, top - 0.05, rng.uniform(0.3, 0.5))]
    return [base, at(side * rng.uniform(0.4, 0.65), rng.uniform(-0.1, 0.6), rng.uniform(0.25, 0.42))]


def render(art, pictures, colours, side):
    """pictures: lists of layers; colours float [B,3] in 0..1 -> [B,3,side,side] in 0..1."""
    n = len(pictures)
    rows = np.full((LAYERS, n), -1)
    theta = np.zeros((LAYERS, n, 2, 3), np.float32)
    theta[:, :, 0, 0] = theta[:, :, 1, 1] = 1
    for i, layers in enumerate(pictures):
        for l, (row, x, y, half, mirrored, angle) in enumerate(layers):
            c, s = np.cos(angle) / half, np.sin(angle) / half
            m = np.array([[c, s], [-s, c]])
            if mirrored:
                m[0] = -m[0]
            rows[l, i] = row
            theta[l, i] = np.concatenate([m, -m @ [[x], [y]]], 1)
    out = colours[:, :, None, None].expand(n, 3, side, side)
    for l in range(LAYERS):
        half = 1 / np.linalg.norm(theta[l, :, 0, :2], axis=1)
        for source, chosen in ((art.small, half < 0.4), (art.large, half >= 0.4)):
            which = np.flatnonzero(chosen & (rows[l] >= 0))
            if not len(which):
                continue
            grid = F.affine_grid(torch.from_numpy(theta[l, which]), (len(which), 4, side, side), align_corners=False)
            layer = F.grid_sample(source[rows[l, which]].float() / 255, grid, align_corners=False)
            out = out.index_copy(0, torch.from_numpy(which), layer[:, :3] + (1 - layer[:, 3:]) * out[which])
    return out
