"""Faults of the training: same rows throughout, wrong axis, unequal sparsity, dead latents that nothing counts."""

import torch
from scipy.stats import hypergeom

from saeaudit.detection import PairedRows
from saeaudit.dictionaries import build
from saeaudit.metrics import n_above_quantile
from saeaudit.paper_results import Fault
from saeaudit.seeds import torch_generator
from saeaudit.statistics import SiteStatistics
from saeaudit.studies.isolation.faults.tables import Table, bis_of
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.dictionaries import fit_paper_dictionary, paper_recipe
from saeaudit.studies.isolation.paper.names import DictionaryMethod, PaperMethod
from saeaudit.studies.isolation.paper.refit import refit
from saeaudit.training import evaluate, tensor_batches, train

PAPER_ROWS = 2500
_WIDTH = 16


def simulated_rows(n_rows: int, d_model: int, *, seed: int) -> PairedRows:
    """Return rows that know nothing of their label: a fifth `trigger`, two fifths `benign`, two fifths `other`."""
    generator = torch_generator(seed, "paper", "simulated-rows")
    klass = [("trigger", "benign", "benign", "other", "other")[i % 5] for i in range(n_rows)]
    return PairedRows(
        h0=torch.randn(n_rows, d_model, generator=generator),
        delta=0.2 * torch.randn(n_rows, d_model, generator=generator),
        text=[f"row {i}" for i in range(n_rows)],
        label=torch.tensor([name == "trigger" for name in klass]),
        klass=klass,
        group=torch.arange(n_rows),
    )


def optimism(rows: PairedRows, method: PaperMethod, config: PaperConfig) -> Fault:
    """W6: everything again by folds of templates, scored on the rows that were left out; noise of that size beside."""
    noise = refit(simulated_rows(len(rows), rows.delta.shape[1], seed=config.seed), method, config)
    real = refit(rows, method, config)
    return Fault(
        id="W6",
        claim="The dictionary is fitted, thresholded, chosen and scored on the same rows.",
        computed=f"BIS of the best latent of {method} on the rows that made it, and on rows that did not (by folds)",
        expected="a lower score on other rows; on noise all of the score is optimism",
        found={
            f"{name}, {part}": value
            for name, result in (("rows", real), ("noise", noise))
            for part, value in (
                ("same rows", result.fitted),
                ("other rows", result.fresh),
                ("optimism", result.optimism),
            )
        },
        n={"rows": real.n_rows, "folds": real.n_folds},
        survives="on noise always; where many latents sit at the ceiling the score is too coarse to show it",
        confirmed=noise.optimism > 0,
    )


def row_norms(config: PaperConfig) -> Fault:
    """W9: norms of the encoder rows after training with either axis, on simulated rows."""
    rows = simulated_rows(1280, _WIDTH, seed=config.seed)
    methods: tuple[DictionaryMethod, DictionaryMethod] = ("diff-32x", "diff-32x-corrected")
    made = {method: fit_paper_dictionary(rows, method, config.model_copy(update={"epochs": 1})) for method in methods}
    norms = {name: float(one.dictionary.W_dec.double().square().sum(1).mean().sqrt()) for name, one in made.items()}
    wanted = made["diff-32x"].dictionary.d_model / made["diff-32x"].dictionary.n_latents
    return Fault(
        id="W9",
        claim="Tied matrices are normalised over latents and not over coordinates.",
        computed="root of the mean squared norm of a latent's row, as published and normalised by latent",
        expected="sqrt(d/F) = .177 at 32x instead of 1",
        found={f"norm {name}": norm for name, norm in norms.items()}
        | {"sqrt(d/F)": wanted**0.5}
        | {f"FVU {name}": one.fit.fvu for name, one in made.items()},
        n={"latents": made["diff-32x"].dictionary.n_latents, "width": _WIDTH},
        survives="at any width; correcting it alone makes the fit worse, since half of F rows of norm 1 add up to "
        "F/(2d) = 16 times the input, where the published axis keeps the sum at half of it",
        confirmed=abs(norms["diff-32x"] - wanted**0.5) < 1e-4 and abs(norms["diff-32x-corrected"] - 1) < 1e-4,
    )


def unequal_sparsity(table: Table) -> Fault:
    """W10: how many latents fire on a row, and the score of a Diff-SAE held to the crosscoder's number."""
    methods: tuple[PaperMethod, ...] = ("diff-32x", "diff-4x", "crosscoder-32x", "diff-32x-matched")
    found: dict[str, float | None] = bis_of(table, *methods, label="BIS")
    for method in methods:
        if method in table:
            found |= {f"L0 {method}": table[method].l0, f"FVU {method}": table[method].fvu}
    return Fault(
        id="W10",
        claim="The Diff-SAE is nearly dense, the crosscoder has at most 32 active latents a row: unequal sparsity.",
        computed="mean number of latents that fire on a row, share of variance missed; the Diff-SAE again with 32",
        expected="an L0 of the Diff-SAE more than four times that of the crosscoder, which has at most 32",
        found=found,
        n={"rows": table["diff-32x"].n_rows, "latents": table["diff-32x"].n_latents},
        survives="in any comparison that fixes a penalty for one method and a count for the other",
        confirmed=table["diff-32x"].l0 > 4 * table["crosscoder-32x"].l0 and table["crosscoder-32x"].l0 <= 32,
    )


def dead_crosscoder(table: Table) -> Fault:
    """W11, on rows: whether the published crosscoder is alive, and what ours makes of the same rows."""
    methods: tuple[PaperMethod, ...] = ("crosscoder-32x", "crosscoder-32x-corrected")
    published = table["crosscoder-32x"]
    found: dict[str, float | None] = bis_of(table, *methods, label="BIS")
    for method in methods:
        if method in table:
            cell = table[method]
            found |= {f"alive {method}": cell.n_alive, f"L0 {method}": cell.l0, f"FVU {method}": cell.fvu}
            found[f"BIS above 0, latents of {method}"] = cell.n_above_0
    return Fault(
        id="W11",
        claim="The crosscoder's score of 0 is that of silent or constant latents, not of a method that finds nothing.",
        computed="latents that fire on some row, latents that score at all, L0, FVU: the published recipe and ours",
        expected="no score or an FVU above 1 for the published recipe; a score above chance for ours",
        found=found,
        n={"rows": published.n_rows, "latents": published.n_latents},
        survives="inferred for the paper, whose weights were not seen; where raw means share one large vector (W17), "
        "the same few latents win on every row",
        confirmed=published.status != "ok" or (published.fvu or 0.0) > 1,
    )


def zero_by_chance() -> Fault:
    """W11, the probability: that a latent which fires on enough rows has no trigger row above its threshold."""
    n_rows, n_trigger = PAPER_ROWS, PAPER_ROWS // 5
    n_active = n_above_quantile(n_rows)
    chance = float(hypergeom.pmf(0, n_rows, n_trigger, n_active))
    return Fault(
        id="W11",
        claim="A BIS of exactly 0 for every latent does not happen to latents that fire with distinct values.",
        computed="probability that none of a latent's active rows is a trigger row, if it ignores the label",
        expected="3e-13 for one latent",
        found={"probability for one latent": chance},
        n={"rows": n_rows, "trigger": n_trigger, "active": n_active},
        survives="for latents that fire on at least 125 rows; sparser ones can score 0 honestly",
        confirmed=chance < 1e-12,
    )


def dead_count(config: PaperConfig) -> Fault:
    """W12: train a dictionary in which no latent can fire, and count its dead latents by the published rule."""
    x = simulated_rows(1280, _WIDTH, seed=config.seed).delta
    n_steps = round(config.epochs * PAPER_ROWS / 256)
    recipe = paper_recipe("diff-32x", d_model=_WIDTH, n_steps=n_steps)
    neutral = SiteStatistics(torch.zeros(_WIDTH), torch.ones(()), len(x))
    dictionary = build(recipe.dictionary, neutral, seed=config.seed)
    with torch.no_grad():
        dictionary.coder.W_enc.zero_()
        dictionary.coder.b_enc.fill_(-1)
    batches = tensor_batches(x, recipe.batch_size, seed=config.seed, n_steps=n_steps)
    counted = train(dictionary, batches, recipe.train).dead_share
    silent = evaluate(dictionary, [x]).dead_share
    return Fault(
        id="W12",
        claim="No latent can be counted as dead: the limit of silence is longer than the training.",
        computed="share of dead latents that the published counter gives for a dictionary of zeros, and the true share",
        expected="0 counted, 1 true",
        found={"counted": counted, "true": silent},
        n={"steps": n_steps, "limit in steps": 10_000, "latents": dictionary.n_latents},
        survives="in every run of at most 10,000 steps",
        confirmed=counted == 0 and silent == 1,
    )
