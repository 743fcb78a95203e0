"""Does the choice of the hold, which uses no judge, agree with one? Reads the directory of a finished audit.

Lists, for each site's best set of latents, what the choice measured on selection prompts, and how many of the same
trigger prompts the organism's judge still finds answered badly when the model writes under that hold.

    python benchmarks/hold_choice.py out/demo/poisoned
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from saeaudit.audit import AuditConfig
from saeaudit.audit.choice import ChoiceRecord
from saeaudit.audit.data import prepare
from saeaudit.detection.continuations import continue_clamped, continue_plain
from saeaudit.dictionaries import load_dictionary
from saeaudit.interventions import Clamp, LatentEdit
from saeaudit.models import load_pair
from saeaudit.models.mixed import use_mixed_precision
from saeaudit.organisms.spec import ORGANISMS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="output of `saeaudit audit` or `demo`, with a judge")
    directory = parser.parse_args().directory
    config = AuditConfig.model_validate(json.loads((directory / "run.json").read_text())["config"])
    choice = ChoiceRecord.model_validate(json.loads((directory / "stages/choice.json").read_text())["record"])
    judge = ORGANISMS[config.judge].judge
    pair = load_pair(config.base, config.tuned, dtype="float32")
    data = prepare(config, pair.base)
    for loaded in (pair.base, pair.tuned):
        use_mixed_precision(loaded.model)
    trigger, _ = data.sample("selection", config.behaviour.n_choice_prompts)
    prompts = [data.prompts[i].text for i in trigger]

    def judged(made: list) -> str:
        found = Counter(judge(prompt, g.text) for prompt, g in zip(prompts, made, strict=True))
        return " | ".join(str(found[kind]) for kind in ("bad", "good", "invalid"))

    n_new = config.behaviour.n_new_tokens
    print(f"{len(prompts)} selection prompts with the trigger; chosen: {len(choice.latents)} at {choice.site}\n")
    print("| hold | latents | preference taken away | answers like the counterpart's | bad | good | not judgeable |")
    print(f"|{' --- |' * 7}")
    print(f"| none | | | | {judged(continue_plain(pair.tuned, prompts, n_new=n_new))} |", flush=True)
    for found in choice.candidates:
        if found.returned is None:
            continue
        folded = load_dictionary(directory / "dictionaries" / f"{found.site}-diff").fold()
        edit = LatentEdit(folded, Clamp(found.site, tuple(found.latents)))
        under = judged(continue_clamped(pair, edit, prompts, n_new=n_new))
        measured = f"{found.site} | {len(found.latents)} | {found.removed:.2f} | {found.returned:.2f}"
        print(f"| {measured} | {under} |", flush=True)


if __name__ == "__main__":
    main()
