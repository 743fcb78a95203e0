"""Which sparsity and fit each lambda gives on real activations, for an SAE of the base and a difference dictionary.

    python benchmarks/lambda_sweep.py [--small] [--threads N] [--json FILE]

Residuals of the embedded model at one site and the differences that the shipped phrase adapter makes there, on neutral
text, are harvested into a store; all dictionaries are trained in one pass over it with the defaults of `saeaudit train`
but for width, rate and batch size, and judged on held-out rows. Nothing is timed or asserted.
"""

import argparse
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from common import machine, markdown, sentence, write
from saeaudit.activations import BASE, Document, harvest, standard_library_texts, tokenise
from saeaudit.audit.one_dictionary import StoreTraining
from saeaudit.audit.train_store import train_many_from_store
from saeaudit.dictionaries import Kind, Penalty, Rule
from saeaudit.models import load_pair
from saeaudit.models.mixed import use_mixed_precision
from saeaudit.models.precision import cpu_has_bfloat16
from saeaudit.organisms.catalogue import shipped_adapter

SITE = "layers.13"
N_TEXTS, MAX_LENGTH = 200, 512
BATCH, N_STEPS, LR, EXPANSION, K = 512, 150, 2e-3, 2, 32
KINDS: tuple[Kind, ...] = ("sae", "diff")
LAMBDAS: dict[Rule, tuple[float, ...]] = {
    "relu": (2.5, 5.0, 10.0),
    "gated": (2.5, 5.0, 10.0),
    "jumprelu": (0.5, 1.0, 2.0),
}


def write_store(path: Path, n_texts: int) -> Path:
    """Harvest the site's residuals of the base and its differences."""
    pair = load_pair("embedded", str(shipped_adapter("phrase", "poisoned")), dtype="float32")
    models = {BASE: pair.base, "tuned": pair.tuned}
    for loaded in models.values() if cpu_has_bfloat16() else ():
        use_mixed_precision(loaded.model)
    documents = [Document(str(i), text) for i, text in enumerate(standard_library_texts(n_texts, seed=0))]
    tokens = tokenise(pair.base.tokenizer, documents, max_length=MAX_LENGTH, too_long="truncate")
    harvest(models, tokens, [SITE], out=path)
    return path


def sweep(n_steps: int) -> dict[str, StoreTraining]:
    """Return a setting for each kind, rule and lambda, and BatchTopK to compare with; the names do not matter."""
    size = {"site": SITE, "expansion": EXPANSION, "batch_size": BATCH, "n_samples": n_steps * BATCH, "lr": LR}
    penalised = {
        f"{kind}-{rule}-{weight}": StoreTraining(kind=kind, sparsity=rule, penalty=Penalty(weight=weight), **size)
        for kind, (rule, weights) in product(KINDS, LAMBDAS.items())
        for weight in weights
    }
    return penalised | {f"{kind}-batchtopk": StoreTraining(kind=kind, k=K, **size) for kind in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="little text, 20 steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    configs = sweep(20 if options.small else N_STEPS)
    with TemporaryDirectory() as directory:
        store = write_store(Path(directory) / "store", 40 if options.small else N_TEXTS)
        trained = train_many_from_store(store, configs, out=Path(directory) / "trained")
    for error in trained.failed.values():
        raise error
    found = {name: row.model_dump() for name, row in trained.done.items()}
    about = machine() | {"site": SITE, "latents": next(iter(trained.done.values())).n_latents}
    print(sentence(about))
    print("L0 / FVU / share of dead latents, on held-out rows.\n")

    def cell(name: str) -> str:
        row = found.get(name)
        return f"{row['l0']:.1f} / {row['fvu']:.2f} / {row['dead_share']:.2f}" if row else ""

    pairs = list(product(KINDS, LAMBDAS))
    every = sorted({weight for weights in LAMBDAS.values() for weight in weights})
    lines = [(f"{weight:g}", *(cell(f"{kind}-{rule}-{weight}") for kind, rule in pairs)) for weight in every]
    print(markdown(["lambda", *(f"`{kind}`, `{rule}`" for kind, rule in pairs)], lines))
    for kind in KINDS:
        print(f"{kind}, batchtopk, k {K}: {cell(f'{kind}-batchtopk')}")
    write(options.json, {"machine": about, "rows": found})


if __name__ == "__main__":
    main()
