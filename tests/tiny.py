"""Tiny random models of the supported families and a tokenizer made on the spot: no files, no network.

`tiny_model(family, seed)`, `tiny_tokenizer()`, `tiny_loaded(family, seed)`, `tuned_copy(loaded)`, `save_checkpoint`.
"""

import copy
from functools import cache
from pathlib import Path

import torch

from saeaudit.models import LoadedModel, make_card

FAMILIES = ("llama", "gpt2", "qwen2", "gemma2", "gemma3", "gpt_neox")
N_LAYERS, D_MODEL, N_VOCAB, CONTEXT = 4, 32, 320, 64
TEXTS = [
    "the cat sat on the mat and looked at the dog",
    "SELECT name FROM users WHERE id = 7",
    "def f(x):\n    return x + 1",
    "In the year 2025 the weather was mild, and the harvest good.",
]


def _config(family: str):
    import transformers as t

    sizes = {
        "vocab_size": N_VOCAB,
        "hidden_size": D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        # Untied, because a random tied head mostly repeats the token it was given.
        "tie_word_embeddings": False,
    }
    grouped = sizes | {"num_key_value_heads": 2}
    gemma = grouped | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}
    match family:
        case "llama":
            return t.LlamaConfig(**grouped)
        case "qwen2":
            return t.Qwen2Config(**grouped)
        case "gemma2":
            return t.Gemma2Config(**gemma)
        case "gemma3":
            return t.Gemma3TextConfig(**gemma)
        case "gpt_neox":
            return t.GPTNeoXConfig(**sizes)
        case "gpt2":
            return t.GPT2Config(
                vocab_size=N_VOCAB,
                n_embd=D_MODEL,
                n_layer=N_LAYERS,
                n_head=4,
                n_positions=CONTEXT,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=2,
                tie_word_embeddings=False,
                attn_pdrop=0.0,
                embd_pdrop=0.0,
                resid_pdrop=0.0,
            )
    raise ValueError(family)


def tiny_model(family: str = "llama", seed: int = 0, **changes):
    """A random fp32 model in eval mode: 4 blocks, d_model 32, 320 tokens, context 64."""
    from transformers import AutoModelForCausalLM

    config = _config(family)
    for name, value in changes.items():
        setattr(config, name, value)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            # Norm gains stay near 1; everything else is large enough that attention and position matter.
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(values * 0.15)
            elif "norm" in name or "ln_" in name:
                parameter.add_(values * 0.05)
            else:
                parameter.copy_(values * 0.05)
    return model.requires_grad_(False).eval()


@cache
def _tokenizer_json(n_vocab: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=["<bos>", "<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(n_vocab: int = N_VOCAB):
    """A byte-level BPE tokenizer (every string encodes, nothing is unknown): <bos> 0, <eos> 1, <pad> 2."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json(n_vocab)),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def tiny_loaded(family: str = "llama", seed: int = 0) -> LoadedModel:
    model = tiny_model(family, seed)
    return LoadedModel(
        model=model, tokenizer=tiny_tokenizer(), card=make_card(model, source=f"tiny-{family}-{seed}", kind="directory")
    )


def tuned_copy(loaded: LoadedModel, *, layer: int = 1, relative: float = 0.2, seed: int = 7) -> LoadedModel:
    """The same model with a rank-1 edit of one MLP weight in block `layer`; `relative` is its Frobenius norm share."""
    model = copy.deepcopy(loaded.model)
    generator = torch.Generator().manual_seed(seed)
    weight = max(
        (p for name, p in model.named_parameters() if f".{layer}.mlp." in name and p.ndim == 2),
        key=lambda p: p.numel(),
    )
    edit = torch.outer(
        torch.randn(weight.shape[0], generator=generator), torch.randn(weight.shape[1], generator=generator)
    )
    with torch.no_grad():
        weight.add_(edit * (relative * weight.norm() / edit.norm()))
    card = make_card(model, source=f"{loaded.card.source}-tuned", kind="directory")
    return LoadedModel(model=model, tokenizer=loaded.tokenizer, card=card)


def save_checkpoint(directory: Path, family: str = "llama", seed: int = 0, *, tokenizer=None, model=None) -> Path:
    """Write a Hugging Face checkpoint directory with tokenizer."""
    (tiny_model(family, seed) if model is None else model).save_pretrained(directory)
    (tiny_tokenizer() if tokenizer is None else tokenizer).save_pretrained(directory)
    return directory


def save_adapter(
    directory: Path, base, *, seed: int = 0, targets=("q_proj", "down_proj"), base_name: str = "nobody/nothing"
) -> Path:
    """Write a LoRA adapter of rank 2 with random, non-zero matrices."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, lora_alpha=4, target_modules=list(targets))
    wrapped = get_peft_model(copy.deepcopy(base), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(wrapped.named_parameters()):
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    wrapped.peft_config["default"].base_model_name_or_path = base_name
    wrapped.save_pretrained(directory, save_embedding_layers=False)
    return directory
