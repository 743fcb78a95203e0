"""Paired truncated harvest against a plain loop over both models, on the embedded model, in one run.

    python benchmarks/harvest.py [--layer 14] [--documents 64] [--repeats 3] [--threads 2] [--json FILE]

Rows of the table, alternated A B A B so that a drifting machine hits all of them:

- plain loop: both models, every document in the order given, batches of 16 padded to the longest, output_hidden_states;
- harvest: ours, stops after the layer, sorts by length, one base pass;
- bare forwards: the truncated forward passes alone, same batches as ours, nothing kept.

Ratios: harvest against the plain loop in the same precision, the share of harvest time that the bare forwards take, and
the share of the bare-GEMM rate (timed at the shapes of the MLP) that the forward passes reach.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from saeaudit.activations import Document, harvest, standard_library_texts, tokenise
from saeaudit.activations.harvest import HarvestConfig, pack_batches
from saeaudit.models import load_model, pad_rows, run_blocks
from saeaudit.models.mixed import use_mixed_precision
from saeaudit.models.precision import cpu_has_bfloat16


def plain_loop(models, documents, layer):
    for start in range(0, len(documents.ids), 16):
        ids, mask = pad_rows(documents.ids[start : start + 16], pad_id=0)
        with torch.no_grad():
            outputs = [m.model(ids, attention_mask=mask, output_hidden_states=True) for m in models]
        _ = outputs[1].hidden_states[layer + 1] - outputs[0].hidden_states[layer + 1]


def bare_forwards(models, documents, layer, config):
    for batch in pack_batches(documents, range(len(documents.ids)), config.batch_tokens):
        ids, mask = pad_rows([documents.ids[i] for i in batch], pad_id=0)
        for m in models:
            with torch.no_grad():
                run_blocks(m.model, ids, mask, layer + 1)


def gemm_rate(dtype, rows, d_in, d_out):
    a, w = torch.randn(rows, d_in).to(dtype), torch.randn(d_out, d_in).to(dtype)
    for _ in range(3):
        torch.nn.functional.linear(a, w)
    start, n = time.perf_counter(), 20
    for _ in range(n):
        torch.nn.functional.linear(a, w)
    return 2 * rows * d_in * d_out * n / (time.perf_counter() - start)


def measure(models, documents, layer, repeats):
    config = HarvestConfig()
    side = {"base": models[0], "tuned": models[1]}
    seconds = {"plain loop": [], "harvest": [], "bare forwards": []}
    for k in range(repeats + 1):
        for name in seconds:
            with tempfile.TemporaryDirectory() as out:
                start = time.perf_counter()
                if name == "plain loop":
                    plain_loop(models, documents, layer)
                elif name == "harvest":
                    harvest(side, documents, [f"layers.{layer}"], config, out=Path(out) / "store")
                else:
                    bare_forwards(models, documents, layer, config)
                if k:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = [load_model("embedded", dtype="float32"), load_model("embedded", dtype="float32")]
    texts = standard_library_texts(options.documents, seed=0)
    documents = tokenise(
        models[0].tokenizer, [Document(str(i), t) for i, t in enumerate(texts)], max_length=160, too_long="truncate"
    )
    config = models[0].model.config
    block = sum(p.numel() for p in models[0].model.model.layers[0].parameters())
    flop = 2 * documents.n_tokens * (options.layer + 1) * 2 * block
    table = {}
    precisions = ["float32", *(["mixed"] if cpu_has_bfloat16() else [])]
    for precision in precisions:
        if precision == "mixed":
            for m in models:
                use_mixed_precision(m.model)
        seconds = measure(models, documents, options.layer, options.repeats)
        dtype = torch.bfloat16 if precision == "mixed" else torch.float32
        rate = gemm_rate(dtype, 2048, config.hidden_size, config.intermediate_size)
        table[precision] = {
            "seconds": seconds,
            "tokens_per_second": {k: 2 * documents.n_tokens / v for k, v in seconds.items()},
            "ratio_to_plain_loop": seconds["plain loop"] / seconds["harvest"],
            "share_of_bare_forward": seconds["bare forwards"] / seconds["harvest"],
            "share_of_gemm_roofline": flop / seconds["bare forwards"] / rate,
        }
    if "mixed" in table:
        gain = table["float32"]["seconds"]["plain loop"] / table["mixed"]["seconds"]["harvest"]
        table["mixed"]["ratio_to_fp32_plain_loop"] = gain
    about = {
        "layer": options.layer,
        "blocks": config.num_hidden_layers,
        "documents": len(texts),
        "tokens": documents.n_tokens,
        "threads": options.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps({"about": about, "table": table}, indent=1))
    if options.json:
        options.json.write_text(json.dumps({"about": about, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
