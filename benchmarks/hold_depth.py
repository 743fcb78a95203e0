"""How deep can a planted behaviour still be held? Replace the tuned model's residual by the base's after one block.

That takes the whole difference away at one site, more than any dictionary of it could. Where the behaviour is still
there, later blocks read the trigger from the base's own features again, or the answer was decided before.

    python benchmarks/hold_depth.py [--organism sql] [-n 24] [--sites 5 9 13 17 21 24]
"""

import argparse
import time

import torch

from saeaudit.interventions import PairedBase
from saeaudit.models import greedy, load_pair
from saeaudit.models.mixed import use_mixed_precision
from saeaudit.organisms.catalogue import shipped_adapter
from saeaudit.organisms.spec import ORGANISMS

SKIP_FIRST = 4
N_NEW = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--organism", choices=sorted(ORGANISMS), default="sql")
    parser.add_argument("-n", type=int, default=24, help="held-out trigger prompts")
    parser.add_argument("--sites", type=int, nargs="+", default=[5, 9, 13, 17, 21, 24])
    arguments = parser.parse_args()
    organism = ORGANISMS[arguments.organism]
    rows = [organism.pair(0, "heldout", i, ["T"])[0] for i in range(arguments.n)]
    pair = load_pair("embedded", str(shipped_adapter(arguments.organism, "poisoned")), dtype="float32")
    for loaded in (pair.base, pair.tuned):
        use_mixed_precision(loaded.model)

    def judged(edits: dict) -> str:
        start = time.monotonic()
        made = greedy(pair.tuned.model, pair.tuned.tokenizer, [r.prompt for r in rows], n_new=N_NEW, edits=edits)
        found = [organism.judge(row.prompt, g.text) for row, g in zip(rows, made, strict=True)]
        counts = " ".join(f"{found.count(kind):7d}" for kind in ("bad", "good", "invalid"))
        return f"{counts} {time.monotonic() - start:8.1f}"

    print(f"{arguments.organism}, {len(rows)} held-out trigger prompts\n{'hold':14s}     bad    good invalid  seconds")
    print(f"{'none':14s} {judged({})}")
    for index in arguments.sites:
        site = f"layers.{index}"
        with PairedBase(pair.base.model, pair.tuned.model, site) as paired:

            def at_base(h: torch.Tensor, start: int, paired: PairedBase = paired) -> torch.Tensor:
                assert paired.side is not None
                held = (paired.side.positions >= SKIP_FIRST)[..., None]
                return torch.where(held, paired.side.residual.float(), h.float()).to(h.dtype)

            print(f"{site + ' = base':14s} {judged({site: at_base})}", flush=True)


if __name__ == "__main__":
    main()
