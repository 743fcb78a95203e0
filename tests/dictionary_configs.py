"""Settings of a dictionary of 20 latents: every sparsity rule, and every loss that a config can ask for."""

RULES = {
    "batchtopk": {},
    "topk": {"sparsity": "topk"},
    "matryoshka": {"sparsity": "matryoshka", "prefixes": (3, 9, 20)},
    "relu": {"sparsity": "relu", "k": None},
    "gated": {"sparsity": "gated", "k": None},
    "jumprelu": {"sparsity": "jumprelu", "k": None},
}
KINDS_AND_RULES = [
    (kind, rule) for kind in ("sae", "diff", "crosscoder") for rule in RULES if (kind, rule) != ("crosscoder", "gated")
]

AUX = {"aux_alpha": 0.5, "aux_k": 4}
PENALTY = {"penalty": {"weight": 0.7, "warmup": 0.1}}
JUMP = {"penalty": "step", "threshold": 0.5, "bandwidth": 0.8, "straight_through": False}
FOUR = [
    {"n_latents": 6, "layout": "shared", "k": 1, "penalty_factor": 0.2},
    {"n_latents": 4, "layout": "base", "k": 1, "penalty_factor": 1.0},
    {"n_latents": 3, "layout": "tuned", "k": 1, "penalty_factor": 2.0},
    {"n_latents": 7, "layout": "free", "k": 2, "penalty_factor": 0.5},
]
NO_K = [{**part, "k": None} for part in FOUR]
TWO = [
    {"n_latents": 12, "k": 2},
    {"n_latents": 8, "k": 1, "explains_difference": True},
]


def jump(**changes):
    return {**RULES["jumprelu"], **PENALTY, "jumprelu": {**JUMP, **changes}}


CASES = {
    "topk": ("sae", {**RULES["topk"], **AUX}),
    "topk diff": ("diff", {**RULES["topk"], **AUX}),
    "topk crosscoder": ("crosscoder", {**RULES["topk"], **AUX}),
    "topk with a decoder bias before encoding": ("diff", {**RULES["topk"], **AUX, "published": {"pre_bias": True}}),
    "topk and L1, tied, as published": (
        "crosscoder",
        {
            **RULES["topk"],
            **PENALTY,
            "aux_alpha": 0.0,
            "crosscoder": {"score": "none"},
            "published": {"tied": "free", "plain_penalty": True},
        },
    ),
    "mean squared error": ("sae", {"aux_alpha": 0.0, "published": {"recon": "mse"}}),
    "mean norm of the error": ("diff", {"aux_alpha": 0.0, "published": {"recon": "l2norm"}}),
    "matryoshka": ("sae", {**RULES["matryoshka"], **AUX}),
    "matryoshka diff": ("diff", {**RULES["matryoshka"], **AUX}),
    "matryoshka crosscoder": ("crosscoder", {**RULES["matryoshka"], **AUX}),
    "relu": ("sae", {**RULES["relu"], **PENALTY}),
    "relu diff": ("diff", {**RULES["relu"], **PENALTY}),
    "relu crosscoder": ("crosscoder", {**RULES["relu"], **PENALTY}),
    "relu with a decoder bias before encoding": ("sae", {**RULES["relu"], **PENALTY, "published": {"pre_bias": True}}),
    "ghost of 2024": ("sae", {**RULES["relu"], **PENALTY, "published": {"ghost": "2024"}}),
    "ghost of diffsae": (
        "diff",
        {**RULES["relu"], **PENALTY, "published": {"ghost": "diffsae", "tied": "columns", "plain_penalty": True}},
    ),
    "tied rows": ("sae", {**RULES["relu"], **PENALTY, "published": {"tied": "rows"}}),
    "gated": ("sae", {**RULES["gated"], **PENALTY}),
    "gated diff": ("diff", {**RULES["gated"], **PENALTY}),
    "gated with a decoder bias before encoding": (
        "diff",
        {**RULES["gated"], **PENALTY, "published": {"pre_bias": True}},
    ),
    "jumprelu": ("sae", jump()),
    "jumprelu diff": ("diff", jump(straight_through=True)),
    "jumprelu crosscoder": ("crosscoder", jump()),
    "jumprelu quadratic": ("sae", jump(penalty="quadratic") | {"k": 4}),
    "jumprelu tanh": ("crosscoder", jump(penalty="tanh", straight_through=True)),
    "jumprelu revived": ("crosscoder", jump(penalty="tanh", revive=0.3)),
    "score of both rows": ("crosscoder", {**AUX, "crosscoder": {"score": "concat"}}),
    "mixed score": ("crosscoder", {**AUX, "crosscoder": {"score": "mixed"}}),
    "score of the value alone": ("crosscoder", {**AUX, "crosscoder": {"score": "none"}}),
    "layouts": ("crosscoder", {**AUX, "k": 5, "crosscoder": {"ranges": FOUR}}),
    "layouts under L1": ("crosscoder", {**RULES["relu"], **PENALTY, "crosscoder": {"ranges": NO_K}}),
    "delta": ("crosscoder", {**AUX, "crosscoder": {"ranges": TWO, "difference": 0.8}}),
    "bridge": ("crosscoder", {**AUX, "crosscoder": {"bridge": -0.6}}),
    "difference only": ("crosscoder", {**RULES["topk"], **AUX, "crosscoder": {"bridge": -1.0}}),
}
