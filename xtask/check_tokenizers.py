"""Real tokenizers against transformers: ids, decoding, streaming and chats of folders given by name.

Run: python xtask/check_tokenizers.py PROGRAM FOLDER...
PROGRAM is the example `tokenize`: cargo build --release --workspace --examples
Each FOLDER holds a tokenizer.json with what belongs to it. Beside the lines of the goldens every
letter of Unicode is tried, in a word of its own and behind a space.
"""

import json
import pathlib
import subprocess
import sys
import unicodedata

import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "crates/vlm-encoders/tests/golden/tokenizer_kinds"
CONTEXT = 12
lines = json.loads((GOLDEN / "lines.json").read_text())
signs = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) not in ("Cs", "Co", "Cn")]
blocks = [" x".join(signs[at : at + 40]) for at in range(0, len(signs), 40)]
texts = lines + blocks
chats = [case["messages"] for case in json.loads((GOLDEN / "cases.json").read_text())["chats"] if case["template"] == 0 and case["prompt"] and case["messages"]]


def reference(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    return {
        "ids": ids,
        "cut": tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"],
        "bare": tokenizer(text, add_special_tokens=False)["input_ids"],
        "text": tokenizer.decode(ids, skip_special_tokens=True),
        "kept": tokenizer.decode(ids),
        # Streaming tells nothing about the finished text, which may be tidied up.
        "streamed": tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    }


failed = False
for folder in sys.argv[2:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    request = json.dumps({"texts": texts, "context": CONTEXT, "chats": chats})
    ours = json.loads(subprocess.run([sys.argv[1], folder], input=request, capture_output=True, text=True, check=True).stdout)
    wrong = {}
    for text, got in zip(texts, ours["texts"]):
        # CLIP's class trims the finished text, which a stream cannot know.
        if "CLIP" in type(tokenizer).__name__:
            got["streamed"] = got["streamed"].strip()
        for key, expected in reference(tokenizer, text).items():
            if got[key] != expected:
                wrong.setdefault(key, []).append((text, got[key], expected))
    for messages, got in zip(chats, ours["chats"] if tokenizer.chat_template else []):
        try:
            expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception:
            expected = None
        if got.get("text") != expected:
            wrong.setdefault("chats", []).append((messages, got, expected))
    print(folder, type(tokenizer).__name__, len(texts), "texts,", len(chats) if tokenizer.chat_template else 0, "chats,",
          {key: len(found) for key, found in wrong.items()} or "all equal")
    for key, found in wrong.items():
        for text, got, expected in found[:3]:
            print(f"  {key} of {str(text)[:80]!r}\n    {str(got)[:300]}\n    {str(expected)[:300]}")
    failed |= bool(wrong)
sys.exit(failed)
