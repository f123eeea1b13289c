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

from pktkit.distributed.processes import ALONE, Processes, Sharding, Zero, launched
from pktkit.errors import UsageError

log = structlog.get_logger(__name__)

WAIT = timedelta(days=7)
"""How long processes wait for each other: while one evaluates, or takes a reading. A process that
dies is noticed by the launcher, which ends the others."""

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


_FSDP_1_STRATEGIES = {"1": "FULL_SHARD", "2": "SHARD_GRAD_OP", "3": "NO_SHARD"}
_FSDP_1_RESHARDS = {"FULL_SHARD": True, "SHARD_GRAD_OP": False}
"""Strategies of FSDP version 1, by their number, and whether whole weights are dropped between
forward and backward pass."""

_BUDGETED = (
    "optimizer",
    "scheduler",
    "fp16",
    "bf16",
    "gradient_clipping",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
)
"""What of DeepSpeed's configuration the budget and the target's own precision decide here."""


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


def requested_sharding() -> Sharding | Zero | None:
    """Read from the environment what `accelerate launch` was configured to do.

    Raises:
        UsageError: an engine that is not supported, or a configuration that cannot be read.
    """
    if _on("ACCELERATE_USE_MEGATRON_LM"):
        raise UsageError(
            "accelerate's configuration asks for Megatron-LM, which pktkit does not train with. "
            "Use plain multi-process training, FSDP or DeepSpeed; see docs/scaling.md."
        )
    if _on("ACCELERATE_USE_DEEPSPEED"):
        return _zero()
    return _fsdp() if _on("ACCELERATE_USE_FSDP") else None


def _fsdp() -> Sharding | None:
    from accelerate.utils import FullyShardedDataParallelPlugin, disable_fsdp_ram_efficient_loading

    # on by default, it would have transformers load no weights but in process 0
    disable_fsdp_ram_efficient_loading()
    if os.environ.get("FSDP_VERSION", "1") != "1":
        plugin = FullyShardedDataParallelPlugin()
        return Sharding(
            reshard_after_forward=bool(plugin.reshard_after_forward),
            offload=type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy",
        )
    # read here: accelerate warns that version 1 is deprecated, and it is not what will run
    asked = os.environ.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD").upper()
    strategy = _FSDP_1_STRATEGIES.get(asked, asked)
    if strategy == "NO_SHARD":
        return None
    if strategy not in _FSDP_1_RESHARDS:
        expected = ", ".join([*_FSDP_1_RESHARDS, "NO_SHARD"])
        raise UsageError(f"fsdp_sharding_strategy is '{asked}'; expected one of {expected}.")
    return Sharding(
        reshard_after_forward=_FSDP_1_RESHARDS[strategy], offload=_on("FSDP_OFFLOAD_PARAMS")
    )


def _zero() -> Zero | None:
    """Read DeepSpeed's configuration; stage 0 keeps everything whole, as no engine does."""
    from accelerate.utils import DeepSpeedPlugin, is_deepspeed_available

    if not is_deepspeed_available():
        raise UsageError(
            "accelerate's configuration asks for DeepSpeed, which is not installed. Install it: "
            "pip install 'pktkit[deepspeed]'"
        )
    try:
        configuration = DeepSpeedPlugin().deepspeed_config
    except (ValueError, OSError) as error:
        raise UsageError(f"DeepSpeed's configuration cannot be used: {error}") from error
    section = configuration["zero_optimization"]
    if not isinstance(section, dict) or section.get("stage") not in (0, 1, 2, 3):
        raise UsageError(
            "DeepSpeed's configuration has no zero_optimization with a stage from 0 to 3; "
            f"found: {section}."
        )
    asked = [name for name in _BUDGETED if not _automatic(configuration.get(name, "auto"))]
    if asked and os.environ.get("RANK", "0") == "0":
        log.warning(
            "settings of DeepSpeed's configuration are not used; the budget decides", settings=asked
        )
    return Zero(section) if section["stage"] else None


def _automatic(value: object) -> bool:
    """Whether a setting leaves everything to be filled in."""
    if isinstance(value, dict):
        return all(_automatic(part) for part in value.values())
    return value == "auto"


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
