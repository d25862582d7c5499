"""Sets the engine beside others on one machine: time, memory and error of a U-Net call (batch 2)
and of a decoding, for a Stable Diffusion 1.x folder.

    make build/bench/sd14
    python peers.py export FOLDER CACHE          (for onnxruntime and openvino, once)
    python sd14.py FOLDER [--rounds 3] [--runs 3] [--threads 0] [--types bf16 f32]
                   [--peers diffusers compiled openvino onnxruntime] [--cache CACHE]

Rounds alternate between the engines, each in a process of its own; the best time counts, since other
work on the machine only ever adds. Errors are relative to diffusers in f32, if that ran. Needs torch and diffusers,
and what the peers are.
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
    """A step with guidance as it is in a drawing: one latent twice, the text encoder's word for nothing and for a prompt."""
    import json
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer
    unet = json.loads((folder / "unet" / "config.json").read_text())
    side = unet["sample_size"]
    dice = np.random.default_rng(1)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    ids = tokenizer(["", "grinning cat"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        context = text(ids).last_hidden_state.numpy()
    arrays = {
        "sample": dice.standard_normal((1, side, side, unet["in_channels"])).repeat(2, 0),
        "timestep": np.array([601.0, 601.0]),
        "context": context,
        "latents": dice.standard_normal((1, side, side, 4)),
    }
    for name, array in arrays.items():
        array.astype("<f4").tofile(data / f"{name}.f32")


def run(command, threads):
    env = dict(os.environ)
    if command[0] == PROGRAM:
        env["GOMP_SPINCOUNT"] = "1000"      # as main.c sets it
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


def report(name, kind, rounds, outputs, exact):
    print(f"{kind} {name}: {rounds[0]['engine'][0]}")
    for stage, out in (("unet", "unet"), ("vae", "decoded")):
        times = sorted(float(t) for r in rounds for t in r[f"{stage}_run"])
        processor = min(float(t) for r in rounds for t in r[f"{stage}_cpu"])
        peak = min(float(r[f"{stage}_peak_mib"][0]) for r in rounds)
        print(f"  {stage}: best {times[0]:.3f} s, median {times[len(times) // 2]:.3f} s,"
              f" processor {processor:.3f} s, peak {peak:.0f} MiB", end="")
        if exact[out].exists() and outputs[out] != exact[out]:
            print(f", NMSE {nmse(outputs[out], exact[out]):.2e}", end="")
        print(flush=True)
    return {stage: min(float(t) for r in rounds for t in r[f"{stage}_run"]) for stage in ("unet", "vae")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--types", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--peers", nargs="+", default=["diffusers"])
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("cache"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = pathlib.Path(temporary)
        make_inputs(args.folder, data)
        exact = {out: data / f"{out}.f32.diffusers" for out in ("unet", "decoded")}
        for kind in args.types:
            sides = {"moji": [PROGRAM, args.folder, data, kind, args.runs]}
            for peer in args.peers:
                if (peer, kind) != ("onnxruntime", "bf16"):      # which it has not
                    sides[peer] = [sys.executable, HERE / "peers.py", "run", peer, kind, args.folder, args.cache, data, args.runs]
            results = {name: [] for name in sides}
            for _ in range(args.rounds):
                for name, command in sides.items():
                    results[name].append(run(command, args.threads))
            best = {}
            for name, rounds in results.items():
                ends = "f32" if name == "moji" else f"{kind}.{name}"
                outputs = {out: data / f"{out}.{ends}" for out in ("unet", "decoded")}
                best[name] = report(name, kind, rounds, outputs, exact)
            for stage in ("unet", "vae") if args.peers else ():
                peer = min([p for p in args.peers if p in best], key=lambda p: best[p][stage])
                print(f"{kind} {stage}: {best[peer][stage] / best['moji'][stage]:.2f} times the speed of the fastest other, {peer}")


main()
