"""Recolouring of vector art: every fill, line and gradient stop of a picture's main hue moves to another one.

Shades keep their distance from the picture's main colour, in hue and in lightness, so that shadows stay shadows; dark lines,
whites and parts of other hues stay as they are. A picture without a hue (a ghost, a skull) is tinted from its greys.
"""
import colorsys
import re

import numpy as np

# Hue in degrees, saturation, lightness of what the word stands for. Grey has no hue.
WORDS = {"red": (355, .75, .50), "orange": (28, .95, .55), "yellow": (48, 1., .62), "green": (125, .50, .45),
         "blue": (212, .80, .55), "purple": (272, .55, .55), "pink": (335, .85, .77), "grey": (0, 0., .60)}
COLOUR = re.compile(r"#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})(?![0-9a-fA-F])")
NEAR = 50               # degrees from the main hue that go along with it


def hls(text):
    if len(text) == 3:
        text = "".join(c * 2 for c in text)
    h, l, s = colorsys.rgb_to_hls(*(int(text[i:i + 2], 16) / 255 for i in (0, 2, 4)))
    return h * 360, l, s


def apart(a, b):
    """Degrees from b to a, -180 to 180."""
    return (a - b + 180) % 360 - 180


class Paint:
    """What a picture is painted with: its main hue with lightness (None: greys only), from its pixels [h,w,4], premultiplied."""
    def __init__(self, pixels):
        x = pixels.reshape(-1, 4).astype(np.float32)
        x = x[x[:, 3] > 200, :3] / 255
        high, low = x.max(1, initial=0), x.min(1, initial=1)
        lit, chroma = (high + low) / 2, high - low
        bright = x[(chroma > 0.2) & (lit > 0.15)]
        self.hue, self.lightness = None, float(np.median(lit[lit > 0.3])) if (lit > 0.3).any() else 0.5
        if len(bright) > 0.25 * len(x):
            every = np.array([colorsys.rgb_to_hls(*p) for p in bright[::max(1, len(bright) // 400)]])
            angle = every[:, 0] * 360
            crowd = [(np.abs(apart(angle, h)) < 20).sum() for h in range(0, 360, 10)]
            near = every[np.abs(apart(angle, 10 * int(np.argmax(crowd)))) < 25]
            turn = apart(near[:, 0] * 360, 10 * int(np.argmax(crowd)))
            self.hue, self.lightness = float((10 * int(np.argmax(crowd)) + np.median(turn)) % 360), float(np.median(near[:, 1]))
            self.share = len(near) / len(every) * len(bright) / len(x)
        else:
            self.share = float((lit > 0.3).mean()) if len(x) else 0.

    def takes(self, word):
        """Whether the picture in that colour is plainly another picture."""
        if self.share < 0.35:
            return False
        hue, saturation, _ = WORDS[word]
        return self.hue is not None if not saturation else self.hue is None or abs(apart(self.hue, hue)) > 25

    def over(self, svg, word):
        hue, saturation, lightness = WORDS[word]

        def moved(found):
            h, l, s = hls(found[1])
            own = l > 0.28 if self.hue is None else s > 0.12 and abs(apart(h, self.hue)) < NEAR and 0.06 < l < 0.985
            if not own:
                return found[0]
            shade = 0.3 * apart(h, self.hue) if self.hue is not None else 0
            light = min(0.95, max(0.08, lightness + 0.85 * (l - self.lightness)))
            r, g, b = colorsys.hls_to_rgb((hue + shade) % 360 / 360, light, saturation)
            return "#" + "".join(f"{round(255 * v):02x}" for v in (r, g, b))
        return COLOUR.sub(moved, svg)
