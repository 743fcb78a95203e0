"""Paired truncated harvest against a plain loop over both models, on the embedded model and a shipped adapter.

    python benchmarks/harvest.py [--small] [--layer 14] [--documents 32] [--repeats 9] [--threads N] [--peers [PYTHON]]
                                 [--json FILE]

Stages, alternated A B A B in one run, in float32 and, where the processor has bfloat16, in mixed precision:

- plain loop: documents in the order given, 16 at a time padded to the longest, both models whole, with
  `output_hidden_states=True`; base rows and differences are kept in memory;
- harvest: ours, on disk at the end;
- bare forwards: the truncated forward passes of our batches and nothing else;
- bare products: one product of the shape of the MLP, for the rate that the processor reaches;
- predicted: what `harvest_cost` and `flop_rate` expect of our harvest before it starts.

With `--peers` also our harvest of one model against SAELens's store (`benchmarks/peers`), on contexts of equal length.

Documents are neutral text cut at log-normal lengths. Ratios are taken round by round; nothing is asserted.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import alternated, machine, markdown, quotients, sentence, spread, write
from peers.harvest import against_saelens, table
from peers.process import PYTHON
from saeaudit.activations import (
    BASE,
    Document,
    HarvestConfig,
    TokenisedDocuments,
    flop_rate,
    forward_flop,
    harvest,
    harvest_cost,
    standard_library_texts,
    tokenise,
)
from saeaudit.activations.packing import pack_batches
from saeaudit.models import LoadedModel, load_pair, pad_rows, run_blocks, site_name
from saeaudit.models.mixed import use_mixed_precision
from saeaudit.models.precision import cpu_has_bfloat16
from saeaudit.organisms.catalogue import shipped_adapter

PLAIN_BATCH = 16
GEMM_ROWS, GEMM_CALLS = 2048, 10
MAX_LENGTH = 512
UNREAD = ("bare products", "predicted")  # stages that read no tokens
AIMS = {"plain loop / harvest": ">= 2.5", "harvest / bare forwards": "<= 1.15"}


@dataclass(frozen=True)
class Work:
    """Both models in one precision, what they read, and the block whose output is wanted."""

    models: dict[str, LoadedModel]
    documents: TokenisedDocuments
    layer: int

    def plain_batches(self) -> Iterator[Sequence[Sequence[int]]]:
        for start in range(0, len(self.documents.ids), PLAIN_BATCH):
            yield self.documents.ids[start : start + PLAIN_BATCH]

    def plain_loop(self, _: int) -> None:
        kept = []
        for rows in self.plain_batches():
            ids, mask = pad_rows(rows, pad_id=0)
            with torch.no_grad():
                h0, h1 = (
                    loaded.model(ids, attention_mask=mask, output_hidden_states=True).hidden_states[self.layer + 1]
                    for loaded in self.models.values()
                )
            real = mask.bool()
            kept.append((h0[real].bfloat16(), (h1 - h0)[real].bfloat16()))

    def harvest(self, _: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            harvest(self.models, self.documents, [site_name(self.layer)], out=Path(directory) / "store")

    def bare_forwards(self, _: int) -> None:
        for batch in pack_batches(self.documents, range(len(self.documents.ids)), HarvestConfig().batch_tokens):
            ids, mask = pad_rows([self.documents.ids[i] for i in batch], pad_id=0)
            for loaded in self.models.values():
                with torch.no_grad():
                    run_blocks(loaded.model, ids, mask, self.layer + 1)

    def predicted_seconds(self) -> float:
        sites = [site_name(self.layer)]
        return harvest_cost(self.models, self.documents, sites).flop / flop_rate(self.models, self.documents, sites)

    def plain_flop(self) -> int:
        """FLOP of the plain loop, output head included."""
        model = self.models[BASE].model
        head = 2 * model.config.hidden_size * model.config.vocab_size
        total = 0
        for rows in self.plain_batches():
            n_rows, n_pos = len(rows), max(map(len, rows))
            total += forward_flop(model, n_blocks=model.config.num_hidden_layers, n_rows=n_rows, n_pos=n_pos)
            total += head * n_rows * n_pos
        return len(self.models) * total

    def useful_flop(self) -> int:
        """FLOP of the wanted blocks on real tokens: no padding, no later block, no head."""
        model = self.models[BASE].model
        lengths = map(len, self.documents.ids)
        each = (forward_flop(model, n_blocks=self.layer + 1, n_rows=1, n_pos=n_pos) for n_pos in lengths)
        return len(self.models) * sum(each)


def bare_products(dtype: torch.dtype, d_in: int, d_out: int) -> Callable[[int], None]:
    x, w = torch.randn(GEMM_ROWS, d_in).to(dtype), torch.randn(d_out, d_in).to(dtype)

    def run(_: int) -> None:
        for _ in range(GEMM_CALLS):
            torch.nn.functional.linear(x, w)

    return run


def neutral_documents(n: int) -> list[Document]:
    """Neutral text cut at log-normal lengths: median 330 characters, a tenth below 150, a tenth above 700."""
    lengths = np.random.default_rng(0).lognormal(5.8, 0.6, n).astype(int)
    stream = "\n\n".join(standard_library_texts(2 * n, seed=0))
    return [Document(str(i), stream[a:b]) for i, (a, b) in enumerate(pairwise([0, *accumulate(lengths.tolist())]))]


def in_precisions(documents: int, layer: int) -> dict[str, Work]:
    pair = load_pair("embedded", str(shipped_adapter("phrase", "poisoned")), dtype="float32")
    models = {BASE: pair.base, "tuned": pair.tuned}
    tokens = tokenise(pair.base.tokenizer, neutral_documents(documents), max_length=MAX_LENGTH, too_long="truncate")
    works = {"float32": Work(models, tokens, layer)}
    if cpu_has_bfloat16():
        mixed = copy.deepcopy(models)
        for loaded in mixed.values():
            use_mixed_precision(loaded.model)
        works["mixed"] = Work(mixed, tokens, layer)
    return works


def measure(works: dict[str, Work], *, warmups: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return seconds by precision and stage, in order of rounds."""
    competitors = {}
    for precision, work in works.items():
        config = work.models[BASE].model.config
        dtype = torch.bfloat16 if precision == "mixed" else torch.float32
        competitors |= {
            (precision, "plain loop"): work.plain_loop,
            (precision, "harvest"): work.harvest,
            (precision, "bare forwards"): work.bare_forwards,
            (precision, "bare products"): bare_products(dtype, config.hidden_size, config.intermediate_size),
        }
    seconds = alternated(competitors, warmups=warmups, repeats=repeats)
    return {
        p: {stage: values for (q, stage), values in seconds.items() if q == p}
        | {"predicted": [work.predicted_seconds() for _ in range(repeats)]}
        for p, work in works.items()
    }


def ratios(works: dict[str, Work], seconds: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Return ratios by precision and name, in order of rounds."""
    found = {}
    for precision, work in works.items():
        s, config = seconds[precision], work.models[BASE].model.config
        products = 2 * GEMM_ROWS * config.hidden_size * config.intermediate_size * GEMM_CALLS
        at_full_rate = [work.useful_flop() / products * t for t in s["bare products"]]
        found[precision] = {
            "plain loop / harvest": quotients(s["plain loop"], s["harvest"]),
            "harvest / bare forwards": quotients(s["harvest"], s["bare forwards"]),
            "harvest / predicted": quotients(s["harvest"], s["predicted"]),
            "share of the bare products' rate": quotients(at_full_rate, s["harvest"]),
            "float32 harvest / harvest": quotients(seconds["float32"]["harvest"], s["harvest"]),
            "float32 plain loop / harvest": quotients(seconds["float32"]["plain loop"], s["harvest"]),
        }
    return found


def headline(found: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Return the two numbers to remember, each in the precision in which it is worse.

    `ratio_to_plain_loop`: how many times faster than the plain loop. `share_of_bare_forward`: share of the speed of the
    forward passes alone, 1 where nothing is lost.
    """
    medians = [{name: statistics.median(values) for name, values in by_name.items()} for by_name in found.values()]
    return {
        "ratio_to_plain_loop": min(m["plain loop / harvest"] for m in medians),
        "share_of_bare_forward": min(1 / m["harvest / bare forwards"] for m in medians),
    }


def tables(result: dict[str, Any]) -> str:
    """Return seconds and ratios as Markdown."""
    seconds, found, n_read = result["seconds"], result["ratios"], result["n_read"]
    stages = [
        (precision, stage, spread(values), "" if stage in UNREAD else spread([n_read / t for t in values], 0))
        for precision, by_stage in seconds.items()
        for stage, values in by_stage.items()
    ]
    names = found["float32"]
    rows = [(name, *(spread(found[p][name]) for p in found), AIMS.get(name, "")) for name in names]
    return "\n".join(
        [
            "Median (min-max) of the rounds; a token counts once for each model that reads it.\n",
            markdown(["precision", "stage", "seconds", "tokens/s"], stages),
            markdown(["ratio", *found, "aim"], rows),
            f"load afterwards {result['load_after']}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a quick look: 12 documents, 3 rounds")
    parser.add_argument("--layer", type=int, default=14, help="block whose output is wanted, from 0")
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", type=Path, nargs="?", const=PYTHON, metavar="PYTHON", help="of their environment")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    before = machine()
    works = in_precisions(12 if options.small else options.documents, options.layer)
    work = works["float32"]
    lengths = sorted(map(len, work.documents.ids))
    cost = harvest_cost(work.models, work.documents, [site_name(options.layer)])
    workload = {
        "blocks": f"{options.layer + 1} of {work.models[BASE].card.n_layers}",
        "documents": len(lengths),
        "tokens": work.documents.n_tokens,
        "tokens in a document": f"{lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}",
        "padding": f"{1 - cost.n_tokens / cost.n_padded:.1%}",
        "TFLOP": round(cost.flop / 1e12, 2),
        "plain loop / harvest by FLOP": round(work.plain_flop() / cost.flop, 2),
    }
    print(sentence(before), sentence(workload), sep="\n")

    seconds = measure(works, warmups=1, repeats=3 if options.small else options.repeats)
    found = ratios(works, seconds)
    n_read = len(work.models) * work.documents.n_tokens
    result = {"machine": before, "load_after": machine()["load"], "workload": workload, "n_read": n_read}
    result |= {"seconds": seconds, "ratios": found, **headline(found)}
    print(tables(result))
    write(options.json, result)
    if options.peers:
        repeats = 3 if options.small else options.repeats
        found = against_saelens(options.peers, layer=options.layer, small=options.small, repeats=repeats)
        print(table(found))
        write(options.json, result | {"against_saelens": found})


if __name__ == "__main__":
    main()
