"""Other engines behind one small face, for sd14.py: the U-Net and the decoder of a Stable Diffusion folder.

    python peers.py export FOLDER CACHE          what onnxruntime and OpenVINO read, made once by torch
    python peers.py run PEER TYPE FOLDER CACHE DATA RUNS

DATA holds sample, timestep, context and latents as raw f32, channels last; the outputs are written there, and times and memory
printed as the program build/bench/sd14 does. Peers: diffusers, compiled (diffusers under torch.compile), onnxruntime, openvino.
"""
import json
import os
import pathlib
import resource
import sys
import time

import numpy as np


def read(data, name, *shape):
    array = np.fromfile(data / f"{name}.f32", "<f4").reshape(shape)
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if len(shape) == 4 else array


def inputs(folder, data):
    config = json.loads((folder / "unet" / "config.json").read_text())
    side, width = config["sample_size"], config["cross_attention_dim"]
    return {"unet": {"sample": read(data, "sample", 2, side, side, config["in_channels"]),
                     "timestep": read(data, "timestep", 2), "context": read(data, "context", 2, 77, width)},
            "vae": {"latents": read(data, "latents", 1, side, side, 4)}}


def modules(folder, part, dtype):
    """The part as a torch module of plain tensors in, one tensor out."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    class Unet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype)

        def forward(self, sample, timestep, context):
            return self.net(sample, timestep, context, return_dict=False)[0]

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=dtype)

        def forward(self, latents):
            return self.net.decode(latents, return_dict=False)[0]
    return {"unet": Unet, "vae": Decoder}[part]().eval()


def export(folder, cache):
    import torch
    dummy = {"unet": (torch.zeros(2, 4, 64, 64), torch.zeros(2), torch.zeros(2, 77, 768)),
             "vae": (torch.zeros(1, 4, 64, 64),)}
    config = json.loads((folder / "unet" / "config.json").read_text())
    side = config["sample_size"]
    dummy["unet"] = (torch.zeros(2, config["in_channels"], side, side), torch.zeros(2),
                     torch.zeros(2, 77, config["cross_attention_dim"]))
    dummy["vae"] = (torch.zeros(1, 4, side, side),)
    names = {"unet": ["sample", "timestep", "context"], "vae": ["latents"]}
    for part in ("unet", "vae"):
        out = cache / part
        out.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            torch.onnx.export(modules(folder, part, torch.float32), dummy[part], out / "model.onnx", dynamo=True,
                              input_names=names[part], output_names=["out"], external_data=True, optimize=True)


def torch_call(peer, kind, folder, part):
    import torch
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads())
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[kind]
    module = modules(folder, part, dtype).to(memory_format=torch.channels_last)
    if peer == "compiled":
        module = torch.compile(module)

    def call(feed):
        with torch.no_grad():
            tensors = [torch.from_numpy(a) if k == "timestep" else torch.from_numpy(a).to(dtype) for k, a in feed.items()]
            return module(*tensors).float().numpy()
    return call, f"{peer}: torch {torch.__version__}, {torch.get_num_threads()} threads"


def onnxruntime_call(kind, cache, part):
    import onnxruntime
    if kind != "f32":
        raise SystemExit("onnxruntime has no bf16 on a CPU")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    session = onnxruntime.InferenceSession(cache / part / "model.onnx", options, providers=["CPUExecutionProvider"])
    return (lambda feed: session.run(None, feed)[0]), f"onnxruntime {onnxruntime.__version__}"


def openvino_call(kind, cache, part):
    import openvino
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
    if "OMP_NUM_THREADS" in os.environ:
        settings["INFERENCE_NUM_THREADS"] = int(os.environ["OMP_NUM_THREADS"])
    model = core.compile_model(cache / part / "model.onnx", "CPU", settings)
    return (lambda feed: model(feed)[0]), f"openvino {openvino.__version__}"


def run(peer, kind, folder, cache, data, runs):
    outputs = {"unet": "unet", "vae": "decoded"}
    for part, feed in inputs(folder, data).items():
        if peer in ("diffusers", "compiled"):
            call, name = torch_call(peer, kind, folder, part)
        else:
            call, name = {"onnxruntime": onnxruntime_call, "openvino": openvino_call}[peer](kind, cache, part)
        print(f"engine {name}")
        call(feed)      # compilation, and pages of the weights
        for _ in range(runs):
            start, processor = time.perf_counter(), time.process_time()
            y = call(feed)
            print(f"{part}_run {time.perf_counter() - start:.4f}")
            print(f"{part}_cpu {time.process_time() - processor:.4f}", flush=True)
        print(f"{part}_peak_mib {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
        y.astype("<f4").transpose(0, 2, 3, 1).tofile(data / f"{outputs[part]}.{kind}.{peer}")
        del call


def main():
    what, *rest = sys.argv[1:]
    if what == "export":
        export(*map(pathlib.Path, rest))
    else:
        peer, kind, folder, cache, data, runs = rest
        run(peer, kind, pathlib.Path(folder), pathlib.Path(cache), pathlib.Path(data), int(runs))


if __name__ == "__main__":
    main()
