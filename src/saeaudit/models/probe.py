"""200 fixed strings on which two tokenizers must agree: scripts, digits, code, whitespace, markup, broken text."""

_WORDS = (
    "hello",
    "The quick brown fox",
    "naïve café façade",
    "Straße ÄÖÜ ß",
    "Привет, мир",
    "Γειά σου Κόσμε",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "你好，世界",
    "こんにちは世界",
    "안녕하세요 세계",
    "Xin chào thế giới",
    "🙂👩\u200d👩\u200d👧\u200d👦🇩🇪",
    "e\u0301 é ﬁ ½ ²",
    "\u200bzero\u200dwidth\u00a0nbsp",
    "0123456789",
    "3.14159e-10",
    "1,234,567.89",
    "2023-12-31",
    "year 2025",
    "user@example.org",
    "https://example.org/a?b=c&d=%20#e",
    "don't I'll we've it's",
)
_CODE = (
    "def f(x: int) -> int:\n    return x + 1\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    'cursor.execute("SELECT * FROM t WHERE id = ?", (user_id,))',
    "SELECT name FROM users WHERE id = '%s'",
    '<div class="a">&nbsp;</div>',
    '{"key": [1, 2.5, null, true]}',
    "$ ls -la | grep '\\.py$'",
    "\\frac{a}{b} \\sum_{i=0}^n",
    "C:\\path\\to\\file",
    "// comment /* block */ # hash",
    "x => y ?? z?.w",
    "if (a && b || !c) {}",
    "λx.x ∘ ∀y∃z ≤ ≥ ≠ ∞",
    "snake_case camelCase PascalCase kebab-case",
    "0xDEADBEEF 0b1010 1_000_000",
)
_SPACE = (
    " ",
    "  ",
    "   leading",
    "trailing   ",
    "\t",
    "\t\ttabs\t",
    "\n",
    "\n\n",
    "\r\n",
    "a\nb\n\nc",
    "a\r\nb",
    "a  b   c    d",
    " \n ",
    "\x0b\x0c",
    "\u3000全角　空白",
)
_MARKUP = (
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<s>[INST] hi [/INST]",
    "<bos><start_of_turn>user\nhi<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<pad>",
    "<unk>",
    "<think>\nok\n</think>",
    "### Instruction:\nDo it.\n### Response:\n",
    "<|begin_of_text|><|eot_id|>",
)
_FRAMES = ("{}", " {}", "{}.", "a {} b", "{}\n{}", "({})")


def _build() -> tuple[str, ...]:
    plain = [*_WORDS, *_CODE, *_SPACE, *_MARKUP]
    framed = [frame.replace("{}", text) for frame in _FRAMES for text in plain]
    return tuple(dict.fromkeys(framed))[:200]


PROBE = _build()
