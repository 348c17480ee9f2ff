"""The processes that train one model together, started by ``torchrun`` or ``accelerate launch``.

Those launchers tell each process by environment variables which one it is. Without them there is
one process, and everything here does nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from deepspectrumlite.errors import DeepSpectrumLiteError, ElsewhereError, TrainingError

T = TypeVar("T")


class Processes:
    """Attributes: ``count`` of processes, ``rank`` of this one, ``device`` that it computes on."""

    def __init__(self, device: torch.device) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.count > 1 else 0
        self.device = device
        if self.count == 1:
            return
        if device.type == "cuda" and device.index is None:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def on_main(self, work: Callable[[], T]) -> T:
        """The result of a function that only the main process calls; its error in all of them."""
        if self.count == 1:
            return work()
        answer: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_main:
            try:
                answer[0] = work()
            except (DeepSpectrumLiteError, OSError) as error:
                failure, answer[1] = error, str(error)
        distributed.broadcast_object_list(answer, device=self._tensor_device)
        if answer[1] is not None:
            raise failure or ElsewhereError(answer[1])
        result: T = answer[0]
        return result

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[T] = [value] * self.count
        distributed.all_gather_object(values, value)
        return values

    def gather_rows(self, rows: Tensor) -> Tensor:
        """``(n, ...)`` -> ``(count, n, ...)``: that of every process, of the same shape in each."""
        if self.count == 1:
            return rows[None]
        gathered = [torch.empty_like(rows) for _ in range(self.count)]
        distributed.all_gather(gathered, rows.contiguous())
        return torch.stack(gathered)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.count == 1:
            return list(flags)
        found = torch.tensor(flags, dtype=torch.int32, device=self._tensor_device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return [bool(flag) for flag in found.tolist()]

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the main one's buffers: BatchNorm saw other batches in each."""
        if self.count > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    def wrap(self, network: nn.Module) -> nn.Module:
        """A network whose gradients are averaged over the processes."""
        if self.count == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(network)

    def check_batch_size(self, batch_size: int, accumulate: int) -> None:
        """Refuse a batch that cannot be shared out evenly.

        Raises:
            TrainingError: with the next sizes that can
        """
        parts = self.count * accumulate
        if self.count > 1 and (batch_size % parts or batch_size < 2 * parts):
            lower = max(2, batch_size // parts) * parts
            raise TrainingError(
                f"train.batch_size is {batch_size}, for {self.count} processes and "
                f"train.accumulate = {accumulate}; allowed: multiples of {parts}, from {2 * parts} "
                f"on; try --set train.batch_size={lower}"
            )

    @contextmanager
    def noticing_failures(self) -> Iterator[None]:
        """Say plainly that another process has gone, which torch reports as a broken connection."""
        try:
            yield
        except RuntimeError as error:
            gone = any(word in str(error) for word in ("gloo", "NCCL", "Connection", "Socket"))
            if self.count == 1 or not gone:
                raise
            raise ElsewhereError("another process has failed; see its message") from error

    @property
    def _tensor_device(self) -> torch.device:
        return self.device if self.device.type == "cuda" else torch.device("cpu")


def choose_device(name: str) -> torch.device:
    """A device by its name; ``auto`` takes a GPU where there is one.

    Raises:
        TrainingError: torch does not know or have that device
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which "meta" cannot
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"--device {name}: {reason}; allowed: auto, cpu, cuda, cuda:0, mps, where present"
        ) from None
    return device
