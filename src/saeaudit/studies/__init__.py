"""Studies: experiments over many organisms, and what is wrong with published ones."""
