"""`saeaudit harvest`: write the activations of a pair to a store."""

from pathlib import Path
from typing import Annotated

import typer

from saeaudit.cli.options import Device, Out, parse_layers, require_new
from saeaudit.cli.progress import watch
from saeaudit.cli.screen import show
from saeaudit.wording import counted


def harvest(
    base: Annotated[str, typer.Argument(help="Base model.")],
    tuned: Annotated[str, typer.Argument(help="Tuned model or PEFT adapter.")],
    corpus: Annotated[Path, typer.Option(help="Text, or JSON lines with text.")],
    layers: Annotated[str, typer.Option(help="Blocks to read, such as 13,17.")],
    out: Out,
    max_length: Annotated[int, typer.Option(min=8, help="Longer documents are cut, in tokens.")] = 512,
    estimate: Annotated[bool, typer.Option("--estimate", help="First say what it costs: FLOP, bytes, time.")] = False,
    device: Device = None,
) -> None:
    """Write base activations and their differences to the tuned model's into the store OUT, in fp32 arithmetic.

    A run that was stopped continues after its last finished unit when the same command is given again. Started by
    torchrun, several processes share the work.
    """
    sites = parse_layers(layers)

    from saeaudit.activations import BASE, Document, flop_rate, harvest_cost, tokenise
    from saeaudit.activations import harvest as run_harvest
    from saeaudit.activations.manifest import MANIFEST
    from saeaudit.audit.device import own_device
    from saeaudit.audit.prompts import read_corpus
    from saeaudit.distributed import joined
    from saeaudit.models import load_pair

    require_new(out, continues=MANIFEST)
    texts, place = read_corpus(corpus), own_device(device or "cpu")
    with joined(place) as ranks, watch() as watcher:
        watcher.stage("load")
        pair = load_pair(base, tuned, dtype="float32", device=str(place))
        for warning in pair.tuned.warnings:
            watcher.note(f"warning: {warning}")
        documents = tokenise(
            pair.base.tokenizer,
            [Document(f"corpus/{i}", text) for i, text in enumerate(texts)],
            max_length=max_length,
            too_long="truncate",
        )
        models = {BASE: pair.base, "tuned": pair.tuned}
        if estimate:
            watcher.stage("estimate")
            cost = harvest_cost(models, documents, sites)
            seconds = cost.flop / flop_rate(models, documents, sites) / ranks.size
            watcher.note(
                f"{cost.n_tokens} tokens: {cost.flop / 1e12:.3g} TFLOP, {cost.n_bytes / 1e6:.3g} MB on disk, about "
                f"{seconds:.0f} s at the speed of one batch"
            )
        watcher.stage("harvest")
        store = run_harvest(models, documents, sites, out=out, progress=watcher.progress, ranks=ranks)
    show(f"{counted(store.n_rows, 'row')} of {', '.join(store.tensors)}")
    show(f"store: {out}")
    show(f"next: saeaudit train {out} --site {sites[0]} --kind diff --out DIR")
