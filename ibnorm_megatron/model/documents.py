"""Documents within a sequence, in the form that attention takes: where each ends.

``ends`` is int32 ``[b, d]``: for each row the positions behind the last token of its documents, in order. The last document
ends with the sequence; rows with fewer documents than d repeat that end, as if by documents of no token. So one small tensor
is all that goes through the layers, what a kernel wants is computed from it without a word from the device to the host, and
its shape is one of few.

Attention of a part of a sequence, whose keys are the first so many tokens and whose queries are the last of these, takes the
same tensor, clamped to that number of keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: d is a power of two, and no less than this: compiled code is made anew for every shape, and must not be for every batch.
_FEWEST = 8


def document_ends(documents: Tensor) -> Tensor:
    """``ends`` of a micro-batch, on the same device; it is read here, so best on the host.

    Args:
        documents: integers ``[b, s]``, of each token the number of its document within its row: 0 for the first, and one more
            for every next one.
    """
    steps = documents.diff(dim=1)
    assert bool((documents[:, 0] == 0).all() and ((steps == 0) | (steps == 1)).all()), "documents are not counted from 0 on"
    most = max(_FEWEST, 1 << int(documents[:, -1].max()).bit_length())
    lengths = documents.new_zeros(len(documents), most, dtype=torch.int32)
    lengths.scatter_add_(1, documents.long(), torch.ones_like(documents, dtype=torch.int32))
    return lengths.cumsum(1, dtype=torch.int32)


def document_numbers(ends: Tensor, tokens: int) -> Tensor:
    """Of each of the first ``tokens`` tokens the number of its document: ``[b, tokens]``."""
    positions = torch.arange(tokens, dtype=ends.dtype, device=ends.device).expand(len(ends), -1)
    return torch.searchsorted(ends, positions.contiguous(), right=True)


def document_mask(ends: Tensor, queries: int, keys: int) -> Tensor:
    """Which keys the last ``queries`` of so many tokens see, True for yes: ``[b, queries, keys]``."""
    numbers = document_numbers(ends, keys)
    return (numbers[:, keys - queries :, None] == numbers[:, None]).tril(keys - queries)


def cumulative_lengths(ends: Tensor, queries: int, keys: int) -> tuple[Tensor, Tensor]:
    """Where documents begin among queries, and among keys, when rows follow one another: int32 ``[b d + 1]`` each.

    flash-attn takes the i-th run of queries to see the i-th run of keys, the last of it the last. A document that ended
    before the first query has keys and no queries; one of no token has neither. Both cost nothing but their numbers.
    """
    rows = torch.arange(len(ends), dtype=ends.dtype, device=ends.device)[:, None]
    own = (ends - (keys - queries)).clamp(min=0)  # of queries: those before the first are not there
    begin = ends.new_zeros(1)
    of_queries, of_keys = ((t + size * rows).flatten() for t, size in ((own, queries), (ends, keys)))
    return torch.cat([begin, of_queries]), torch.cat([begin, of_keys])
