"""Does what was found carry the behaviour? Ablation and steering, beside controls moved exactly as far."""
