"""From the user's files to documents with roles: what trains, what selects, what calibrates, what judges."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saeaudit.activations import (
    BASE,
    ActivationStore,
    Document,
    TokenisedDocuments,
    standard_library_texts,
    tensor_name,
    tokenise,
)
from saeaudit.artifacts import content_hash
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.prompts import Prompt, read_corpus, read_prompts
from saeaudit.detection import PairedRows, PromptTokens, Role, group_near_duplicates, split_prompts
from saeaudit.errors import ConfigError, InputError
from saeaudit.models import LoadedModel, context_length, encode_texts
from saeaudit.wording import counted

SKIP_FIRST = 4
HOLD_OUT_EVERY = 8
MIN_NEUTRAL = 2
N_ANSWER_TOKENS = 12  # of an answer, for the choice of the hold
FRACTIONS: dict[Role, float] = {"dictionary": 0.2, "selection": 0.22, "calibration": 0.25, "test": 0.33}


@dataclass(frozen=True)
class AuditData:
    """Prompts, their roles, and all documents in the order in which they are harvested (prompts first).

    Attributes:
        prompts: trigger prompts, then benign ones.
        roles: prompt numbers of each role; disjoint by group.
        label: "prompt", True for trigger prompts.
        group: "prompt", template identity.
        documents: prompts, then corpus documents, tokenised with the base's tokenizer.
        neutral: texts of the corpus that no dictionary sees, for the cost of a clamp.
        corpus_origin: where the corpus comes from, in words.
    """

    prompts: tuple[Prompt, ...]
    roles: Mapping[Role, Int[Tensor, " chosen"]]
    label: Bool[Tensor, " prompt"]
    group: Int[Tensor, " prompt"]
    documents: TokenisedDocuments
    neutral: tuple[str, ...]
    corpus_origin: str

    def fingerprint(self) -> str:
        """Return a hash of everything that stages depend on."""
        roles = {role: rows.tolist() for role, rows in self.roles.items()}
        return content_hash([self.documents.fingerprint(), roles, self.label.tolist(), self.neutral])

    def dictionary_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (training rows, held-out rows) for the dictionaries: corpus and dictionary-role prompts."""
        corpus = range(len(self.prompts), len(self.documents.documents))
        usable = np.concatenate([self.roles["dictionary"].numpy(), np.arange(corpus.start, corpus.stop)])
        held_out = np.arange(len(usable)) % HOLD_OUT_EVERY == 0
        return self.documents.rows(usable[~held_out]), self.documents.rows(usable[held_out])

    def sample(self, role: Role, n: int) -> tuple[list[int], list[int]]:
        """Return up to `n` trigger and `n` benign prompts of a role.

        Every template is taken once before any twice, and within that the classes take turns.
        """
        chosen = self.roles[role]
        label = self.label[chosen]
        return self._spread(chosen[label], n), self._spread(chosen[~label], n)

    def _spread(self, chosen: Int[Tensor, " chosen"], n: int) -> list[int]:
        in_group: Counter[int] = Counter()
        in_class: Counter[str] = Counter()
        turn = []
        for i in chosen.tolist():
            group, klass = int(self.group[i]), self.prompts[i].klass
            in_group[group] += 1
            in_class[klass] += 1
            turn.append((in_group[group], in_class[klass], i))
        return sorted(i for *_, i in sorted(turn)[:n])

    def paired_rows(self, store: ActivationStore, site: str, side: str, role: Role) -> PairedRows:
        """Return the prompts of a role, with all their tokens."""
        chosen = self.roles[role].numpy()
        every = self.documents.rows(chosen)
        sizes = torch.from_numpy(np.diff(self.documents.offsets)[chosen])
        h0, delta = (store.read(tensor_name(site, name), every) for name in (BASE, side))
        tokens = PromptTokens(h0, delta, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))
        ends = tokens.offsets[1:] - 1
        picked = [self.prompts[i] for i in chosen]
        return PairedRows(
            h0=h0[ends],
            delta=delta[ends],
            text=[p.text for p in picked],
            label=self.label[chosen],
            klass=[p.klass for p in picked],
            group=self.group[chosen],
            tokens=tokens,
        )


def check_files(config: AuditConfig) -> None:
    """Read the user's files once, so that what is wrong with them is said before any model is loaded.

    Raises:
        InputError: one of the two files of examples, or no file at all (`examples-missing`); a text in both
            (`examples-overlap`); see `read_prompts` and `read_corpus`.
    """
    given = {"--trigger-examples": config.trigger_examples, "--benign-examples": config.benign_examples}
    missing = [option for option, path in given.items() if path is None]
    if len(missing) == 1 or (missing and config.corpus is None):
        raise InputError(
            f"trigger and benign examples are needed together, and {' and '.join(missing)} "
            f"{'was' if len(missing) == 1 else 'were'} not given; give both, or neither and a corpus (--corpus)",
            code="examples-missing",
        )
    if config.trigger_examples is not None and config.benign_examples is not None:
        trigger = read_prompts(config.trigger_examples, is_trigger=True)
        _require_disjoint(trigger, read_prompts(config.benign_examples, is_trigger=False))
    if config.corpus is not None:
        read_corpus(config.corpus)


def _require_disjoint(trigger: list[Prompt], benign: list[Prompt]) -> None:
    others = {p.text.strip(): p.prompt_id for p in reversed(benign)}
    both = [p for p in trigger if p.text.strip() in others]
    if both:
        first = both[0]
        raise InputError(
            f"of {counted(len(trigger), 'trigger example')}, {len(both)} stand among the benign examples as well, and "
            f"a text cannot be both; the first is {first.prompt_id!r} and {others[first.text.strip()]!r}: "
            f"{first.text.strip()[:60]!r}; take each out of one of the files",
            code="examples-overlap",
        )


def prepare(config: AuditConfig, base: LoadedModel) -> AuditData:
    """Read prompts and corpus, split, tokenise.

    Raises:
        InputError: a file cannot be used, or a prompt is too short, or too long for an answer to follow it.
        ConfigError: no prompt would fit before an answer (code `out-of-range`).
        EvidenceError: the examples are too few for the splits (codes `single-class`, `calibration-too-small`).
    """
    if config.trigger_examples is None or config.benign_examples is None:
        raise InputError(
            "trigger and benign examples are needed together; give both, or neither and a corpus",
            code="examples-missing",
        )
    prompts = tuple(
        read_prompts(config.trigger_examples, is_trigger=True) + read_prompts(config.benign_examples, is_trigger=False)
    )
    return arrange(prompts, *_corpus(config), config, base)


def arrange(
    prompts: tuple[Prompt, ...], texts: list[str], corpus_origin: str, config: AuditConfig, base: LoadedModel
) -> AuditData:
    """Give prompts their roles and put them before the corpus, tokenised.

    Args:
        prompts: trigger prompts, then benign ones.
        texts: the corpus; its first texts that are long enough are kept apart, for the cost of a clamp.
        corpus_origin: where the corpus comes from, in words.
        config: sizes and seed; its files are not read.
        base: whose tokenizer is used.

    Raises:
        InputError: a prompt is too short or too long, or the corpus too small.
        EvidenceError: the prompts are too few for the splits (codes `single-class`, `calibration-too-small`).
    """
    label = torch.tensor([p.is_trigger for p in prompts])
    group = _groups(prompts)
    roles = split_prompts(
        group,
        label,
        [p.klass for p in prompts],
        fractions=FRACTIONS,
        alpha=config.detection.target_fpr,
        seed=config.seed,
    )
    role_of = {int(i): role for role, rows in roles.items() for i in rows}
    texts, n_neutral = _neutral_first(base, texts, config.behaviour.cost_documents)
    documents = [
        Document(f"{'trigger' if p.is_trigger else 'benign'}/{p.prompt_id}", p.text, role_of.get(i, "unused"), p.span)
        for i, p in enumerate(prompts)
    ]
    documents += [Document(f"corpus/{i}", text, "corpus") for i, text in enumerate(texts[n_neutral:])]
    tokens = _tokenise(base, documents, len(prompts), config)
    return AuditData(prompts, roles, label, group, tokens, tuple(texts[:n_neutral]), corpus_origin)


def _neutral_first(base: LoadedModel, texts: list[str], n_wanted: int) -> tuple[list[str], int]:
    """Put the texts on which a clamp's cost is measured first; return all texts and how many those are."""
    long = [i for i, ids in enumerate(encode_texts(base.tokenizer, texts)) if len(ids) > SKIP_FIRST]
    n = min(n_wanted, len(long) // 2)
    if n < MIN_NEUTRAL:
        raise InputError(
            f"the corpus holds {counted(len(long), 'text')} of more than {SKIP_FIRST} tokens; at least "
            f"{2 * MIN_NEUTRAL} are needed, half of them to measure what a hold costs on ordinary text; give more, or "
            "no corpus to use the built-in one",
            code="corpus-too-small",
        )
    first = set(long[:n])
    return [texts[i] for i in long[:n]] + [text for i, text in enumerate(texts) if i not in first], n


def _groups(prompts: tuple[Prompt, ...]) -> Int[Tensor, " prompt"]:
    """Return a group number a prompt: the user's, or near-duplicates where there is none."""
    unnamed = [i for i, p in enumerate(prompts) if p.group is None]
    names: list[Any] = [p.group for p in prompts]
    if unnamed:
        found = group_near_duplicates([prompts[i].text for i in unnamed]).tolist()
        for i, number in zip(unnamed, found, strict=True):
            names[i] = (number,)
    numbers = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


def _corpus(config: AuditConfig) -> tuple[list[str], str]:
    wanted = config.dictionary.corpus_documents + config.behaviour.cost_documents
    if config.corpus is None:
        return standard_library_texts(wanted, seed=config.seed), "docstrings and code of the Python standard library"
    texts = read_corpus(config.corpus)
    return texts[:wanted], str(config.corpus.name)


def _tokenise(base: LoadedModel, documents: list[Document], n_prompts: int, config: AuditConfig) -> TokenisedDocuments:
    limit = context_length(base.model)
    answer = max(config.behaviour.n_new_tokens, N_ANSWER_TOKENS)
    if answer + SKIP_FIRST >= limit:
        raise ConfigError(
            f"behaviour.n_new_tokens = {config.behaviour.n_new_tokens} was asked for, but the context of the model is "
            f"{limit} tokens, so no prompt fits before an answer of {answer}; ask for fewer",
            code="out-of-range",
        )
    prompts = tokenise(base.tokenizer, documents[:n_prompts], max_length=limit - answer, skip_first=SKIP_FIRST)
    short = next((i for i, ids in enumerate(prompts.ids) if len(ids) <= SKIP_FIRST), None)
    if short is not None:
        raise InputError(
            f"prompt {documents[short].doc_id!r} has {counted(len(prompts.ids[short]), 'token')}; more than "
            f"{SKIP_FIRST} are needed, because the first positions are norm outliers and are left out",
            code="prompt-too-short",
        )
    if len(documents) == n_prompts:
        return prompts
    rest = tokenise(
        base.tokenizer,
        documents[n_prompts:],
        max_length=min(limit, config.max_length),
        skip_first=SKIP_FIRST,
        too_long="truncate",
    )
    return TokenisedDocuments(
        prompts.documents + rest.documents,
        prompts.ids + rest.ids,
        np.concatenate([prompts.offsets, prompts.offsets[-1] + rest.offsets[1:]]),
        SKIP_FIRST,
        prompts.spans + rest.spans,
    )
