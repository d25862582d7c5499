"""What a work folder must keep when its machine is lost, in pieces that fit through a narrow door.

    python pieces.py pack --work DIR --out DIR NAME ...      DIR/state.00, .01, ...: tokenizer, crowd, vae, diffusion, distilled or a folder
    python pieces.py unpack --work DIR --out DIR             puts them together again, where WORK does not have them

Checkpoints are packed as their averaged weights in half precision, without the optimiser's state: enough to go on from.
"""
import argparse
import io
import tarfile
from pathlib import Path

import torch

PIECE = 15 << 20
FILES = {"tokenizer": ["tokenizer"], "crowd": ["catalogue.json"], "vae": ["vae-inner.pt", "vae-outer.pt"],
         "diffusion": ["text.pt", "diffusion.pt", "scale.npy"], "distilled": ["distilled.pt"]}


def light(state):
    """A checkpoint in little room."""
    half = lambda v: v.half() if torch.is_tensor(v) and v.is_floating_point() else {k: half(x) for k, x in v.items()} if isinstance(v, dict) else v
    out = {k: half(v) for k, v in state.items() if k in ("average", "text", "lora", "mean", "step", "samples", "used", "shape", "guidance")}
    if "mean" in out:           # of distil.py: its running average is its LoRA
        out["mean"] = [half(v) for v in out["mean"]]
    return out


def heavy(name, state):
    """What the stages expect of it."""
    whole = lambda v: v.float() if torch.is_tensor(v) and v.is_floating_point() else {k: whole(x) for k, x in v.items()} if isinstance(v, dict) else v
    state = {k: whole(v) for k, v in state.items()}
    if name == "diffusion.pt":
        state |= {"unet": state["average"]["unet"], "text": state["average"]["text"], "ema": None}
    elif name.startswith("vae"):
        state["weights"] = state["average"]
    return state


def pack(work, out, names):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for file in [f for n in names for f in FILES.get(n, [n])]:
            path = work / file
            if path.suffix == ".pt" and path.exists():
                data = io.BytesIO()
                torch.save(light(torch.load(path, weights_only=False, map_location="cpu")), data)
                entry = tarfile.TarInfo(file)
                entry.size = data.tell()
                data.seek(0)
                tar.addfile(entry, data)
            elif path.exists():
                tar.add(path, file)
    whole = packed.getvalue()
    for i in range(0, len(whole), PIECE):
        (out / f"state.{i // PIECE:02}").write_bytes(whole[i:i + PIECE])
    print(f"{len(whole) / 2**20:.1f} MiB in {-(-len(whole) // PIECE)} pieces")


def unpack(work, out):
    whole = b"".join(p.read_bytes() for p in sorted(out.glob("state.??")))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        for entry in tar.getmembers():
            if (work / entry.name).exists():
                continue
            if entry.name.endswith(".pt"):
                state = torch.load(io.BytesIO(tar.extractfile(entry).read()), weights_only=False)
                torch.save(heavy(entry.name, state), work / entry.name)
            else:
                tar.extract(entry, work, filter="data")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("way", choices=["pack", "unpack"])
    ap.add_argument("names", nargs="*")
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    args = ap.parse_intermixed_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    pack(args.work, args.out, args.names) if args.way == "pack" else unpack(args.work, args.out)


if __name__ == "__main__":
    main()
