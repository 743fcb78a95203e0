"""Prompts that are nearly the same text form one group, so that no split puts one copy here and one there.

Steps: fold case, replace each run of digits by 0 and of whitespace by one space; equal texts join; texts whose sets of
character 5-grams (hashed) have a Jaccard similarity of at least the threshold join; groups are the connected
components.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

N_BUCKETS = 1 << 20
BLOCK = 256


def group_near_duplicates(texts: Sequence[str], *, threshold: float = 0.8) -> Int[Tensor, "row"]:
    """Return a group number per text, numbered in order of first appearance.

    The similarity is the Jaccard index of hashed character 5-grams, 1 for equal sets; time grows with the square of the
    number of distinct texts.
    """
    if len(texts) == 0:
        return torch.empty(0, dtype=torch.int64)
    masked = [mask_text(text) for text in texts]
    unique: dict[str, int] = {}
    place = [unique.setdefault(text, len(unique)) for text in masked]
    grams = [sorted({zlib.crc32(gram.encode()) % N_BUCKETS for gram in _five_grams(text)}) for text in unique]
    sizes = np.array([len(g) for g in grams], dtype=np.float64)
    columns = np.concatenate([np.array(g, dtype=np.int64) for g in grams])
    pointers = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    matrix = csr_matrix((np.ones(columns.size, dtype=np.float32), columns, pointers), shape=(len(unique), N_BUCKETS))
    heads, tails = [], []
    for start in range(0, len(unique), BLOCK):
        shared = (matrix[start : start + BLOCK] @ matrix.T).tocoo()
        union = sizes[shared.row + start] + sizes[shared.col] - shared.data
        close = shared.data >= threshold * union
        heads.append(shared.row[close] + start)
        tails.append(shared.col[close])
    head, tail = np.concatenate(heads), np.concatenate(tails)
    edges = csr_matrix((np.ones(head.size), (head, tail)), shape=(len(unique), len(unique)))
    component = connected_components(edges, directed=False)[1]
    number: dict[int, int] = {}
    return torch.tensor([number.setdefault(int(component[i]), len(number)) for i in place])


def mask_text(text: str) -> str:
    """Return the text with case folded, digits masked and whitespace collapsed.

    >>> mask_text("Year  2024: DROP")
    'year 0: drop'
    """
    return re.sub(r"\s+", " ", re.sub(r"\d+", "0", text.casefold())).strip()


def _five_grams(text: str) -> list[str]:
    return [text[i : i + 5] for i in range(max(1, len(text) - 4))]
