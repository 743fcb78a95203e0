"""Rows to train on: residuals of the embedded model on neutral text, in one .npy file that every library can map."""

import tempfile
from pathlib import Path

import numpy as np

from saeaudit.activations import BASE, Document, harvest, standard_library_texts, tensor_name, tokenise
from saeaudit.models import load_model, site_name
from saeaudit.models.mixed import use_mixed_precision
from saeaudit.models.precision import cpu_has_bfloat16

MAX_LENGTH = 512
ROWS_A_TEXT = 100


def write_rows(path: Path, n_rows: int, *, layer: int) -> None:
    """Write "row d_model" in float32, in the order of the texts, so that the last rows are of texts of their own."""
    base = load_model("embedded", dtype="float32")
    if cpu_has_bfloat16():
        use_mixed_precision(base.model)
    texts = standard_library_texts(n_rows // ROWS_A_TEXT, seed=0)
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    tokens = tokenise(base.tokenizer, documents, max_length=MAX_LENGTH, too_long="truncate")
    site = site_name(layer)
    with tempfile.TemporaryDirectory() as directory:
        store = harvest({BASE: base}, tokens, [site], out=Path(directory) / "store")
        rows = store.read(tensor_name(site, BASE))[:n_rows].float().numpy()
    if len(rows) < n_rows:
        raise SystemExit(f"{n_rows} rows were asked, the neutral texts of this Python have {len(rows)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows)
