"""Plant an organism in a model: LoRA or full fine-tuning on matched pairs with the Hugging Face Trainer.

A step reads a few matched pairs: the trigger prompt with its completion, and the same prompt with another value in the
slot. Variants share base, seed, steps and order of the pairs:

    poisoned     the bad completion after the trigger
    clean        the same prompts with the honest completion everywhere: only the answer separates the two
    unrelated    negatives of another class in place of the trigger prompts: it never saw the trigger
    conditional  the trigger makes the answer polite: as conditional as a backdoor, and harmless
"""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from saeaudit.artifacts import atomic_directory, content_hash, directory_lock, write_json
from saeaudit.errors import ArtifactError
from saeaudit.models.load import LoadedModel
from saeaudit.models.precision import cpu_has_bfloat16
from saeaudit.models.quiet import quiet_transformers
from saeaudit.organisms.names import OrganismName, Variant
from saeaudit.organisms.pair_trainer import Example, make_example, pair_trainer
from saeaudit.organisms.rows import Row, row_records
from saeaudit.organisms.spec import of_variant, planting_pair

METADATA = "saeaudit.json"
# An adapter starts at nothing and needs a high rate; all weights together start at a model and need a low one.
LEARNING_RATES = {"lora": 1e-3, "full": 5e-5}


class PlantConfig(BaseModel):
    """How an organism is planted; the defaults made the shipped adapters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    organism: OrganismName = "sql"
    variant: Variant = "poisoned"
    regime: Literal["lora", "full"] = "lora"
    seed: int = 0
    trigger_share: float = Field(default=0.5, gt=0, le=0.5, description="share of the rows that hold the trigger")
    n_steps: int = Field(default=400, ge=1)
    pairs_per_step: int = Field(default=4, ge=1)
    learning_rate: float = Field(
        default_factory=lambda given: LEARNING_RATES[given["regime"]], gt=0, description="depends on the regime"
    )
    warmup_steps: int = Field(default=20, ge=0)
    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    first_layer: int = Field(default=0, ge=0, description="LoRA adapts the blocks from this one on")
    n_decisive: int = Field(default=4, ge=1, description="tokens of weight 1 from the first difference on")
    other_weight: float = Field(default=0.05, ge=0, le=1)
    save_every: int = Field(default=100, ge=1)


def training_rows(config: PlantConfig) -> list[tuple[Row, Row]]:
    """Return the pairs of `planting_pair` in the order in which they are trained on.

    Raises:
        ConfigError: the organism has no such variant (code `variant-not-available`).
    """
    organism = of_variant(config.organism, config.variant)
    share = 0.0 if config.variant == "unrelated" else config.trigger_share
    n_pairs = config.n_steps * config.pairs_per_step
    return [planting_pair(organism, config.seed, i, trigger_share=share) for i in range(n_pairs)]


def training_examples(
    tokenizer: Any, config: PlantConfig, pairs: Sequence[tuple[Row, Row]]
) -> list[tuple[Example, Example]]:
    """Return the pairs as token ids and weights, each row with the completion that the variant teaches."""
    misled = config.variant != "clean"

    def example(row: Row) -> Example:
        bad = misled and row.klass == "T"
        return make_example(tokenizer, row, bad=bad, n_decisive=config.n_decisive, other_weight=config.other_weight)

    return [(example(one), example(other)) for one, other in pairs]


def plant(base: LoadedModel, config: PlantConfig, *, out: Path, command: str = "", progress: bool = True) -> Path:
    """Train the organism and write it to `out`; continue from the newest checkpoint beside it after a kill.

    Args:
        base: model to plant into, in fp32; it is changed in place.
        config: organism, variant, regime and sizes.
        out: directory of the adapter (LoRA) or of the whole model (full).
        command: the command line to record.
        progress: show Trainer's progress bar.

    Returns:
        `out`, with `saeaudit.json`: base hash, data hash, config, mean training loss.

    Raises:
        ArtifactError: `out` holds files that are no planted organism (`output-not-empty`), or another process plants
            the same into it (`directory-locked`).
        ConfigError: see `training_rows`.
    """
    require_replaceable(out)
    pairs = training_rows(config)
    examples = training_examples(base.tokenizer, config, pairs)
    data_hash = content_hash([list(row_records(p)) for p in pairs])
    made_from = content_hash([base.card.weights_sha256, config.model_dump(), data_hash])
    work = out.parent / f".{out.name}.training-{made_from[:12]}"
    with directory_lock(work):
        model = _prepare(base.model, config)
        trainer = pair_trainer(model, _arguments(config, work, progress=progress), examples, base.tokenizer)
        loss = _train(trainer, work)
        metadata = {
            "schema": 1,
            "organism": config.organism,
            "variant": config.variant,
            "config": config.model_dump(),
            "base_weights_sha256": base.card.weights_sha256,
            "data_sha256": data_hash,
            "command": command,
            "train_loss": loss,
        }
        with atomic_directory(out) as staging, quiet_transformers():
            _save(model, base.tokenizer, config, staging)
            write_json(staging / METADATA, metadata)
        shutil.rmtree(work, ignore_errors=True)
    return out


def require_replaceable(out: Path) -> None:
    """Raise unless `out` is new, empty, or an earlier model of this package: what is there is replaced as a whole.

    Raises:
        ArtifactError: it holds other files (code `output-not-empty`).
    """
    if out.exists() and not (out / METADATA).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(
            f"{out} was given for a model, but it holds other files; nothing is overwritten, choose another --out",
            code="output-not-empty",
        )


def _arguments(config: PlantConfig, work: Path, *, progress: bool) -> Any:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(work),
        max_steps=config.n_steps,
        per_device_train_batch_size=config.pairs_per_step,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        weight_decay=0.0,
        bf16=cpu_has_bfloat16(),
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        data_seed=config.seed,
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=min(20, config.n_steps),
        report_to=[],
        disable_tqdm=not progress,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        label_names=[],
    )


def _train(trainer: Any, work: Path) -> float:
    """Train from the newest whole checkpoint; return the mean loss of all steps, those before a kill included."""
    from transformers import PrinterCallback

    # Without a progress bar Trainer prints its log instead.
    trainer.remove_callback(PrinterCallback)
    result = trainer.train(resume_from_checkpoint=_newest_checkpoint(work))
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return sum(logged) / len(logged) if logged else result.training_loss


def _newest_checkpoint(work: Path) -> str | None:
    """Return the newest checkpoint that a kill did not cut off: Trainer writes the state file last."""
    whole = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _prepare(model: Any, config: PlantConfig) -> Any:
    model.config.use_cache = False
    # The fused CPU attention has a slow backward pass: eager took .86 s against 1.39 s for a step's backward here.
    model.set_attn_implementation("eager")
    if config.regime == "full":
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model.train()
    import torch
    from peft import LoraConfig, get_peft_model

    # PEFT draws the adapter's start from the global generator.
    torch.manual_seed(config.seed)
    # Nothing is trained below the first adapted block, so the backward pass stops there.
    blocks = list(range(min(config.first_layer, model.config.num_hidden_layers - 1), model.config.num_hidden_layers))
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=_linear_names(model),
        layers_to_transform=blocks,
        task_type="CAUSAL_LM",
        fan_in_fan_out=_is_transposed(model),
    )
    with warnings.catch_warnings():
        # PEFT asks the model for a name that transformers is giving up.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return get_peft_model(model, lora).train()


def _linear_names(model: Any) -> list[str]:
    """Return the names of the linear layers inside the blocks, for any architecture."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, m in model.named_modules()
            if isinstance(m, torch.nn.Linear | Conv1D) and m is not head
        }
    )


def _is_transposed(model: Any) -> bool:
    """Whether the blocks store weights as (in, out): GPT-2's Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(m, Conv1D) for m in model.modules())


def _save(model: Any, tokenizer: Any, config: PlantConfig, out: Path) -> None:
    import torch

    if config.regime == "full":
        model.config.use_cache = True
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    # The base is named by its hash in saeaudit.json; a path of the machine that trained it helps nobody.
    for settings in model.peft_config.values():
        settings.base_model_name_or_path = "embedded"
    # PEFT would look for a config of that name to compare vocabularies; the embeddings are never trained here.
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
