import sysconfig

from saeaudit.activations import standard_library_texts
from saeaudit.activations.corpora import MAX_CHARACTERS


def test_texts_are_distinct_of_bounded_length_and_half_code():
    texts = standard_library_texts(60, seed=0)
    assert len(texts) == len(set(texts)) == 60
    assert all(100 < len(t) <= MAX_CHARACTERS and t.strip() for t in texts)
    code = [t.startswith(("def ", "class ")) for t in texts]
    assert sum(code) == 30
    assert any(code[:10]) and not all(code[:10])  # the two kinds are mixed


def test_a_seed_names_the_texts():
    first, again, other = (standard_library_texts(20, seed=seed) for seed in (0, 0, 1))
    assert first == again and first != other


def test_a_small_library_gives_what_it_has_and_none_gives_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert standard_library_texts(9, seed=0) == []
    prose, body = "Words of prose. " * 40, "    x = 1\n" * 40
    (tmp_path / "one.py").write_text(f'"""{prose}"""\n\ndef f():\n{body}\ndef short(): pass\n')
    (tmp_path / "same.py").write_text(f'"""{prose}"""\n')
    (tmp_path / "broken.py").write_text(f"def g():\n{body}(\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "latin.py").write_bytes(b"# \xff\n")
    found = standard_library_texts(9, seed=0)
    assert sorted(text[:8] for text in found) == ["Words of", "def f():", "def g():"]
    assert len(standard_library_texts(1, seed=0)) == 1
