"""Joining the processes that `accelerate launch` started."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import structlog

from pktkit.distributed.processes import ALONE, Processes, Sharding, launched
from pktkit.errors import UsageError

log = structlog.get_logger(__name__)

WAIT = timedelta(days=7)
"""How long processes wait for each other: while one evaluates, or takes a reading. A process that
dies is noticed by the launcher, which ends the others."""

_OTHER_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
_DECIDED_ELSEWHERE = {
    "ACCELERATE_MIXED_PRECISION": ("no", "mixed_precision", "--set budget.autocast=bfloat16"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "1",
        "gradient_accumulation_steps",
        "--set budget.accumulate=N",
    ),
}
"""Settings of accelerate's configuration that are the budget's here: variable, its value when
unset, name, and what to type instead."""


@contextlib.contextmanager
def joined(target: str, source: str = "") -> Iterator[Processes]:
    """Give the processes that a launcher started together, connected; alone without a launcher.

    On leaving normally, each waits for the others.

    Arguments:
        target, source: torch devices of the models, without a number where there are several
            processes: each takes the one of its local rank.

    Raises:
        UsageError: the launch asks for an engine that is not supported, or all processes would
            share one device.
    """
    if launched() == 1:
        _require_launched()
        yield ALONE
        return
    sharding = requested_sharding()
    for device in (target, source):
        if ":" in device:
            raise UsageError(
                f"{launched()} processes would share device '{device}'. Give it without a number, "
                f"--device {device.partition(':')[0]}: each process takes its own."
            )
    import torch
    from accelerate import PartialState

    connected = torch.distributed.is_initialized()
    state = PartialState(cpu=target == "cpu", timeout=WAIT)
    if source == "cuda" != target:
        torch.cuda.set_device(state.local_process_index % torch.cuda.device_count())
    processes = Processes(
        state.process_index, state.num_processes, state.local_process_index, sharding
    )
    if processes.main:
        _warn_of_ignored_settings()
    yield processes
    state.wait_for_everyone()
    if not connected:
        state.destroy_process_group()


@contextlib.contextmanager
def shared_directory(processes: Processes, given: Path | None) -> Iterator[Path | None]:
    """Give a directory of readings that the processes of one machine share.

    Arguments:
        given: the user's, which is taken as it is; a process that is alone needs none.
    """
    if given is not None or not processes.several:
        yield given
        return
    own = None
    if processes.local_rank == 0:
        own = tempfile.mkdtemp(prefix="pktkit-")
    machine = platform.node()
    offered = dict(pair for pair in processes.everyones((machine, own)) if pair[1] is not None)
    try:
        yield Path(str(offered[machine]))
        processes.everyones(None)  # nobody reads from it any more
    finally:
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)


def _require_launched() -> None:
    """Refuse a launch for the CPU that was to start several processes and started one.

    Raises:
        UsageError: it did.
    """
    single = not os.environ.get("WORLD_SIZE")
    if single and _on("ACCELERATE_USE_CPU") and os.environ.get("MASTER_ADDR"):
        raise UsageError(
            "accelerate launch --cpu starts one process, whatever --num_processes says. For "
            "several on the CPU use torchrun --nproc_per_node 2 -m pktkit … --device cpu."
        )


def requested_sharding() -> Sharding | None:
    """Read from the environment what `accelerate launch` was configured to do.

    Raises:
        UsageError: an engine that is not supported.
    """
    for variable, engine in _OTHER_ENGINES.items():
        if _on(variable):
            raise UsageError(
                f"accelerate's configuration asks for {engine}, which pktkit does not train "
                "with. Use plain multi-process training, or fsdp with fsdp_version 2, which "
                "spreads weights, gradients and optimiser as ZeRO stage 3 does; see "
                "docs/scaling.md."
            )
    if not _on("ACCELERATE_USE_FSDP"):
        return None
    from accelerate.utils import FullyShardedDataParallelPlugin, disable_fsdp_ram_efficient_loading

    # on by default, it would have transformers load no weights but in process 0
    disable_fsdp_ram_efficient_loading()
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UsageError(
            f"accelerate's configuration asks for FSDP version {version}; expected 2. Set "
            "fsdp_version: 2 in its file, or pass --fsdp_version 2 to accelerate launch."
        )
    plugin = FullyShardedDataParallelPlugin()
    return Sharding(
        reshard_after_forward=bool(plugin.reshard_after_forward),
        offload=type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy",
    )


def _on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def _warn_of_ignored_settings() -> None:
    for variable, (unset, name, instead) in _DECIDED_ELSEWHERE.items():
        value = os.environ.get(variable, unset)
        if value != unset:
            log.warning(
                "a setting of accelerate's configuration is not used; the budget decides",
                setting=f"{name}={value}",
                instead=instead,
            )
