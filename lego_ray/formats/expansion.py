"""Plain factors out of the tensors of LoHa, LoKr and CP-decomposed LoCon: the same update, exactly.

With `(B1, A1)` and `(B2, A2)` two pairs of low rank:

- LoHa, `dW = (B1 A1) * (B2 A2)` by element, is a sum of `r1 r2` rank-one terms: B has the products of
  each column of B1 with each of B2, A those of each row of A1 with each of A2 (FedPara, arXiv
  2108.06098, proposition 1).
- LoKr, `dW = W1 (x) W2`, a Kronecker product: `(B1 (x) B2) (A1 (x) A2)`, of rank `r1 r2`.
- LoCon with `lora_mid` T: `dW[o, i, k] = sum_pq B[o, p] T[p, q, k] A[q, i]`: T and A are one factor.

A factor that is stored whole is itself times the identity, which loses nothing either.
"""

from __future__ import annotations

from collections.abc import Mapping

from lego_ray.formats.site_factors import Form
from lego_ray.lazy import Tensor, torch

Pair = tuple[Tensor, Tensor]


def expand(form: Form, parts: Mapping[str, Tensor]) -> Pair:
    """The pair `(A, B)` of a site, `dW = B A`, without its scaling.

    Args:
        form: What the tensors are.
        parts: Tensors by the names that `kinds` gives them, float32.

    Returns:
        A (r, d_in), a convolution flattened, and B (d_out, r); float32, contiguous.
    """
    if form == "loha":
        return _loha(parts)
    if form == "lokr":
        return _lokr(parts)
    up = parts["up"].reshape(parts["up"].shape[0], -1)
    down = parts["down"].reshape(parts["down"].shape[0], -1)
    return _folded(parts["mid"], down), up


def _loha(parts: Mapping[str, Tensor]) -> Pair:
    (a1, b1), (a2, b2) = (_decomposed(parts, f"w{n}", f"t{n}") for n in (1, 2))
    (r1, d_in), (d_out, r2) = a1.shape, b2.shape
    if r1 * r2 <= min(d_in, d_out):
        a = (a1[:, None, :] * a2[None, :, :]).reshape(r1 * r2, d_in)
        return a, (b1[:, :, None] * b2[:, None, :]).reshape(d_out, r1 * r2)
    product = b1.double() @ a1.double()
    return _whole(product.mul_(b2.double() @ a2.double()).float())


def _lokr(parts: Mapping[str, Tensor]) -> Pair:
    (a1, b1), (a2, b2) = (_kronecker_part(parts, f"w{n}", f"t{n}") for n in (1, 2))
    # torch.kron takes some layouts of 2-D tensors only.
    return (
        torch.kron(a1.contiguous(), a2.contiguous()),
        torch.kron(b1.contiguous(), b2.contiguous()),
    )


def _kronecker_part(parts: Mapping[str, Tensor], name: str, core: str) -> Pair:
    if name in parts:
        return _whole(parts[name].flatten(1))
    a, b = _decomposed(parts, name, core)
    if a.shape[0] <= min(a.shape[1], b.shape[0]):
        return a, b
    return _whole((b.double() @ a.double()).float())


def _decomposed(parts: Mapping[str, Tensor], name: str, core: str) -> Pair:
    """`(A, B)` of a part that is stored as two factors, or as three of which one is the kernel's."""
    up, down = parts[f"{name}_a"], parts[f"{name}_b"]
    if core in parts:  # the two are (r, d_out) and (r, d_in) then
        return _folded(parts[core], down), up.T
    return down.flatten(1), up


def _folded(core: Tensor, down: Tensor) -> Tensor:
    """`A[p, i, k] = sum_q core[p, q, k] down[q, i]`, flattened to (r, d_in times the kernel's sizes)."""
    rank, inner = core.shape[:2]
    kernels = core.double().reshape(rank, inner, -1)
    return torch.einsum("pqk,qi->pik", kernels, down.double()).float().reshape(rank, -1)


def _whole(matrix: Tensor) -> Pair:
    """A matrix as a pair: itself and the identity on its shorter side."""
    rows, columns = matrix.shape
    if rows <= columns:
        return matrix, torch.eye(rows)
    return torch.eye(columns), matrix
