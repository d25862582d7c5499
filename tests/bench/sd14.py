"""Sets the engine beside diffusers on one machine: time, memory and error of a U-Net call (batch 2)
and of a decoding, for a Stable Diffusion 1.x folder.

    make build/bench/sd14
    python sd14.py FOLDER [--rounds 3] [--runs 3] [--threads 0] [--types bf16 f32]

Rounds alternate between the two, each in a process of its own; the best time counts, since other
work on the machine only ever adds. Needs torch and diffusers.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parents[1] / "build" / "bench" / "sd14"


def make_inputs(folder, data):
    import json
    unet = json.loads((folder / "unet" / "config.json").read_text())
    side = unet["sample_size"]
    dice = np.random.default_rng(1)
    arrays = {
        "sample": dice.standard_normal((2, side, side, unet["in_channels"])),
        "timestep": np.array([601.0, 601.0]),
        "context": dice.standard_normal((2, 77, unet["cross_attention_dim"])),
        "latents": dice.standard_normal((1, side, side, 4)),
    }
    for name, array in arrays.items():
        array.astype("<f4").tofile(data / f"{name}.f32")


def reference(folder, data, kind, runs, threads):
    """What diffusers does with the same inputs, printed in the program's format."""
    import resource
    import time
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    if threads:
        torch.set_num_threads(threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[kind]

    def load(name, *shape):
        array = np.fromfile(data / f"{name}.f32", "<f4").reshape(shape)
        tensor = torch.from_numpy(array)
        return tensor.permute(0, 3, 1, 2).contiguous().to(dtype) if len(shape) == 4 else tensor

    def measure(name, model, call, out):
        for _ in range(runs):
            start, processor = time.perf_counter(), time.process_time()
            y = call(model)
            print(f"{name}_run {time.perf_counter() - start:.4f}")
            print(f"{name}_cpu {time.process_time() - processor:.4f}", flush=True)
        print(f"{name}_peak_mib {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
        y.float().permute(0, 2, 3, 1).contiguous().numpy().tofile(data / f"{out}.{kind}.reference")

    print(f"engine torch {torch.__version__}, {torch.get_num_threads()} threads")
    with torch.no_grad():
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype)
        side, channels = unet.config.sample_size, unet.config.in_channels
        sample = load("sample", 2, side, side, channels)
        timestep, context = load("timestep", 2), load("context", 2, 77, -1).to(dtype)
        measure("unet", unet, lambda m: m(sample, timestep, context).sample, "unet")
        del unet
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=dtype)
        latents = load("latents", 1, side, side, 4)
        measure("vae", vae, lambda m: m.decode(latents).sample, "decoded")


def run(command, threads):
    env = dict(os.environ)
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    text = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True,
                          env=env).stdout
    found = {}
    for line in text.splitlines():
        key, value = line.split(" ", 1)
        found.setdefault(key, []).append(value)
    return found


def nmse(a, b):
    a, b = np.fromfile(a, "<f4").astype("f8"), np.fromfile(b, "<f4").astype("f8")
    return ((a - b) ** 2).sum() / (b ** 2).sum()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--types", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--reference", nargs=2, metavar=("DATA", "TYPE"), help="used by itself")
    args = parser.parse_args()
    if args.reference:
        data, kind = args.reference
        return reference(args.folder, pathlib.Path(data), kind, args.runs, args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        data = pathlib.Path(temporary)
        make_inputs(args.folder, data)
        for kind in args.types:
            sides = {"moji": [PROGRAM, args.folder, data, kind, args.runs],
                     "diffusers": [sys.executable, __file__, args.folder, "--runs", args.runs,
                                   "--threads", args.threads, "--reference", data, kind]}
            results = {name: [] for name in sides}
            for _ in range(args.rounds):
                for name, command in sides.items():
                    results[name].append(run(command, args.threads))
            for name, rounds in results.items():
                print(f"{kind} {name}: {rounds[0]['engine'][0]}")
                for stage in ("unet", "vae"):
                    times = sorted(float(t) for r in rounds for t in r[f"{stage}_run"])
                    processor = min(float(t) for r in rounds for t in r[f"{stage}_cpu"])
                    peak = min(float(r[f"{stage}_peak_mib"][0]) for r in rounds)
                    print(f"  {stage}: best {times[0]:.3f} s, median {times[len(times) // 2]:.3f} s,"
                          f" processor {processor:.3f} s, peak {peak:.0f} MiB")
            for out in ("unet", "decoded"):
                print(f"  NMSE {out}: moji {kind} against diffusers {kind} "
                      f"{nmse(data / f'{out}.f32', data / f'{out}.{kind}.reference'):.2e}", end="")
                exact = data / f"{out}.f32.reference"
                if kind != "f32" and exact.exists():
                    print(f", against diffusers f32 {nmse(data / f'{out}.f32', exact):.2e}"
                          f" (diffusers {kind} itself "
                          f"{nmse(data / f'{out}.{kind}.reference', exact):.2e})", end="")
                print(flush=True)


main()
