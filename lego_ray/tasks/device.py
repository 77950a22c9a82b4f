"""Where a worker does its arithmetic: its CPU, or the GPU Ray gave it."""

from __future__ import annotations

from lego_ray.errors import RunFailed
from lego_ray.lazy import torch


def device_of(gpus: float) -> str:
    """The device for work that was given a share of a GPU.

    TF32 is switched off: it keeps ten bits of a product's factors, and labels are decided by more.

    Args:
        gpus: The share; 0 for none.

    Raises:
        RunFailed: If there is a share and torch cannot use it.
    """
    if not gpus:
        return "cpu"
    if not torch.cuda.is_available():
        raise RunFailed(
            f"--gpus {gpus:g}",
            f"this worker's torch {torch.__version__} finds no CUDA device",
            "Install a CUDA build of torch on the nodes with GPUs, or leave --gpus out.",
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    return "cuda"
