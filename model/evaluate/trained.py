"""The composed scenes that the generator was trained on, as pictures: is a composed drawing more than a copy of one?"""
import numpy as np

import realart              # noqa: F401    (puts the recipe on the path)
from art import render
from common import place
from encoder import SIDE
from scenes import DRAWN, Art, in_reach, scenes


def scenes_taught():
    """Those that the model that ships has seen: subjects with a thing, none of the held-out ones."""
    return [s for s in scenes(DRAWN, "twemoji") if s.thing >= 0 and in_reach(s) and not s.held_out]


def pictures(art, work, few=None):
    """uint8 [scenes, SIDE, SIDE, 4], premultiplied, drawn once; the second time they come from WORK."""
    found = scenes_taught()[:few]
    path = work / f"trained-{len(found)}.npy"
    if not path.exists():
        drawer = Art(art, "twemoji")
        out = np.stack([place(render(drawer.svg(s), SIDE)) for s in found])
        np.save(path.with_suffix(".part.npy"), out)
        path.with_suffix(".part.npy").rename(path)
    return np.load(path)
