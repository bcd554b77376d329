"""Goldens of GGUF files: crates/vlm-import/tests/golden/gguf_files.

Needs transformers 4.57.6, gguf. Run: python xtask/golden/gguf_files.py OUT_DIR
A tiny model with random weights is written as llama.cpp's converter would write it (query and key rows
in pairs for Llama, norms plus 1 for Gemma, blocks quantised), and its answers are those of
transformers on the weights before that, rounded as the blocks round them. So only a reader that undoes
what the converter does agrees. `blocks.gguf` holds one tensor of each type, `blocks.safetensors` what
gguf's own decoder makes of them.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers as tf
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, TokenType, quants
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers.convert_slow_tokenizer import generate_merges

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
for old in OUT.iterdir():
    old.unlink()
rng = np.random.default_rng(11)
TEXTS = ["the red bus", "In 2024 there were 12345 dogs, weren't there?", "  two  spaces\n\n\tand a tab", "naïve café 中文 😀", "<|im_start|>user\nHi<|im_end|>", "I'LL SAY it'll do"]


def bpe_vocab():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["the red bus, the red dogs and the two buses there in 2024 weren't"] * 3, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(state["vocab"].items(), key=lambda item: item[1])]
    return tokens, [" ".join(pair) for pair in state["merges"]]


TOKENS, MERGES = bpe_vocab()
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_tokens(w, pre):
    """Returns the ids of the special tokens."""
    tokens = TOKENS + SPECIAL
    types = [TokenType.NORMAL] * len(TOKENS) + [TokenType.CONTROL] * len(SPECIAL)
    w.add_tokenizer_model("gpt2")
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(MERGES)
    first = len(TOKENS)
    w.add_bos_token_id(first)
    w.add_eos_token_id(first + 2)
    w.add_unk_token_id(first)
    w.add_pad_token_id(first + 2)
    return len(tokens)


PIECES = {"▁": -3.0, "a": -50, "b": -51, "d": -52, "e": -53, "h": -54, "o": -55, "r": -56, "s": -57, "t": -58, "u": -59, "he": -1, "th": -2, "the": -4,
          "▁the": -5, "▁th": -6, "re": -7, "red": -8, "▁red": -9, "bu": -10, "us": -11, "bus": -12, "▁b": -13, "▁bus": -14, "ed": -15, "e▁": -16}


def piece_tokens(w, spaces):
    """SentencePiece's kind; `spaces` are defined by the user as in Gemma."""
    rows = [("<pad>", 0, 3), ("<eos>", 0, 3), ("<bos>", 0, 3), ("<unk>", 0, 2)]
    rows += [(f"<0x{byte:02X}>", 0, 6) for byte in range(256)]
    rows += [(piece, score, 1) for piece, score in PIECES.items()]
    rows += [(" " * n, 0, 4) for n in spaces] + [("<start_of_turn>", 0, 4), ("<tool>", 0, 4)]
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([row[0] for row in rows])
    # The converter gives what users defined the worst score, and SentencePiece the best.
    w.add_token_scores([-1000.0 if row[2] in (3, 4) else float(row[1]) for row in rows])
    w.add_token_types([row[2] for row in rows])
    w.add_pad_token_id(0)
    w.add_eos_token_id(1)
    w.add_bos_token_id(2)
    w.add_unk_token_id(3)
    return rows


def in_pairs(weights, heads):
    """What llama.cpp's converter does to query and key rows."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def rounded(weights, kind):
    return quants.dequantize(quants.quantize(weights, kind), kind).reshape(weights.shape)


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name, around):
    name, end = name.rsplit(".", 1)
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        norms = {"post_attention_layernorm": "post_attention_norm" if around else "ffn_norm", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
        return f"blk.{layer}.{(NAMES | norms)[rest]}.{end}"
    return f"{NAMES[name]}.{end}"


def write(name, arch, cls, config, kinds, pre="smollm", keys=None, head_dim=None, spaces=None, template=None):
    path = OUT / f"{name}.gguf"
    w = GGUFWriter(path, arch)
    rows = piece_tokens(w, spaces) if spaces is not None else None
    count = len(rows) if rows else byte_tokens(w, pre)
    if template:
        w.add_chat_template(template)
    config.vocab_size = count
    # The fused attention leaves out the cap on scores.
    config._attn_implementation = "eager"
    torch.manual_seed(len(name))
    model = cls(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3).add_(0.2 if weight.ndim == 1 else 0)
    gemma = arch.startswith("gemma")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_theta)
    if head_dim:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if keys:
        keys(w)
    state = model.state_dict()
    tied = config.tie_word_embeddings
    turn = 0
    for hf, tensor in state.items():
        if tied and hf == "lm_head.weight":
            continue
        values = tensor.numpy().copy()
        kind = Type.F32
        if values.ndim == 2:
            kind = kinds[turn % len(kinds)]
            turn += 1
        # What the model shall answer with: blocks round the rows that are written, so in the converter's order.
        head = next((n for part, n in heads.items() if part in hf and arch == "llama"), None)
        stored = in_pairs(values, head) if head else values
        if gemma and "norm" in hf:
            stored = stored + np.float32(1)
        blocks = quants.quantize(stored, kind) if kind != Type.F32 else stored
        seen = quants.dequantize(blocks, kind).reshape(stored.shape) if kind != Type.F32 else stored
        if head:
            dim = seen.shape[0] // head
            seen = seen.reshape(head, dim // 2, 2, *seen.shape[1:]).swapaxes(1, 2).reshape(seen.shape)
        if gemma and "norm" in hf:
            seen = seen - np.float32(1)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(seen)))
        w.add_tensor(gguf_name(hf, arch in ("gemma2", "gemma3")), np.ascontiguousarray(blocks), raw_dtype=kind)
    for factors in ([getattr(config, "divisors", None)] if hasattr(config, "divisors") else []):
        w.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    ids = torch.from_numpy(rng.integers(4, count, (2, 9)))
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    save_file(
        {"input_ids": ids.numpy(), "logits": out.logits.numpy()} | {f"hidden_states.{i}": h.numpy() for i, h in enumerate(out.hidden_states)},
        OUT / f"{name}.safetensors",
    )
    if rows is None:
        wanted = byte_ids(pre)
    else:
        wanted = piece_ids(rows, gemma)
    (OUT / f"{name}.json").write_text(json.dumps(wanted, ensure_ascii=False, indent=1) + "\n")


def byte_ids(pre):
    """Ids of texts by the pre-tokenizer that the published models of that kind have."""
    from tokenizers import AddedToken, Regex, normalizers

    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(TOKENS + SPECIAL)}, merges=[tuple(m.split(" ")) for m in MERGES], ignore_merges=pre == "llama-bpe"))
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = lambda p: pre_tokenizers.Split(Regex(p), "isolated")
    steps = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True), ByteLevel(add_prefix_space=False)],
        "gpt-2": [ByteLevel(add_prefix_space=False)],
        "llama-bpe": [split(pattern % "{1,3}"), ByteLevel(add_prefix_space=False, use_regex=False)],
        "qwen2": [split(pattern % ""), ByteLevel(add_prefix_space=False, use_regex=False)],
    }[pre or "gpt-2"]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    first = [len(TOKENS)] if pre == "llama-bpe" else []
    return [{"text": text, "ids": first + tokenizer.encode(text).ids} for text in TEXTS]


def piece_ids(rows, gemma):
    """Ids of texts by the tokenizer that transformers makes of a SentencePiece model."""
    from tokenizers import AddedToken, normalizers

    pieces = [("▁" * len(p) if p.strip(" ") == "" else p, score, kind) for p, score, kind in rows]
    if gemma:
        pieces = [("\t" if p == "<0x09>" else p, score, kind) for p, score, kind in pieces]
    vocab = {p: i for i, (p, _, _) in enumerate(pieces)}
    merges = generate_merges(vocab, [(p, score) for p, score, _ in pieces])
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if gemma:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_tokens([AddedToken(p, normalized=False, special=kind != 4) for p, _, kind in pieces if kind in (2, 3, 4)])
    return [{"text": text, "ids": [2] + tokenizer.encode(text).ids} for text in TEXTS + ["theb<tool>us  <start_of_turn>red    bus"]]


COMMON = dict(hidden_size=32, intermediate_size=96, num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)
FOURS = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
LLAMA = COMMON | dict(num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5)
write("llama", "llama", tf.LlamaForCausalLM, tf.LlamaConfig(**LLAMA, rope_theta=500.0), [Type.Q4_1, Type.Q8_0, Type.F16], keys=lambda w: (w.add_rope_dimension_count(8), w.add_vocab_size(303)), template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
write("llama-tied", "llama", tf.LlamaForCausalLM, tf.LlamaConfig(**LLAMA | dict(num_key_value_heads=1, attention_bias=True, mlp_bias=True), tie_word_embeddings=True, rope_scaling=dict(rope_type="linear", factor=4.0)), FOURS, pre="gpt-2", keys=lambda w: (w.add_rope_scaling_type(__import__("gguf").RopeScalingType.LINEAR), w.add_rope_scaling_factor(4.0)))
write("llama-pieces", "llama", tf.LlamaForCausalLM, tf.LlamaConfig(**LLAMA | dict(num_key_value_heads=4)), [Type.BF16, Type.F32], spaces=[])
three = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
config = tf.LlamaConfig(**LLAMA | dict(max_position_embeddings=16384), head_dim=32, rope_scaling=three, rope_theta=500000.0)
plain = 1.0 / (500000.0 ** (torch.arange(0, 32, 2, dtype=torch.int64).float() / 32))
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

config.divisors = (plain / ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]).tolist()
write("llama3", "llama", tf.LlamaForCausalLM, config, [Type.Q8_0], pre="llama-bpe", head_dim=32)
odd = tf.LlamaConfig(**LLAMA, rope_scaling=dict(rope_type="longrope", factor=1.0, attention_factor=1.0, short_factor=[1.0, 1.5, 2.0, 1.25], long_factor=[1.0, 1.5, 2.0, 1.25]))
odd.divisors = odd.rope_scaling["long_factor"]
write("llama-divided", "llama", tf.LlamaForCausalLM, odd, [Type.Q8_0])
import gguf

yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
write("qwen2", "qwen2", tf.Qwen2ForCausalLM, tf.Qwen2Config(**LLAMA, tie_word_embeddings=True, rope_scaling=yarn), [Type.Q8_0, Type.Q5_1], pre="qwen2", keys=lambda w: (w.add_rope_scaling_type(gguf.RopeScalingType.YARN), w.add_rope_scaling_factor(4.0), w.add_rope_scaling_orig_ctx_len(16)))
write("qwen3", "qwen3", tf.Qwen3ForCausalLM, tf.Qwen3Config(**LLAMA, head_dim=32), [Type.Q8_0], pre="qwen2", head_dim=32)
GEMMA = LLAMA | dict(head_dim=32, num_hidden_layers=3)
turns = list(range(2, 6))
write("gemma", "gemma", tf.GemmaForCausalLM, tf.GemmaConfig(**GEMMA | dict(num_hidden_layers=2)), [Type.Q8_0], head_dim=32, spaces=turns)
write("gemma2", "gemma2", tf.Gemma2ForCausalLM, tf.Gemma2Config(**GEMMA, sliding_window=4, query_pre_attn_scalar=32, attn_logit_softcapping=50.0, final_logit_softcapping=30.0), [Type.Q8_0], head_dim=32, spaces=turns, keys=lambda w: (w.add_attn_logit_softcapping(50.0), w.add_final_logit_softcapping(30.0), w.add_sliding_window(4)))
write("gemma3", "gemma3", tf.Gemma3ForCausalLM, tf.Gemma3TextConfig(**GEMMA | dict(num_hidden_layers=6), rope_theta=1e6, sliding_window=4, query_pre_attn_scalar=32, rope_scaling=dict(rope_type="linear", factor=8.0)), [Type.Q8_0], head_dim=32, spaces=turns, keys=lambda w: (w.add_sliding_window(4), w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), w.add_rope_scaling_factor(8.0)))

# One tensor of each type, of random blocks with sound scales, since gguf does not write the K types.
w = GGUFWriter(OUT / "blocks.gguf", "llama")
expected = {}
for kind in [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K, Type.Q5_K, Type.Q6_K]:
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = 3, 2 * max(values, 7)
    blocks = rng.integers(0, 256, (rows, columns // values, size), dtype=np.uint8)
    halves = {Type.F16: 1, Type.Q4_0: 1, Type.Q4_1: 2, Type.Q5_0: 1, Type.Q5_1: 2, Type.Q8_0: 1, Type.Q4_K: 2, Type.Q5_K: 2}
    scales = rng.normal(size=(rows, columns // values, 2)).astype(np.float16).view(np.uint8)
    if kind in halves:
        blocks[..., : 2 * halves[kind]] = scales[..., : 2 * halves[kind]]
    elif kind == Type.Q6_K:
        blocks[..., -2:] = scales[..., :2]
    else:
        numbers = rng.normal(size=(rows, columns)).astype(np.float32)
        blocks = quants.quantize(numbers, kind).view(np.uint8) if kind != Type.F32 else numbers.view(np.uint8)
    raw = np.ascontiguousarray(blocks.reshape(rows, -1))
    if kind == Type.F32:
        expected[kind.name] = raw.view(np.float32)
        w.add_tensor(kind.name, raw.view(np.float32))
    elif kind == Type.F16:
        expected[kind.name] = raw.view(np.float16).astype(np.float32)
        w.add_tensor(kind.name, raw.view(np.float16))
    else:
        expected[kind.name] = quants.dequantize(raw, kind)
        w.add_tensor(kind.name, raw, raw_dtype=kind)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
save_file({name: np.ascontiguousarray(values) for name, values in expected.items()}, OUT / "blocks.safetensors")
