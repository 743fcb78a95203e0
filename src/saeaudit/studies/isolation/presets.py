"""The sizes in which the study comes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from saeaudit.audit.config import BehaviourSizes, DetectionSizes, DictionarySizes
from saeaudit.studies.isolation.config import Audited, IsolationConfig
from saeaudit.studies.isolation.paper.config import PaperStudy

PresetName = Literal["smoke", "zoo", "standard", "paper"]

_SMALL = DictionarySizes(expansion=4, k=8, n_samples=100_000, batch_size=512, corpus_documents=400)
_SMALL_ANSWERS = BehaviourSizes(n_new_tokens=16, n_choice_prompts=24, clamp_counts=(4, 16, 64, 128))
_RULES = ("batchtopk", "topk", "matryoshka", "relu", "gated", "jumprelu")
_EVERY = tuple(f"{kind}-{rule}" for kind in ("diff", "crosscoder") for rule in _RULES)

PRESETS: Mapping[PresetName, IsolationConfig] = MappingProxyType(
    {
        # Minutes: it shows that every part works; its numbers are no evidence.
        "smoke": IsolationConfig(
            base="small",
            is_evidence=False,
            families=("token",),
            layers=(2,),
            dictionary=_SMALL,
            detection=DetectionSizes(n_random_bases=20, n_shuffles=100),
            behaviour=_SMALL_ANSWERS.model_copy(update={"n_prompts": 12}),
            causal=("diff-batchtopk", "directions"),
            paper=PaperStudy(),
        ),
        # Every family on the small model, two seeds each, and the false alarms of whole audits.
        "zoo": IsolationConfig(
            base="small",
            families=("token", "phrase", "conjunction", "style", "year"),
            variants=("poisoned", "clean", "unrelated", "conditional"),
            model_seeds=(0, 1),
            layers=(1, 2),
            dictionaries=_EVERY,
            n_verify=200,
            dictionary=_SMALL,
            detection=DetectionSizes(n_random_bases=100),
            behaviour=_SMALL_ANSWERS,
            causal=("diff-batchtopk", "crosscoder-batchtopk", "directions"),
            alarms=Audited(clean=60, conditional=10, poisoned=10),
        ),
        # The shipped adapters of the embedded model, every dictionary.
        "standard": IsolationConfig(
            base="embedded",
            families=("sql", "phrase"),
            layers=(9, 13, 17, 21),
            dictionaries=_EVERY,
            detection=DetectionSizes(n_random_bases=200),
            causal=("diff-batchtopk", "crosscoder-batchtopk", "directions"),
        ),
        # The experiment as published, and what is wrong with it.
        "paper": IsolationConfig(base="embedded", families=(), paper=PaperStudy(layers=(13, 17, 21, 24))),
    }
)
