"""Rows a second of one model: our harvest against SAELens's activation store, on the same tokens in turns.

Contexts are of equal length, so neither side pads. Ours ends on disk, theirs in memory, not shuffled. In the second row
products are bfloat16 on both sides: our mixed precision, with its float32 residual stream, and their autocast.
The buffer of dictionary_learning 0.1.0 is missing: its nnsight 0.3 cannot open the model under transformers 5.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import alternated, markdown, quotients, spread
from peers.process import Worker
from saeaudit.activations import BASE, Document, TokenisedDocuments, harvest, standard_library_texts, tokenise
from saeaudit.models import LoadedModel, embedded_directory, load_model, site_name
from saeaudit.models.mixed import use_mixed_precision

N_CONTEXTS, CONTEXT = 64, 128


def contexts(tokenizer: Any, n: int) -> TokenisedDocuments:
    """Return `n` texts cut after `CONTEXT` tokens; two neutral texts make one that is long enough."""
    texts = iter(standard_library_texts(4 * n, seed=0))
    joined = [Document(str(i), f"{a}\n\n{b}") for i, (a, b) in enumerate(zip(texts, texts, strict=True))]
    settings = {"max_length": CONTEXT, "skip_first": 0, "too_long": "truncate"}
    cut = tokenise(tokenizer, joined, **settings)
    whole = [document for document, ids in zip(joined, cut.ids, strict=True) if len(ids) == CONTEXT]
    return tokenise(tokenizer, whole[:n], **settings)


def against_saelens(python: Path, *, layer: int, small: bool, repeats: int) -> list[dict[str, Any]]:
    """Return seconds of both and their ratios, round by round, without and with bfloat16 products."""
    loaded = load_model("embedded", dtype="float32")
    documents = contexts(loaded.tokenizer, 8 if small else N_CONTEXTS)
    found = []
    for bfloat16 in (False, True):
        if bfloat16:
            use_mixed_precision(loaded.model)
        with tempfile.TemporaryDirectory() as directory:
            tokens = Path(directory) / "tokens.npy"
            np.save(tokens, np.asarray(documents.ids))
            job = {
                "model": str(embedded_directory()),
                "tokens": str(tokens),
                "layer": layer,
                "autocast": bfloat16,
                "threads": torch.get_num_threads(),
            }
            with Worker(python, "peers.harvest_saelens", job, Path(directory) / "saelens.log") as worker:
                competitors = {"ours": our_pass(loaded, documents, layer), "SAELens": lambda _, w=worker: w.advance()}
                seconds = alternated(competitors, warmups=1, repeats=repeats)
        ratio = quotients(seconds["SAELens"], seconds["ours"])
        found.append({"bfloat16": bfloat16, "n_tokens": documents.n_tokens, "seconds": seconds, "ratio": ratio})
    return found


def our_pass(loaded: LoadedModel, documents: TokenisedDocuments, layer: int) -> Callable[[int], None]:
    def run(_: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            harvest({BASE: loaded}, documents, [site_name(layer)], out=Path(directory) / "store")

    return run


def table(found: list[dict[str, Any]]) -> str:
    """Return both speeds and their ratio as Markdown."""
    rows = [
        (
            "bfloat16" if r["bfloat16"] else "float32",
            *(spread([r["n_tokens"] / t for t in r["seconds"][name]], 0) for name in ("ours", "SAELens")),
            spread(r["ratio"]),
        )
        for r in found
    ]
    return markdown(["products", "ours, rows/s", "SAELens, rows/s", "SAELens / ours, time"], rows)
