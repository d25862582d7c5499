"""What is measured, on unit vectors of the encoder: each function takes arrays and gives numbers."""
import numpy as np
import torch


def ranks(pictures, texts, right):
    """How many texts [C,w] are nearer to each picture [n,w] than the right one (its row). A missing picture is a vector of
    noughts, which is near nothing: it ranks last."""
    scores = pictures @ texts.T
    own = scores.gather(1, right[:, None])
    return torch.where(pictures.any(1), (scores > own).sum(1), len(texts))


def recall(rank):
    """R@1 and R@5 in per cent; None of nothing."""
    return {f"R@{k}": round(100 * (rank < k).float().mean().item(), 1) if len(rank) else None for k in (1, 5)}


def both(pictures, parts, wanted, k):
    """For pictures [n,w], names of all parts [P,w] and the two wanted parts [n,2]: is the first among the nearest k, and is
    the second."""
    first, second = (ranks(pictures, parts, wanted[:, i]) < k for i in (0, 1))
    return first, second


def frames(drawings):
    """Flatness and framing, over drawings."""
    share = lambda hit: round(100 * float(np.mean(hit)), 1)
    deviation = np.array([d.deviation for d in drawings])
    return {"drawings": len(drawings), "median deviation": round(float(np.median(deviation)), 2),
            "under 3, %": share(deviation < 3), "touched, %": share([d.touched for d in drawings]),
            "median distance from the colour": round(float(np.median([d.off for d in drawings])), 1)}


def spread(groups):
    """Mean distance (one less the cosine) between the vectors of a group [s,w], and between those of different groups."""
    within = [(1 - g @ g.T).sum() / (len(g) * (len(g) - 1)) for g in groups if len(g) > 1]
    if not within:
        return {"between seeds": None, "between names": None}
    first = torch.stack([g[0] for g in groups])
    n = len(first)
    other = ((1 - first @ first.T).sum() / max(1, n * (n - 1))).item()
    return {"between seeds": round(torch.stack(within).mean().item(), 3), "between names": round(other, 3)}


def pixels_apart(groups):
    """Mean difference, in 255ths, between the pictures [s,h,w,3] of a group."""
    out = [np.abs(a.astype(np.int16) - b).mean() for g in groups for i, a in enumerate(g) for b in g[:i]]
    return round(float(np.mean(out)), 1) if out else None


def nearest(pictures, art):
    """The cosine of each picture with the real picture nearest to it."""
    near = (pictures @ art.T).amax(1)
    return {"mean cosine": round(near.mean().item(), 3), "above 0.9, %": round(100 * (near > 0.9).float().mean().item(), 1)}
