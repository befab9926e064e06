"""Epsilon of Poisson-sampled Gaussian releases, by opacus's accountants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

Accountant = Literal["prv", "rdp"]
ERROR, RELATIVE = 0.01, 0.005
"""How far the PRV accountant's upper bound may lie over epsilon: the smaller of the two, the second a share of it."""


def combined(*noise_multipliers: float | None) -> float:
    """The noise multiplier of all releases of one draw together; None for what is not released.

    Releases of one Poisson draw compose before subsampling: sigma_eff = (sum of sigma_i^-2)^(-1/2), the Gaussian
    mechanism on the concatenated, separately scaled vector. Two separate entries would under-report.
    """
    return float(sum(sigma**-2 for sigma in noise_multipliers if sigma is not None) ** -0.5)


def epsilon(draws: Iterable[tuple[float, float]], delta: float, accountant: Accountant = "prv") -> float:
    """Epsilon at ``delta`` of draws ``(noise multiplier, sampling rate)``, one each; 0 for none.

    PRV: Gopi, Lee and Wutschitz (2021, arXiv:2106.02848), the upper bound. RDP: Mironov, Talwar and Zhang (2019,
    arXiv:1908.10530).
    """
    counts = Counter(draws)
    if not counts:
        return 0.0
    from opacus.accountants import create_accountant

    book = create_accountant(accountant)
    book.history = [(sigma, rate, count) for (sigma, rate), count in counts.items()]
    if accountant == "rdp":
        return float(book.get_epsilon(delta=delta))
    found = float(book.get_epsilon(delta=delta, eps_error=ERROR))
    finer = max(found - ERROR, found / 10) * RELATIVE
    return found if finer >= ERROR else float(book.get_epsilon(delta=delta, eps_error=finer))


def noise_for(target: float, delta: float, rate: float, draws: int) -> float:
    """The smallest noise multiplier (within 0.01 and a percent of epsilon) whose ``draws`` draws stay within ``target``.

    Raises ValueError where no noise reaches it.
    """
    from opacus.accountants.utils import get_noise_multiplier

    return float(
        get_noise_multiplier(
            target_epsilon=target,
            target_delta=delta,
            sample_rate=rate,
            steps=draws,
            accountant="prv",
            epsilon_tolerance=min(ERROR, 2 * RELATIVE * target),
            eps_error=min(ERROR, RELATIVE * target),
        )
    )
