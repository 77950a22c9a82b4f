"""How alike adapters are: inner products of their updates, from the factors, exact or sketched.

`<dW_s, dW_t>_F` over all sites is the sum over sites of `sum_ij (a_i . a_j)(b_i . b_j)`, rows i of
adapter s and j of adapter t. All pairs of a large zoo are too many; there each adapter's update goes
through two random maps, `Q^T B A P`, whose plain inner products are the same in expectation.
"""

from __future__ import annotations

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.similarity.per_source import sources_of

# Columns of each random map. A pair's cosine over S like sites has a standard error of at most about
# sqrt(2 / (WIDTH S)) + 1 / WIDTH.
WIDTH = 64
# Rows of a block of pairs.
BLOCK = 512


def update_products(pool: Pool, n_adapters: int) -> Tensor:
    """Inner products of all pairs of adapters' updates at a site.

    Args:
        pool: The site's MSUs, each adapter's all of them, in any order.
        n_adapters: How many adapters there are; those not in the pool have zeros.

    Returns:
        Shape (n_adapters, n_adapters), float64, exactly symmetric, the same bits whatever the order.
    """
    numbers, rows = _by_source(pool)
    wide, d_in = rows.double(), pool.d_in
    n = len(rows)
    out = torch.zeros(n_adapters, n_adapters, dtype=torch.float64)
    for left in range(0, n, BLOCK):
        for right in range(0, left + 1, BLOCK):  # on and below the diagonal
            one, two = wide[left : left + BLOCK], wide[right : right + BLOCK]
            products = (one[:, :d_in] @ two[:, :d_in].T) * (one[:, d_in:] @ two[:, d_in:].T)
            if left == right:
                products = torch.tril(products) + torch.tril(products, -1).T
            summed = torch.zeros(len(one), n_adapters, dtype=torch.float64)
            summed.index_add_(1, numbers[right : right + BLOCK], products.cpu())
            out.index_add_(0, numbers[left : left + BLOCK], summed)
            if left != right:
                summed = torch.zeros(len(two), n_adapters, dtype=torch.float64)
                summed.index_add_(1, numbers[left : left + BLOCK], products.T.cpu())
                out.index_add_(0, numbers[right : right + BLOCK], summed)
    return (out + out.T) / 2


def update_sketches(pool: Pool, n_adapters: int, generator: torch.Generator) -> Tensor:
    """A sketch of each adapter's update at a site.

    Sketches of several sites, each from a generator of its own, may be added: the inner product of two
    sums is the inner product over all the sites in expectation.

    Args:
        pool: The site's MSUs, each adapter's all of them, in any order.
        n_adapters: How many adapters there are; those not in the pool have zeros.
        generator: CPU generator of this site.

    Returns:
        Shape (n_adapters, WIDTH * WIDTH), float64.
    """
    d_in, d_out = pool.d_in, pool.rows.shape[1] - pool.d_in
    device, scale = pool.rows.device, WIDTH**-0.5
    p = (torch.randn(d_in, WIDTH, generator=generator) * scale).to(device)
    q = (torch.randn(d_out, WIDTH, generator=generator) * scale).to(device)
    out = torch.zeros(n_adapters, WIDTH * WIDTH, dtype=torch.float64)
    for number, rows in sources_of(pool):
        a, b = (rows[:, :d_in] @ p).double(), (rows[:, d_in:] @ q).double()
        out[number] = (b.T @ a).flatten().cpu()
    return out


def cosines(products: Tensor) -> Tensor:
    """Inner products over the norms: 1 on the diagonal, and 0 for an update that is zero.

    Args:
        products: Shape (T, T), float64, symmetric.

    Returns:
        Shape (T, T), float64, from -1 to 1.
    """
    norms = products.diagonal().clamp(min=0).sqrt()
    over = torch.where(norms > 0, 1 / norms.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    found = (products * over[:, None] * over).clamp(-1, 1)
    return found.fill_diagonal_(1.0)


def _by_source(pool: Pool) -> tuple[Tensor, Tensor]:
    """Adapter of each row, and the rows, adapters by number and each one's longest row first."""
    parts = list(sources_of(pool))
    numbers = [torch.full((len(rows),), number) for number, rows in parts]
    return torch.cat(numbers), torch.cat([rows for _, rows in parts])
