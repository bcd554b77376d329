"""Goldens of the kinds of tokenizers and of chats: crates/vlm-encoders/tests/golden/tokenizer_kinds.

Needs transformers 4.57.6 with its tokenizers (onig patterns). Run: python xtask/golden/tokenizer_kinds.py OUT_DIR
Each kind is a tiny tokenizer trained here on the lines themselves. Training breaks ties by chance, so
a run gives other vocabularies than the last; `--keep` as a second argument takes those that are there.
Of each line only hashes of the results are kept (lines.json, expected.safetensors); batches and
some decodings stand in cases.json. CLIP's kind has its own goldens (tokenizer.py), lines included here.
"""

import base64
import json
import pathlib
import random
import struct
import sys
import unicodedata

import numpy as np
import transformers
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.utils.chat_template_utils import render_jinja_template

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
rng = random.Random(20)

WORDS = """the a photo of red bus small dogs running over wet grass don't it's they'LL we've I'm O'Brien naïve café cafe\u0301 Ångström straße
İstanbul ΣΊΣΥΦΟΣ ﬁne Ǆungla 日本語 のテキスト 中文字符 漢字かな交じり文 한국어 문장 สวัสดีครับ ประเทศไทย नमस्ते दुनिया क्षत्रिय مرحبا بالعالم السَّلَامُ שלום עולם שָׁלוֹם
привет мир ελληνικά Tiếng Việt 😀 👍🏽 👩‍👩‍👧‍👦 🧑🏿‍🚀 🇩🇪🇯🇵 ☃️ ❤️‍🔥 x=1; if(a!=b){ return a[i]->c; } /*note*/ #include<stdio.h> def f(self,*args): C++ a_b-c/d\\e 3.14159 1,234,567 2024-02-29
१२३ ٣٤٥ Ⅷ ½ ² $5.00 (50%) http://a.b/c?d=e&f=g user@host.org #tag ... !!! ?! -- — «so» “so” ‘so’ 「so」 … UPPER MixedCase camelCase snake_case""".split()
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "<|endoftext|>", "<|startoftext|>", "<|im_start|>",
           "<|im_end|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<0x0A>", "▁",
           "</w>", "##ing", "<extra>", "Ġ", "<|im_", "[cls]"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u2003", "\u200b", "\ufeff", "\u2028", "\u0085", "\x0b\x0c", " \n ", "        "]
FIXED = ["", " ", "  ", "\n", "\t", " \t\n ", "\u00a0", "\u200b", "\x00", "\x01\x02\x1b[0m", "\x7f", "\ufffd", "\ufeff", "a", "A", ".", "é", "e\u0301",
         "e\u0301\u0301\u0302\u0323", "ﷺ", "ẞ", "ı", "가", "\u1100\u1161", "a\x00b", "a" * 1500, "ab" * 700, "é" * 400, "中" * 300, "😀" * 120, " " * 600,
         "\n" * 200, "x " * 300, "supercalifragilisticexpialidocious" * 9, "0123456789" * 30, "!" * 200, "\u0301" * 40, "\U0010ffff", "\ue000", "\u0378",
         "１２３ＡＢＣ", "①②③", "㍿", "ǅ", "\u202eabc\u202c", "אבג abc \u200fדה", "</s></s>", "<s>a</s>", " <s> a", "a<|im_end|>\nb", "▁▁a▁", "Ġa Ġ"]


def anything():
    """Signs that every table of Unicode since version 11 knows alike."""
    while True:
        sign = chr(rng.choice([rng.randrange(0x20, 0x600), rng.randrange(0x600, 0x3000), rng.randrange(0x3000, 0xFFFF), rng.randrange(0x1F300, 0x1F650)]))
        if unicodedata.ucd_3_2_0.category(sign) not in ("Cn", "Cs"):
            return sign


def line():
    style = rng.random()
    if style < 0.1:
        return "".join(anything() for _ in range(rng.randint(1, 12)))
    out = []
    for _ in range(rng.randint(1, 9)):
        word = rng.choice(SPECIAL) if rng.random() < 0.12 else rng.choice(WORDS)
        if rng.random() < 0.1:
            word = rng.choice([word.upper(), word.capitalize(), word[::-1], word * 2])
        out += [word, rng.choice(SPACES) if rng.random() < 0.25 else rng.choice([" ", " ", ""])]
    text = "".join(out)
    return text if rng.random() < 0.2 else text.strip(" ")


lines = FIXED + [line() for _ in range(2000 - len(FIXED))]
corpus = [text for text in lines if len(text) < 200] * 2
train = dict(show_progress=False)


def special(*tokens, **more):
    return [AddedToken(token, special=True, normalized=False, **more) for token in tokens]


def bert(lowercase):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=700, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], **train))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ids)
    return tokenizer


def byte_level(pre_tokenizer, tokens, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=620, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=tokens, **train))
    return tokenizer


def gpt2():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def smollm():
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return byte_level(split, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def llama3():
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer = byte_level(split, [], ignore_merges=True)
    tokenizer.add_special_tokens(special("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"))
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    template = processors.TemplateProcessing("<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", [bos])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def sentencepiece_bpe(tokens, normalizer, pre_tokenizer, decoder, alphabet):
    """Trained on words as Gemma's are; bytes have tokens, and letters beyond the alphabet fall back on them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=760, limit_alphabet=alphabet, special_tokens=tokens + bytes_, **train))
    state = json.loads(tokenizer.to_str())
    # As in the real files, bytes are plain entries of the vocabulary.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in tokens]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    return tokenizer


def llama2():
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return sentencepiece_bpe(["<unk>", "<s>", "</s>"], normalizer, None, decoder, 120)


def gemma():
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = sentencepiece_bpe(tokens, normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), decoder, 120)
    bos = ("<bos>", tokenizer.token_to_id("<bos>"))
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A <bos>:1 $B:1", [bos])
    return tokenizer


def charsmap(rules):
    """SentencePiece's table: a double-array trie over UTF-8 keys, each unit 32 bits, and the replacements."""
    replacements, trie = b"", {}
    for key, value in rules.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = len(replacements)
        replacements += value.encode() + b"\0"
    units, used = {0: 0}, {0}

    def place(node, at):
        base = next(base for base in range(1, 1 << 16) if all(base ^ label not in used for label in node))
        used.update(base ^ label for label in node)
        units[at] = units[at] | (at ^ base) << 10 | (0 in node) << 8
        for label, child in node.items():
            units[base ^ label] = child | 1 << 31 if label == 0 else label
        for label, child in node.items():
            if label:
                place(child, base ^ label)

    place(trie, 0)
    # Every place that a byte can lead to exists, as in tables of whole blocks.
    size = (max(used) | 255) + 257
    blob = b"".join(struct.pack("<I", units.get(at, 0)) for at in range(size))
    return struct.pack("<I", len(blob)) + blob + replacements


RULES = {"ﬁ": "fi", "é": "e\u0301", "\t": " ", "\n": " ", "\u00a0": " ", "\u3000": " ", "①": "1", "㍿": "株式会社", "\u200b": " ", "１": "1", "Ａ": "A", "½": "1⁄2"}


def unigram(normalizer, tokens, metaspace):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = metaspace
    tokenizer.decoder = decoders.Metaspace()
    # Each letter that is trained on takes a token; the others stay unknown.
    plain = ["".join(sign for sign in text if sign < "\u0250") for text in corpus]
    tokenizer.train_from_iterator(plain, trainers.UnigramTrainer(vocab_size=700, special_tokens=tokens, unk_token="<unk>", max_piece_length=8, **train))
    eos = ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [eos])
    return tokenizer


def t5():
    state = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap(RULES)).decode()}
    precompiled = normalizers.Precompiled(base64.b64decode(state["precompiled_charsmap"]))
    return unigram(precompiled, ["<pad>", "</s>", "<unk>"], pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]))


def siglip():
    punctuation = normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), "")
    normalizer = normalizers.Sequence([normalizers.Lowercase(), punctuation, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    return unigram(normalizer, ["<pad>", "</s>", "<unk>"], pre_tokenizers.Metaspace())


SP = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
KINDS = {
    "bert-uncased": (lambda: bert(True), {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "clean_up_tokenization_spaces": True, **BERT}),
    # The class decides about letter case, whatever tokenizer.json says.
    "bert-cased": (lambda: bert(True), {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": False,
                                        "tokenize_chinese_chars": False, "truncation_side": "left", **BERT}),
    "gpt2": (gpt2, {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
                    "pad_token": "<|endoftext|>"}),
    "smollm": (smollm, {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>",
                        "pad_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "padding_side": "left"}),
    "llama3": (llama3, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|eot_id|>",
                        "clean_up_tokenization_spaces": True, "padding_side": "left", "truncation_side": "left"}),
    "llama2": (llama2, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True, "legacy": True, "pad_token": "<unk>", **SP}),
    "gemma": (gemma, {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
                      "padding_side": "left", "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]}),
    "t5": (t5, {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 0}),
    "siglip": (siglip, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>", "model_max_length": 24,
                        # Known only here; the vocabulary does not have it.
                        "added_tokens_decoder": {"900": {"content": "<extra>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False,
                                                         "special": True}}}),
}
CONTEXT = 12


def fnv(numbers):
    """FNV-1a, 32 bits, over whole numbers instead of bytes."""
    value = 0x811C9DC5
    for number in numbers:
        value = (value ^ number) * 0x01000193 & 0xFFFFFFFF
    return value


def results(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    cut = tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"]
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    kept = tokenizer.decode(ids, skip_special_tokens=False)
    return [fnv(ids), fnv([fnv(cut), fnv(bare), fnv(decoded.encode()), fnv(kept.encode())])]


def batch(tokenizer, texts, **padding):
    out = tokenizer(texts, truncation=True, max_length=CONTEXT, return_token_type_ids=True, **padding)
    flat = {key: sum(out[key], []) for key in ("input_ids", "attention_mask", "token_type_ids")}
    return {"cols": len(out["input_ids"][0]), **{key: fnv(flat[key]) for key in flat}}


tensors, kinds = {}, []
for name, (make, config) in KINDS.items():
    folder = OUT / name
    folder.mkdir(exist_ok=True)
    if "--keep" not in sys.argv:
        (folder / "tokenizer.json").write_text(json.dumps(json.loads(make().to_str()), ensure_ascii=False, separators=(",", ":")))
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
for name in [*KINDS, "clip"]:
    folder = OUT / name if name != "clip" else OUT.parent / "tokenizer"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    # A column of ids, and one of what is cut to the context, without special tokens, decoded, and decoded with them.
    tensors[name] = np.array([results(tokenizer, text) for text in lines], np.uint32)
    texts = lines[40:52] + lines[:9] + lines[300:320]
    kinds.append({
        "name": name, "class": type(tokenizer).__name__, "texts": texts,
        "first": [tokenizer(text)["input_ids"] for text in lines[300:306]],
        "padded": [batch(tokenizer, texts, padding="max_length"), batch(tokenizer, texts, padding="longest"), batch(tokenizer, texts[12:14], padding="longest")],
    })

# Chats. The templates are in the manner of those that models bring.
CHATML = """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}
{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
HEADERS = """{% set all = messages %}
{% for message in all %}
    {% set text = '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\n\n' ~ message['content'] | trim ~ '<|eot_id|>' %}
    {% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}
{{ text }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
TURNS = """{{ bos_token }}
{%- if messages[0].role == 'system' -%}
    {%- set before = messages[0].content + '\n\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}
    {%- set before = '' -%}{%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate') }}
    {%- endif -%}
    {{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' + (before if loop.first else '') }}
    {%- if message.content is string -%}
        {{ message.content | trim }}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}{%- else -%}{{ part.text | trim }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""
THINKING = r"""{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last < 0 and message.role == 'user' and not message.content.startswith('<tool>') %}{%- set ns.last = messages|length - 1 - loop.index0 %}{%- endif %}
{%- endfor %}
{%- if tools %}{{- tools | tojson }}{%- endif %}
{%- macro turn(role, text) %}{{ '<|im_start|>' ~ role ~ '\n' ~ text ~ '<|im_end|>\n' }}{% endmacro %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and '</think>' in message.content %}
        {%- set thought = message.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- set said = message.content.split('</think>')[-1].lstrip('\n') %}
        {%- if loop.index0 > ns.last %}{{- turn(message.role, '<think>\n' ~ thought.strip('\n') ~ '\n</think>\n\n' ~ said) }}{%- continue %}{%- endif %}
        {{- turn(message.role, said) }}
    {%- else %}
        {{- turn(message.role.lower(), message.content.replace('\t', '    ')) }}
    {%- endif %}
{%- endfor %}
{%- if messages is not mapping and messages | selectattr('role', 'equalto', 'user') | list | length > 1 %}{{- messages[-1] | tojson }}{%- endif %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- 'no' }}{%- endif %}{%- endif %}"""
MARKED = """{% for message in messages -%}
  {%- if message.role == 'assistant' -%}
    {% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
  {%- else -%}
    [INST] {{ message.content if message.content is string else message.content | map(attribute='type') | join('+') }} [/INST]
  {%- endif %}
{%- endfor %}"""
SAYS = [
    [("user", "Hi")],
    [("system", "You are a bus."), ("user", "  What is <b>red</b> & \"big\"?\n"), ("assistant", "A bus's\troof."), ("user", "Und Ä, 日本 😀?")],
    [("user", "1+1?"), ("assistant", "<think>\nhm\n</think>\n\n2"), ("user", "<tool>3</tool>"), ("assistant", "<think>so</think>\nthree"), ("user", "ok")],
    [("user", "x"), ("user", "y")],
    [("user", [{"type": "image"}, {"type": "text", "text": " What is it? "}]), ("assistant", "A bus."), ("user", [{"type": "text", "text": "Sure?"}])],
    [],
]
tokens = {"bos_token": "<s>", "eos_token": "</s>"}
reference = transformers.AutoTokenizer.from_pretrained(OUT / "llama2")
templates, chats = [CHATML, HEADERS, TURNS, THINKING, MARKED], []
for number, template in enumerate(templates):
    for said in SAYS:
        messages = [{"role": role, "content": content} for role, content in said]
        for prompt in (False, True):
            try:
                # Beneath apply_chat_template, which refuses an empty chat on its own.
                (text,), _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, **reference.special_tokens_map)
            except Exception:
                text = None
            chats.append({"template": number, "messages": messages, "prompt": prompt, "text": text})

(OUT / "lines.json").write_text(json.dumps(lines, ensure_ascii=False, separators=(",", ":")) + "\n")
save_file(tensors, OUT / "expected.safetensors")
(OUT / "cases.json").write_text(json.dumps({
    "transformers": transformers.__version__, "context": CONTEXT, "kinds": kinds, "templates": templates, "chats": chats,
}, ensure_ascii=False) + "\n")
print({k["name"]: k["class"] for k in kinds}, sum(c["text"] is None for c in chats), "refused of", len(chats))
