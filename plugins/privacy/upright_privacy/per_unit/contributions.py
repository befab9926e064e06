"""What single rows add to one tensor's gradient: kept as it is, or as the two factors that it is the product of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**25
"""How many numbers of single rows' gradients are made at a time where they are not kept."""


def widened(values: Tensor) -> Tensor:
    """The same in float32 at least: norms and sums are not taken in less."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


@dataclass(slots=True)
class Dense:
    """Each row's own gradient ``[R, *shape]``."""

    rows: Tensor

    def dense(self) -> Tensor:
        """``[R, *shape]``."""
        return self.rows

    def weighted(self, factors: Tensor) -> Tensor:
        """The rows' sum, each times its factor ``[R]``."""
        return (factors.to(self.rows.dtype) @ self.rows.reshape(len(self.rows), -1)).view(self.rows.shape[1:])

    def by_unit(self, place: Tensor, units: int) -> Dense:
        """Rows of one unit added up, ``[U, *shape]``; ``place`` is each row's unit ``Long[R]``."""
        empty = self.rows.new_zeros(units, *self.rows.shape[1:])
        return Dense(empty.index_add_(0, place, self.rows))

    def cleared(self, rows: Tensor) -> Dense:
        """Without what the rows of the mask ``Bool[R]`` hold, NaN included."""
        return Dense(self.rows.masked_fill(rows.view(-1, *[1] * (self.rows.dim() - 1)), 0))


@dataclass(slots=True)
class Product:
    """Each row's gradient as a sum over its positions, ``sum_t left_t right_t^T``, of shape ``[m, n]``.

    ``left`` is ``[R, T, m]``, or the numbers ``Long[R, T]`` of the rows of a table (m of them) that each position
    read; ``right`` is ``[R, T, n]``. What is kept is what the layer held anyway, so a large layer costs no memory of
    rows x m x n (book-keeping: Bu et al., 2023, arXiv:2210.00038).
    """

    left: Tensor
    right: Tensor
    m: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(m, n)``."""
        return self.m, self.right.shape[2]

    def dense(self) -> Tensor:
        """``[R, m, n]``."""
        if self.left.dim() == 3:
            return torch.bmm(self.left.transpose(1, 2), self.right)
        rows, positions = self.left.shape
        table = self.right.new_zeros(rows * self.m, self.right.shape[2])
        offset = torch.arange(rows, device=self.left.device).view(-1, 1) * self.m
        table.index_add_(0, (self.left + offset).flatten(), self.right.reshape(rows * positions, -1))
        return table.view(rows, self.m, -1)

    def weighted(self, factors: Tensor) -> Tensor:
        """The rows' sum, each times its factor ``[R]``: one product over all positions, as an ordinary gradient is."""
        right = (self.right * factors.to(self.right.dtype).view(-1, 1, 1)).flatten(0, 1)
        if self.left.dim() == 3:
            return self.left.flatten(0, 1).t() @ right
        return right.new_zeros(self.m, right.shape[1]).index_add_(0, self.left.flatten(), right)

    def by_unit(self, place: Tensor, units: int) -> Product:
        """Positions of one unit's rows side by side, ``[U, ...]``; ``place`` is each row's unit ``Long[R]``."""
        order = torch.argsort(place, stable=True)
        counts = torch.bincount(place, minlength=units)
        widest = int(counts.max())
        starts = counts.cumsum(0) - counts
        within = torch.arange(len(place), device=place.device) - starts[place[order]]
        slot = place[order] * widest + within

        def grouped(values: Tensor) -> Tensor:
            empty = values.new_zeros(units * widest, *values.shape[1:])
            empty[slot] = values[order]
            return empty.view(units, widest * values.shape[1], *values.shape[2:])

        return Product(grouped(self.left), grouped(self.right), self.m)

    def cleared(self, rows: Tensor) -> Product:
        """Without what the rows of the mask ``Bool[R]`` hold, NaN included."""
        wide = rows.view(-1, 1, 1)
        left = self.left.masked_fill(wide, 0) if self.left.dim() == 3 else self.left
        return Product(left, self.right.masked_fill(wide, 0), self.m)

    def part(self, start: int, stop: int) -> Product:
        """Some of its rows."""
        return Product(self.left[start:stop], self.right[start:stop], self.m)


Contribution = Dense | Product


def worth_keeping(product: Product) -> bool:
    """Whether the rows' gradients take no more memory than the two factors: m n <= T (m + n)."""
    m, n = product.shape
    return product.left.dim() == 3 and m * n <= product.right.shape[1] * (m + n)


def merged(parts: Sequence[Contribution]) -> list[Contribution]:
    """The same sum with at most one dense part."""
    dense = [part for part in parts if isinstance(part, Dense)]
    if len(dense) < 2:
        return list(parts)
    rows = dense[0].rows
    for more in dense[1:]:
        rows = rows + more.rows
    return [Dense(rows), *(part for part in parts if isinstance(part, Product))]


def squared_norms(parts: Sequence[Contribution]) -> Tensor:
    """Squared norm of each row's gradient, the sum of ``parts``, ``[R]`` float64.

    In float64, so that a sum of a hundred thousand squares is right to 1e-12, and so that factors whose products nearly
    cancel cannot make a norm too small.
    """
    parts = merged(parts)
    if len(parts) == 1 and isinstance(parts[0], Dense):
        return _squares(parts[0].rows)
    products = [part for part in parts if isinstance(part, Product)]
    if len(products) == len(parts) and _by_factors(products):
        return _gram(products)
    m = products[0].shape
    rows = len(products[0].right)
    size = max(1, CHUNK // (m[0] * m[1]))
    found = []
    for start in range(0, rows, size):
        total: Tensor | None = None
        for part in parts:
            if isinstance(part, Product):
                piece = part.part(start, start + size).dense()
            else:
                piece = part.rows[start : start + size]
            total = piece if total is None else total + piece
        assert total is not None
        found.append(_squares(total))
    return torch.cat(found)


def _squares(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.reshape(len(rows), -1), dim=1, dtype=torch.float64).square()


def _by_factors(products: Sequence[Product]) -> bool:
    """Whether inner products over positions (in float64, twice as dear) cost less than the rows' gradients."""
    m, n = products[0].shape
    positions = sum(product.right.shape[1] for product in products)
    wide = sum(m if product.left.dim() == 3 else 1 for product in products) / len(products) + n
    return 2 * positions * wide < m * n


def _gram(products: Sequence[Product]) -> Tensor:
    """``|sum_t l_t r_t^T|^2 = sum_{t,t'} (l_t . l_t') (r_t . r_t')``, over all pairs of positions of all products."""
    total: Tensor | None = None
    for one in products:
        for other in products:
            right = one.right.double() @ other.right.double().transpose(1, 2)
            found = (_left_products(one.left, other.left) * right).sum((1, 2))
            total = found if total is None else total + found
    assert total is not None
    return total.clamp(min=0)


def _left_products(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of the left factors of every pair of positions, ``[R, T, T']`` float64."""
    if one.dim() == 2 and other.dim() == 2:
        return (one.unsqueeze(2) == other.unsqueeze(1)).double()
    if one.dim() == 2:
        return _left_products(other, one).transpose(1, 2)
    if other.dim() == 2:  # a position that read row k of the table has the k-th unit vector
        return one.double().gather(2, other.unsqueeze(1).expand(-1, one.shape[1], -1))
    return one.double() @ other.double().transpose(1, 2)
