"""The processes that train one model together: who they are, how the model is spread over them, its whole weights.

With DDP every process holds the model and gradients are averaged; with FSDP weights, gradients and optimizer state are
split over them. Whole weights and optimizer state are read and set alike for one process, DDP and FSDP, so a state
saved under one can be gone on from under another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.load import device_of
from rsqa_pipeline.profile import Compute

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, who may be reading images or writing a state."""
_LAUNCHERS_WORDS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and tells."""
        return self.rank == 0

    def same(self, value: object) -> object:
        """The first process's value, in every process."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]


def join(compute: Compute) -> Processes:
    """Joins the group that a launcher (accelerate, torchrun) started this process in; alone where it started one.

    Raises:
        ModelError: see `device_of`.
    """
    device = device_of(compute)
    if not all(word in os.environ for word in _LAUNCHERS_WORDS):
        return Processes(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return Processes(device, dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Leaves the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def spread(model: nn.Module, processes: Processes, fsdp: bool) -> nn.Module:
    """The model on this process's device, ready to be trained by all; changed in place.

    With FSDP, layer by layer, and what is outside of the layers together.

    Raises:
        ModelError: FSDP with one process.
    """
    if fsdp:
        if processes.count == 1:
            raise ModelError(
                "score_model.fsdp splits the model over several processes, found one; "
                "start them with compute.launch, e.g. [accelerate, launch, --multi_gpu, --num_processes, '8']"
            )
        mesh = init_device_mesh(processes.device.type, (processes.count,))
        for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    model.to(processes.device)
    return DistributedDataParallel(model) if processes.count > 1 else model


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that require a gradient, whole and on the CPU; with several processes in the first one only."""
    weights: dict[str, Any] = get_model_state_dict(model, options=_whole())
    return weights


def set_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Sets what `trained_weights` gave; the first process's are taken by all."""
    set_model_state_dict(model, weights, options=_whole(strict=False, broadcast_from_rank0=dist.is_initialized()))


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step of every trained weight, named ``<weight>/<moment>``; whole, as `trained_weights`."""
    whole: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_whole())
    moments: dict[str, dict[str, Tensor]] = whole.get("state", {})
    return {f"{weight}/{kind}": tensor for weight, kinds in moments.items() for kind, tensor in kinds.items()}


def set_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Sets what `optimizer_state` gave; the first process's is taken by all."""
    # rates and the like stay those of the optimizer as it was made
    whole: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_whole())
    if whole:
        moments: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            weight, _, kind = name.rpartition("/")
            moments.setdefault(weight, {})[kind] = tensor
        whole["state"] = moments
    set_optimizer_state_dict(model, optimizer, whole, options=_whole(broadcast_from_rank0=dist.is_initialized()))


def _whole(**more: Any) -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, **more)
