"""Goldens of the tokenizer: crates/vlm-encoders/tests/golden/tokenizer/expected.json.

Needs transformers (made with 4.57.6; 5.x gives the same). The tokenizer itself is trained by the
crate: cargo run --release -p vlm-encoders --example train_tokenizer GOLDEN_DIR/corpus.txt 700 24 GOLDEN_DIR
Then: python xtask/golden/tokenizer.py GOLDEN_DIR            writes expected.json
      python xtask/golden/tokenizer.py GOLDEN_DIR --check    compares with the one that is there
      python xtask/golden/tokenizer.py VOCAB_DIR OUT_FILE    ids of another folder (CLIP's own)
"""

import json
import pathlib
import sys

import transformers

TEXTS = [
    "", " ", "a", "A red bus.", "a photo of a cat", "A  photo\tof\n\na   DOG  ", "it's", "IT'S they'LL we've I'm he'd don't you're",
    "'s 's'", "''''", "don’t", "café", "cafe\u0301", "CAFÉ Ångström naïve", "Straße ẞ", "İstanbul ıI", "ΣΊΣΥΦΟΣ", "ﬁne ﬂow",
    "日本語のテキスト", "中文字符 and english", "한국어 문장", "สวัสดีครับ", "नमस्ते दुनिया", "مرحبا بالعالم", "שלום עולם",
    "😀", "👩‍👩‍👧‍👦 family", "🇩🇪🇯🇵", "☃️ snow", "a\u00a0b\u3000c\u2003d", "a\u200bb\ufeffc", "x\u0085y\u2028z", "\u0000nul\u0001", "\ufffd",
    "1234567890", "3.14159", "Ⅷ ½ ²", "१२३", "!!!???...", "#hashtag @user http://a.b/c?d=e&f=g", "C++ && $5.00 (50%)", "a_b-c/d\\e",
    "<|startoftext|>", "<|endoftext|>", "a <|endoftext|> b", "<|ENDOFTEXT|>", "<|start", "</w>", "word</w>", "e\u0301\u0301\u0301", "Ǆ ǅ ǆ",
    "supercalifragilisticexpialidocious", "a" * 300, "the quick brown fox " * 40, "\t\n\r\x0b\x0c", "Ünïcödé", "𝕳𝖊𝖑𝖑𝖔", "ab" * 5000,
]


def encode(tokenizer, text, **more):
    return tokenizer(text, **more)["input_ids"]


def main():
    folder = pathlib.Path(sys.argv[1])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if len(sys.argv) > 2 and sys.argv[2] != "--check":
        pathlib.Path(sys.argv[2]).write_text(json.dumps([{"text": t, "ids": encode(tokenizer, t)} for t in TEXTS]))
        return
    length = tokenizer.model_max_length
    cases = [
        {
            "text": text,
            "ids": encode(tokenizer, text),
            "cut": encode(tokenizer, text, truncation=True, max_length=length),
            "decoded": tokenizer.decode(encode(tokenizer, text), skip_special_tokens=True),
        }
        for text in TEXTS[:-1]
    ]
    batch = tokenizer(TEXTS[:-1], truncation=True, max_length=length, padding="max_length")
    made = {
        "class": type(tokenizer).__name__,
        "transformers": transformers.__version__,
        "cases": cases,
        "batch": sum(batch["input_ids"], []),
        "mask": sum(batch["attention_mask"], []),
        "cut_rows": sum(len(c["ids"]) > length for c in cases),
    }
    file = folder / "expected.json"
    if sys.argv[-1] != "--check":
        file.write_text(json.dumps(made, ensure_ascii=True) + "\n")
        return
    there = json.loads(file.read_text())
    for key in ("cases", "batch", "mask", "cut_rows"):
        if made[key] != there[key]:
            sys.exit(f"{file}: `{key}` differs under transformers {transformers.__version__}")
    print(f"transformers {transformers.__version__} {made['class']}: {len(cases)} texts equal")


main()
