"""titans-pytorch's side of the comparison: runs its NeuralMemory when asked.

Started by `compare_peer` with an interpreter that has torch and titans-pytorch; it imports neither
jax nor titans_jax.
"""

import json
import sys
from collections.abc import Callable

import torch
from titans_pytorch import MemoryMLP, NeuralMemory

from experiments.efficiency import peer_cases as cases
from experiments.efficiency import peer_protocol as worker


def build(case: cases.Case, rule: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Their layer and an input.

    Args:
      rule: "same" refreshes the gradient anchor at every chunk (`batch_size=chunk`); "default"
        takes every gradient at the initial weights (`batch_size=None`).
    """
    torch.manual_seed(0)
    memory = NeuralMemory(
        dim=case.dim,
        chunk_size=case.chunk,
        batch_size=case.chunk if rule == "same" else None,
        dim_head=case.head_dim,
        heads=case.heads,
        model=MemoryMLP(case.head_dim, depth=case.depth, expansion_factor=case.expansion),
        mem_model_norm_add_residual=False,
        qk_rmsnorm=True,
    )
    memory, x = memory.to(device()), torch.randn(case.batch, case.length, case.dim)
    return memory, x.to(device())


def device() -> str:
    """Where theirs runs: the GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Returns when the GPU has done what it was given."""
    if device() == "cuda":
        torch.cuda.synchronize()


def gpu_growth(call: Callable[[], None], calls: int) -> int:
    """Peak of the GPU's allocated memory over `calls` calls minus that before the first, in bytes."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(calls):
        call()
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    """Reads the case and the rule from the command line, then serves requests."""
    case, rule = cases.Case(**json.loads(sys.argv[1])), sys.argv[2]
    if device() == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as JAX by default
    memory, x = build(case, rule)
    x.requires_grad_()
    wanted = [*memory.parameters(), x]

    def forward() -> None:
        with torch.no_grad():
            memory(x)
        wait()

    def forward_backward() -> None:
        y, _ = memory(x)
        torch.autograd.grad(y.square().mean(), wanted, allow_unused=True)
        wait()

    def matmul() -> float:
        size = worker.GPU_MATMUL if device() == "cuda" else worker.CPU_MATMUL
        a = torch.randn(size, size, device=device())

        def product() -> None:
            a @ a
            wait()

        return worker.matmul_rate(product, size)

    passes = {"fwd": forward, "fwdbwd": forward_backward}
    if device() == "cuda":
        worker.serve(passes, matmul, torch.cuda.get_device_name(), gpu_growth)
    else:
        worker.serve(passes, matmul)


if __name__ == "__main__":
    main()
