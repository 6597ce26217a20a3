"""What the peer comparison measures: its six cases, their FLOP counts, the line of means.

Only the standard library is imported here, because the workers of both sides (one of which has no
jax, the other no torch) read the cases from this file.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the comparison: the sizes that both sides share."""

    batch: int
    length: int
    dim: int
    heads: int
    chunk: int
    depth: int
    expansion: int

    @property
    def tokens(self) -> int:
        """Tokens in one call."""
        return self.batch * self.length

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads

    def label(self) -> str:
        """The case as the tables print it."""
        return ", ".join(str(value) for value in dataclasses.astuple(self))


CASES = (
    Case(2, 1024, 256, 4, 64, 2, 2),
    Case(2, 1024, 256, 4, 16, 2, 2),
    Case(1, 4096, 256, 4, 64, 2, 2),
    Case(2, 1024, 384, 1, 64, 2, 4),
    Case(2, 1024, 256, 4, 64, 1, 1),
    Case(1, 16384, 256, 4, 128, 2, 2),
)

# Length is the only thing that changes along the scaling table.
SCALING_LENGTHS = tuple(1024 * 2**i for i in range(7))
SCALING_CASE = Case(1, 1024, 256, 4, 64, 2, 2)

RULES = ("same", "default")
PASSES = ("fwd", "fwdbwd")


def layer_widths(case: Case) -> list[tuple[int, int]]:
    """(input, output) width of every layer of one head's memory network."""
    hidden = case.head_dim * case.expansion
    widths = [case.head_dim, *([hidden] * (case.depth - 1)), case.head_dim]
    return list(itertools.pairwise(widths))


def forward_flops(case: Case) -> int:
    """FLOPs of one forward call of our layer, as the dual form of the recurrence needs them.

    A multiply-add counts as two, elementwise work as nothing. Per token:

    * projections: q, k, v and (with several heads) the output, 2 D^2 each; three gates, 2 D H each;
    * per head, once per chunk: the product of the two decay matrices, 2 C^3, so 2 C^2 a token;
    * per head and memory layer of din x dout, with a = layer input and g = error at the anchor:
      - the anchor on k: forward 2 din dout, and back through every layer but the first, 2 din dout;
      - the write at the chunk's end: a^T g with the weights of M and again with those of S,
        4 din dout;
      - the read at every token: x M_0 and x S_0, 4 din dout; the pairs inside the chunk,
        x . a for 2 C din and times g for 2 C dout.

    The pairs are counted as the full C x C square, which is what is computed.
    """
    dim, heads, chunk = case.dim, case.heads, case.chunk
    projections = (4 if heads > 1 else 3) * 2 * dim * dim + 3 * 2 * dim * heads
    per_head = 2 * chunk * chunk
    for index, (din, dout) in enumerate(layer_widths(case)):
        matmuls = 5 if index == 0 else 6
        per_head += matmuls * 2 * din * dout + 2 * chunk * (din + dout)
    return case.tokens * (projections + heads * per_head)


def training_flops(case: Case) -> int:
    """FLOPs of forward and backward: each matmul needs two more of its size for its gradients.

    Second-order terms need no more than that, because the forward pass already spells the inner
    gradient out as matmuls. What is recomputed to save memory is *not* counted, so a rate made
    from this number understates how busy the machine was, never overstates it.
    """
    return 3 * forward_flops(case)


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of positive numbers.

    Raises:
      ValueError: if there are none, or one is not positive.
    """
    values = list(values)
    if not values or min(values) <= 0:
        raise ValueError(f"a geometric mean needs positive numbers, got {values}")
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def summary_line(rows: Sequence[Mapping]) -> str:
    """The last line printed: geometric means and worst rows.

    A speed ratio is our tokens/s over theirs (above 1: ours is faster); the memory ratio is our
    peak growth over theirs under the same rule (below 1: ours needs less).
    `same_worst` is the smallest same-rule ratio over the rows and both passes, `default_worst` the
    smallest forward+backward ratio against their default.

    Args:
      rows: results as `compare_peer.row_ratios` leaves them, one per case.
    """
    same_fwd = [row["ratios"]["same"]["fwd"] for row in rows]
    same_both = [row["ratios"]["same"]["fwdbwd"] for row in rows]
    default_both = [row["ratios"]["default"]["fwdbwd"] for row in rows]
    memory = [row["memory_ratio"] for row in rows]
    return (
        f"same_fwd={geometric_mean(same_fwd):.2f} same_fwdbwd={geometric_mean(same_both):.2f}"
        f" same_worst={min(same_fwd + same_both):.2f}"
        f" default_fwdbwd={geometric_mean(default_both):.2f}"
        f" default_worst={min(default_both):.2f} memory_ratio={geometric_mean(memory):.2f}"
    )
