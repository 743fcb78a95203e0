"""One pass of SAELens's activation store over given tokens, again and again.

    python -m peers.harvest_saelens '{"model": DIRECTORY, "tokens": FILE, ...}'

The tokens are contexts of equal length, so that nothing is padded and no document is cut. The rows are not shuffled.
"""

# pyright: reportMissingImports=false
import json
import sys
from pathlib import Path

import numpy as np
import sae_lens
import torch
from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from peers.parent import Parent

BATCH_PROMPTS = 16


def one_pass(store: sae_lens.ActivationsStore, n_rows: int) -> None:
    rows = []
    while sum(map(len, rows)) < n_rows:
        activations, _ = store.get_raw_llm_batch()
        rows.append(activations)


def main() -> None:
    parent, job = Parent(), json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    tokens, path = np.load(job["tokens"]), Path(job["model"])
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = TransformerBridge.boot_transformers(str(path), hf_model=loaded, tokenizer=tokenizer, device="cpu")
    store = sae_lens.ActivationsStore(
        model=model,
        dataset=Dataset.from_dict({"input_ids": tokens.tolist()}),
        streaming=False,
        hook_name=f"blocks.{job['layer']}.hook_resid_post",
        hook_head_index=None,
        context_size=tokens.shape[1],
        d_in=loaded.config.hidden_size,
        n_batches_in_buffer=1,
        total_training_tokens=len(tokens),
        store_batch_size_prompts=BATCH_PROMPTS,
        train_batch_size_tokens=tokens.shape[1],
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        autocast_lm=job["autocast"],
    )
    while True:
        parent.pause()
        one_pass(store, tokens.size)


if __name__ == "__main__":
    main()
