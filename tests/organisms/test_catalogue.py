"""Shipped adapters are found, and a missing one says what to do."""

import pytest

from saeaudit.errors import ModelError
from saeaudit.organisms import catalogue


def test_found_and_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "ADAPTERS", tmp_path)
    with pytest.raises(ModelError, match=r"\(there: none\); plant it with saeaudit plant") as caught:
        catalogue.shipped_adapter("sql", "clean")
    assert caught.value.code == "adapter-not-shipped"
    assert "--organism sql --variant clean --out" in str(caught.value)
    (tmp_path / "sql-clean").mkdir()
    (tmp_path / "sql-poisoned").mkdir()
    (tmp_path / "sql-clean" / "adapter_config.json").write_text("{}")
    assert catalogue.shipped_adapter("sql", "clean") == tmp_path / "sql-clean"
    with pytest.raises(ModelError, match="there: sql-clean"):
        catalogue.shipped_adapter("sql", "poisoned")


def test_what_ships_is_known():
    """Directories of the real catalogue are named organism-variant."""
    for name in catalogue.shipped_adapters():
        organism, variant = name.split("-")
        assert catalogue.shipped_adapter(organism, variant).name == name
