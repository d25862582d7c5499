"""Group norm + SiLU as one fast CPU operation, put in place of a diffusers model's own modules.

    fuse_norms(model)     parameters keep their names, so checkpoints are the same with and without it

Does nothing on CUDA, or where the extension does not build.
"""
from pathlib import Path

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

_lib = None


def lib():
    global _lib
    if _lib is None:
        from torch.utils.cpp_extension import load
        _lib = load("moji_norm", [str(Path(__file__).with_name("norm.cpp"))],
                    extra_cflags=["-Ofast", "-march=native", "-mprefer-vector-width=512"], extra_ldflags=["-lmvec"])
    return _lib


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, groups, eps, silu):
        # Bytes in memory are [N,H,W,C] for 4-D channels_last tensors.
        x = x.contiguous(memory_format=torch.channels_last)
        y, mean, rstd = lib().forward(x, w, b, x.shape[1], groups, eps, silu)
        ctx.save_for_backward(x, w, b, mean, rstd)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, b, mean, rstd = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx, dw, db = lib().backward(x, dy, w, b, mean, rstd, x.shape[1], ctx.groups, ctx.silu)
        return dx, dw, db, None, None, None


class FastGroupNorm(nn.GroupNorm):
    silu = False

    def forward(self, x):
        return _Norm.apply(x, self.weight, self.bias, self.num_groups, self.eps, self.silu)


class FastResnet(ResnetBlock2D):
    """The same block with SiLU in its norms, and without dividing by an output_scale_factor of 1."""
    def forward(self, x, temb=None):
        h = self.conv1(self.norm1(x))
        if temb is not None:
            h = h + self.time_emb_proj(nn.functional.silu(temb))[:, :, None, None]
        h = self.conv2(self.norm2(h))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


def fuse_norms(model):
    if next(model.parameters()).is_cuda:
        return model
    try:
        lib()
    except Exception as e:      # no compiler, say: slower, not wrong
        print("norm.cpp not used:", str(e).splitlines()[0])
        return model
    for m in model.modules():
        if type(m) is nn.GroupNorm and m.num_channels % 16 == 0:
            m.__class__ = FastGroupNorm
    for m in model.modules():
        if type(m) is ResnetBlock2D and isinstance(m.norm1, FastGroupNorm) and isinstance(m.norm2, FastGroupNorm):
            m.norm1.silu = m.norm2.silu = True
            m.__class__ = FastResnet
        if isinstance(getattr(m, "conv_norm_out", None), FastGroupNorm) and isinstance(m.conv_act, nn.Module):
            m.conv_norm_out.silu = True
            m.conv_act = nn.Identity()
    return model
