"""The processes that train one model together: their group, the wrapped model, its full weights and optimizer state.

With DDP every process holds the model and gradients are averaged. With FSDP weights, gradients and optimizer state are
split over the processes. Full weights and optimizer state are read and set in the same way for one process, DDP and
FSDP, so a state saved under one can be resumed under another.
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

GROUP_TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others, which may be reading images or writing a state."""
_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """This process and the group of processes that it trains with."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, the only process that writes and logs."""
        return self.rank == 0

    def broadcast(self, value: object) -> object:
        """Rank 0's value, in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]


def init_group(compute: Compute) -> ProcessGroup:
    """Joins the group that a launcher (accelerate, torchrun) started; without a launcher, a group of one process.

    Raises:
        ModelError: see `device_of`.
    """
    device = device_of(compute)
    if not all(name in os.environ for name in _LAUNCHER_VARIABLES):
        return ProcessGroup(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=GROUP_TIMEOUT)
    return ProcessGroup(device, dist.get_rank(), dist.get_world_size())


def close_group() -> None:
    """Leaves the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap_model(model: nn.Module, group: ProcessGroup, fsdp: bool) -> nn.Module:
    """The model on this process's device, wrapped for training by the group; changed in place.

    FSDP splits layer by layer, and everything outside of the layers together.

    Raises:
        ModelError: FSDP with one process.
    """
    if fsdp:
        if group.world_size == 1:
            raise ModelError(
                "score_model.fsdp splits the model over several processes, found one; "
                "start them with compute.launch, e.g. [accelerate, launch, --multi_gpu, --num_processes, '8']"
            )
        mesh = init_device_mesh(group.device.type, (group.world_size,))
        for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    model.to(group.device)
    return DistributedDataParallel(model) if group.world_size > 1 else model


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that require a gradient, in full and on the CPU; with several processes only in rank 0."""
    weights: dict[str, Any] = get_model_state_dict(model, options=_full_state_options())
    return weights


def set_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Sets the result of `trained_weights`; all processes take rank 0's."""
    set_model_state_dict(
        model, weights, options=_full_state_options(strict=False, broadcast_from_rank0=dist.is_initialized())
    )


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step of every trained weight, named ``<weight>/<moment>``; in full, as `trained_weights`."""
    full_state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_full_state_options())
    moments: dict[str, dict[str, Tensor]] = full_state.get("state", {})
    return {f"{weight}/{kind}": tensor for weight, kinds in moments.items() for kind, tensor in kinds.items()}


def set_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Sets the result of `optimizer_state`; all processes take rank 0's."""
    # learning rates and other options stay those of the new optimizer
    full_state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_full_state_options())
    if full_state:
        moments: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            weight, _, kind = name.rpartition("/")
            moments.setdefault(weight, {})[kind] = tensor
        full_state["state"] = moments
    set_optimizer_state_dict(
        model, optimizer, full_state, options=_full_state_options(broadcast_from_rank0=dist.is_initialized())
    )


def _full_state_options(**more: Any) -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, **more)
