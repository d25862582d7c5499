"""Draws one picture from every form of file that a full-size model comes in, and says whether every arrow
on the way is the same.

    make engine
    python forms.py FOLDER SCRATCH [--moji build/moji] [--threads 1] [--size 512] [--only WORD]

FOLDER is a Stable Diffusion 1.x in diffusers' layout, in f16 (tests/gpu/synthetic.py makes one of random
numbers). The forms are written by PyTorch and safetensors with latent diffusion's names of make_names.py, not by
moji, save one that says so; each is removed when it was drawn. Needs torch, diffusers, safetensors, 6 GiB of
memory and as much room in SCRATCH.
"""
import argparse
import collections
import json
import pathlib
import shutil
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
SIZE = "512"
PARTS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


# The VAE's attention as it is called now, and as it was before 2023.
ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def renamed(name, names):
    for a, b in names.items():
        name = name.replace(f".{a}.", f".{b}.") if ".attentions." in name else name
    return name


def weights(folder, part):
    values = load_file(folder / part / (PARTS[part] + ".safetensors"))
    if part == "vae":
        values = {renamed(k, {b: a for a, b in ATTENTION.items()}): v for k, v in values.items()}
    return values


def ldm(folder):
    """The whole model under latent diffusion's names."""
    from make_names import ldm_to_diffusers, ldm_unet, ldm_vae
    out = collections.OrderedDict()
    for part, prefix, names in (("unet", "model.diffusion_model.", ldm_unet()),
                                ("vae", "first_stage_model.", ldm_vae())):
        values = weights(folder, part)
        config = json.loads((folder / part / "config.json").read_text())
        table = ldm_to_diffusers(part, names, config)
        assert set(table.values()) == set(values), part
        for name, theirs in table.items():
            v = values[theirs]
            out[prefix + name] = v[:, :, None, None] if ".attn_1." in name and v.dim() == 2 else v
    for name, v in weights(folder, "text_encoder").items():
        name = name if name.startswith("text_model.") else "text_model." + name
        out["cond_stage_model.transformer." + name] = v
    return out


def folder_with(folder, to, write):
    """The folder with its weights written by write(part, tensors, folder of the part)."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    for part in PARTS:
        write(part, weights(folder, part), to / part)
    return to


def sharded(part, values, to):
    names, index = sorted(values), {}
    for i in range(3):
        file = f"{PARTS[part]}-0000{i + 1}-of-00003.safetensors"
        save_file({n: values[n] for n in names[i::3]}, to / file)
        index.update({n: file for n in names[i::3]})
    (to / (PARTS[part] + ".safetensors.index.json")).write_text(json.dumps({"weight_map": index}))


def pickled(part, values, to):
    torch.save(values, to / ("pytorch_model.bin" if part == "text_encoder" else PARTS[part] + ".bin"))


def old_names(part, values, to):
    """The VAE's as above; CLIP with the prefix that transformers 5 leaves out."""
    out = {}
    for name, v in values.items():
        if part == "vae":
            name = renamed(name, ATTENTION)
        if part == "text_encoder" and not name.startswith("text_model."):
            name = "text_model." + name
        out[name] = v
    save_file(out, to / (PARTS[part] + ".fp16.safetensors"))


def checkpoint(folder, to):
    values = ldm(folder)
    values["model_ema.decay"] = torch.tensor(0.9999)
    torch.save({"global_step": 1, "state_dict": values}, to)
    return to


def single(folder, to):
    save_file({k: v.contiguous() for k, v in ldm(folder).items()}, to)
    return to


def convert(moji, model, to):
    subprocess.run([moji, "convert", model, to], check=True, stdout=subprocess.DEVNULL)
    return to


def forms(folder, scratch, moji):
    """name, what writes it."""
    return {
        "folder": lambda: folder,
        "folder, old names, fp16 variant": lambda: folder_with(folder, scratch / "old", old_names),
        "folder, three shards a network": lambda: folder_with(folder, scratch / "shards", sharded),
        "folder, .bin": lambda: folder_with(folder, scratch / "bin", pickled),
        "file, .safetensors": lambda: single(folder, scratch / "m.safetensors"),
        "file, .ckpt": lambda: checkpoint(folder, scratch / "m.ckpt"),
        "file by moji convert": lambda: convert(moji, folder, scratch / "c.safetensors"),
    }


def draw(moji, model, dump, *more):
    shutil.rmtree(dump, ignore_errors=True)
    subprocess.run([moji, "draw", "grinning cat", "--model", model, "--seed", "1", "--steps", "1", "--sampler",
                    "ddim", "--spacing", "trailing", "--guidance", "1", "--size", SIZE, "--dump", dump,
                    "-o", dump.parent / "x.png", *more], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return {p.name: p.read_bytes() for p in sorted(dump.glob("*.npy"))}


def compare_forms(folder, scratch, moji, threads, only):
    want = None
    for name, write in forms(folder, scratch, moji).items():
        if want and only not in name:
            continue
        model = write()
        got = draw(moji, model, scratch / "dump", "--threads", threads, "--type", "bf16")
        want = want or got
        other = [n for n in want if got.get(n) != want[n]]
        print(f"{name}: {len(got)} arrays, {'all the same' if not other else 'others: ' + ', '.join(other)}",
              flush=True)
        if model != folder:
            (shutil.rmtree if model.is_dir() else pathlib.Path.unlink)(model)


def main():
    global SIZE
    args = argparse.ArgumentParser()
    args.add_argument("folder", type=pathlib.Path)
    args.add_argument("scratch", type=pathlib.Path)
    args.add_argument("--moji", default=ROOT / "build" / "moji")
    args.add_argument("--threads", default="1")
    args.add_argument("--size", default="512")
    args.add_argument("--only", default="", help="forms whose name holds this, and the folder")
    a = args.parse_args()
    SIZE = a.size
    a.scratch.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(a.threads))
    compare_forms(a.folder, a.scratch, a.moji, a.threads, a.only)


if __name__ == "__main__":
    main()
