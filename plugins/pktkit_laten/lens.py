"""The lens: how much a step in the residual stream raises a token's log-probability.

`logits(x) = E (γ ⊙ (x − mean x)) / d + E β + bias` with the LM head `E` and the final norm's
`γ` and `β` (no mean and no β for RMS norms). The denominator `d` is computed once, from the
residual stream before the final norm, and held: the logits are linear in `x`, so a neuron's
contribution adds to them. Logit soft-capping (Gemma 2) is applied on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

from pktkit.errors import DoesNotFitError
from pktkit_laten.reading import epsilon

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Anatomy

FLOAT = 4
"""Bytes of fp32."""

TABLES = 4
"""Tables `[neurons, tokens]` alive at once in the innermost step."""


@attrs.frozen(eq=False)
class Lens:
    """The LM head behind the final norm with a constant denominator.

    Arguments:
        anatomy: of the model.
        kind: `"rmsnorm"` takes the statistic of the model's own final norm; `"released"` takes
            `√(√(var + 1e-5) + 1e-6)` as the public code does, a standard deviation where the mean
            square belongs.
        chunk_bytes: most bytes that intermediate tables take together.
    """

    anatomy: Anatomy
    kind: str
    chunk_bytes: int

    def denominators(self, final: Tensor) -> Tensor:
        """Return the denominator of each position.

        Arguments:
            final: `[positions, D]`, the residual stream before the final norm, fp32.
        """
        variance = final.var(dim=-1, correction=0)
        if self.kind == "released":
            return ((variance + 1e-5).sqrt() + 1e-6).sqrt()
        square = variance if self.centred else final.square().mean(dim=-1)
        return (square + epsilon(self.anatomy.final_norm)).sqrt()

    @property
    def centred(self) -> bool:
        """Whether the final norm subtracts the mean over channels."""
        return isinstance(self.anatomy.final_norm, nn.LayerNorm)

    def log_probabilities(self, state: Tensor, denominator: Tensor) -> Tensor:
        """Return the log-probabilities `[V]` that the lens sees in a state `[D]`, fp32."""
        return torch.log_softmax(self._capped(self._raw(state, denominator)), dim=-1)

    def gains(
        self,
        base: Tensor,
        columns: Tensor,
        coefficients: Tensor,
        gold: int,
        denominator: Tensor,
        gain: Tensor | None = None,
    ) -> Tensor:
        """Return `ℓ(base + c_i · gain ⊙ columns[:, i]) − ℓ(base)` for every i, ℓ = log p(gold).

        The logits change by the lens's image of the step alone, so that small contributions are
        not lost in the rounding of large logits. Tables `[neurons, tokens]` exist in chunks only.

        Arguments:
            base: `[D]`.
            columns: `[D, n]`, in any dtype.
            coefficients: c, `[n]`.
            gold: the token.
            denominator: scalar, see `denominators`.
            gain: `[D]` or None for ones.

        Returns:
            `[n]`, fp32, in nats.

        Raises:
            DoesNotFitError: `chunk_bytes` does not hold one neuron and one token.
        """
        raw = self._raw(base, denominator)
        log_p = torch.log_softmax(self._capped(raw), dim=-1)
        neurons, words = chunk_sizes(
            len(coefficients), len(raw), self.anatomy.width, self.chunk_bytes
        )
        found = []
        for start in range(0, len(coefficients), neurons):
            part = slice(start, start + neurons)
            steps = columns[:, part].T.float() * (coefficients[part] / denominator)[:, None]
            if gain is not None:
                steps = steps * gain
            total = torch.full_like(steps[:, 0], -torch.inf)
            for tokens, rows in self._rows(words):
                moved = self._moved(raw[tokens], steps @ rows.T)
                total = torch.logaddexp(total, torch.logsumexp(moved + log_p[tokens], dim=1))
            wanted = slice(gold, gold + 1)
            moved = self._moved(raw[wanted], steps @ self._cut(wanted).T)
            found.append(moved[:, 0] - total)
        return torch.cat(found)

    def _raw(self, state: Tensor, denominator: Tensor) -> Tensor:
        """Return the logits of a state before soft-capping, `[V]`."""
        _, words = chunk_sizes(1, self.anatomy.vocab_rows, self.anatomy.width, self.chunk_bytes)
        beta, bias = self.anatomy.final_norm_bias(), self.anatomy.head.bias
        parts = []
        for tokens, rows in self._rows(words):
            logits = rows @ (state / denominator)
            if beta is not None:
                logits = logits + self.anatomy.head_weight.detach()[tokens].float() @ beta
            if bias is not None:
                logits = logits + bias.detach()[tokens].float()
            parts.append(logits)
        return torch.cat(parts)

    def _rows(self, words: int) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self.anatomy.vocab_rows, words):
            tokens = slice(start, start + words)
            yield tokens, self._cut(tokens)

    def _cut(self, tokens: slice) -> Tensor:
        """Return rows of the head with the norm's linear part folded in, `[tokens, D]`."""
        rows = self.anatomy.head_weight.detach()[tokens].float() * self.anatomy.final_norm_gain()
        return rows - rows.mean(dim=1, keepdim=True) if self.centred else rows

    def _moved(self, raw: Tensor, change: Tensor) -> Tensor:
        """Return how far a change of raw logits moves the logits."""
        if self._cap is None:
            return change
        return self._capped(raw + change) - self._capped(raw)

    def _capped(self, raw: Tensor) -> Tensor:
        return raw if self._cap is None else self._cap * torch.tanh(raw / self._cap)

    @property
    def _cap(self) -> float | None:
        config: Any = self.anatomy.model.config
        cap = getattr(config, "final_logit_softcapping", None)
        return None if cap is None else float(cap)


def chunk_sizes(neurons: int, words: int, width: int, chunk_bytes: int) -> tuple[int, int]:
    """Return how many neurons and tokens fit: their vectors and the tables between them.

    Arguments:
        neurons, words: how many there are.
        width: D.
        chunk_bytes: bytes of fp32 that may be alive.

    Raises:
        DoesNotFitError: not even one of each fits.
    """
    # Rows of the head are scaled and centred, hence twice; so are steps.
    room, vector = chunk_bytes // FLOAT, 2 * width
    if room < 2 * vector + TABLES:
        raise DoesNotFitError(
            f"chunk_bytes={chunk_bytes} holds not even one neuron and one token of width {width}; "
            f"set it to at least {FLOAT * (2 * vector + TABLES)}."
        )
    beside_one_neuron = (room - vector) // (vector + TABLES)
    tokens = min(words, beside_one_neuron, max(1, room // (2 * vector)))
    return min(neurons, (room - tokens * vector) // (vector + TABLES * tokens)), tokens
