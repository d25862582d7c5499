#!/usr/bin/env python3
"""compare.py OUT.json: a call of SD 1.4's U-Net in diffusers, f16, batch 2, 512 px: as it is, with
channels last, and with torch.compile, the faster of two modes. Random weights of the published
shapes. Milliseconds, medians; written after each mode, since the second tries kernels for minutes.

Needs torch and diffusers; measure.sh runs it on the GPU that it measures."""
import json
import math
import os
import statistics
import sys

import torch
from diffusers import UNet2DConditionModel

CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "networks",
                      "unet_sd14.json")


def time_call(call, runs=50):
    for _ in range(5):
        call()
    took = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        took.append(start.elapsed_time(end))
    return statistics.median(took)


@torch.no_grad()
def main(out):
    with open(CONFIG, encoding="utf-8") as f:
        unet = UNet2DConditionModel.from_config(json.load(f)).cuda().half().eval()
    sample = torch.randn(2, 4, 64, 64, device="cuda", dtype=torch.half)
    context = torch.randn(2, 77, 768, device="cuda", dtype=torch.half)
    time = torch.tensor(500, device="cuda")

    def call():
        return unet(sample, time, encoder_hidden_states=context).sample

    result = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    result["eager_ms"] = time_call(call)
    unet.to(memory_format=torch.channels_last)
    result["channels_last_ms"] = time_call(call)
    plain = unet.forward
    for mode in ("reduce-overhead", "max-autotune"):
        torch.compiler.reset()
        unet.forward = torch.compile(plain, mode=mode, fullgraph=True)
        result[mode + "_ms"] = time_call(call)
        result["compiled_ms"] = min(result.get("compiled_ms", math.inf), result[mode + "_ms"])
        result["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        print(json.dumps(result, indent=1), flush=True)
        with open(out, "w", encoding="utf-8") as f:
            json.dump(result, f)


if __name__ == "__main__":
    main(sys.argv[1])
