"""The experiment of arXiv 2605.07324, as published, with what the paper leaves out beside it."""
