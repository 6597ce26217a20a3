"""titans-pytorch's side of the comparison: runs its NeuralMemory when asked.

Started by `compare_peer` with an interpreter that has torch and titans-pytorch; it imports neither
jax nor titans_jax.
"""

import json
import sys
import time

import torch
from titans_pytorch import MemoryMLP, NeuralMemory

from experiments.efficiency import cases, worker


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
    return memory, torch.randn(case.batch, case.length, case.dim)


def main() -> None:
    """Reads the case and the rule from the command line, then serves requests."""
    case, rule = cases.Case(**json.loads(sys.argv[1])), sys.argv[2]
    memory, x = build(case, rule)
    x.requires_grad_()
    wanted = [*memory.parameters(), x]

    def forward() -> None:
        with torch.no_grad():
            memory(x)

    def forward_backward() -> None:
        y, _ = memory(x)
        torch.autograd.grad(y.square().mean(), wanted, allow_unused=True)

    def matmul() -> float:
        a = torch.randn(2048, 2048)
        best = float("inf")
        for _ in range(6):
            start = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - start)
        return 2 * 2048**3 / best

    worker.serve({"fwd": forward, "fwdbwd": forward_backward}, matmul)


if __name__ == "__main__":
    main()
