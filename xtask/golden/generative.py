"""Goldens of the generative families: crates/vlm-fusion/tests/golden/generative.

Needs transformers 4.57.6, torch 2.9 and Pillow 13.0. Run: python xtask/golden/generative.py OUT_DIR
Each folder holds what the reference wrote for a random model (in f16, to keep it small), with its
processor and a tokenizer of letters, beside cases.json (texts and the ids they become, a checksum
of the pixels, the next 64 tokens without sampling) and expected.safetensors: the logits of every
position (a ninth of the columns, and the log of the sum over all), computed in f32 from the rounded weights.

With --check OURS, a folder that our program wrote from one of these is opened instead and compared:
python xtask/golden/generative.py GOLDEN/llava-clip --check OURS
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import PIL
import torch
import transformers as tf
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.models.idefics3 import modeling_idefics3
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor

OUT = pathlib.Path(sys.argv[1])
# Older ones round other pixels of upright pictures.
assert PIL.__version__.startswith("13."), "needs Pillow 13"
torch.set_num_threads(1)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!'-_"
STEP = 9


def randomise(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight") or "lambda1" in name:
                gemma = "PaliGemma" in type(model).__name__ and "language_model" in name
                p.copy_((0 if gemma else 1) + 0.3 * torch.randn_like(p))
            elif p.dim() < 2 or "embed" in name and "projection" not in name and "patch" not in name:
                # Gemma multiplies tokens' rows, and would hear nothing but the last one.
                p.copy_((0.1 if "embed_tokens" in name and "PaliGemma" in type(model).__name__ else 0.5) * torch.randn_like(p))
            else:
                p.copy_(1.5 * p[0].numel() ** -0.5 * torch.randn_like(p))
    return model.eval()


def photo(width, height, seed):
    """Soft shapes and a hard edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    u, v = x / width, y / height
    base = np.stack([np.sin(5 * u + seed * v), np.cos(4 * v - 2 * u), np.sin(9 * u * v + seed)], -1) * 110 + 128
    base[u + v > 1.3] = (250, 240, 8)
    return np.clip(base + rng.normal(0, 4, base.shape), 0, 255).astype(np.uint8)


def special(*tokens):
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def sentencepiece(first, more, bos):
    """Letters and a few merges over the mark of a space; what is unknown falls back on bytes."""
    pieces = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n", *LETTERS, "th", "the", "▁the", "in", "▁a"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("i", "n"), ("▁", "a")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(special(*first, *more))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos}:1 $B:1", [(bos, vocab[bos])])
    return tokenizer


def llama_tokenizer():
    tokenizer = sentencepiece(["<unk>", "<s>", "</s>"], ["<image>", "<pad>"], "<s>")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    roles = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    return tf.LlamaTokenizerFast(tokenizer_object=tokenizer, add_bos_token=True, padding_side="left", legacy=False, **roles)


def gemma_tokenizer():
    tokenizer = sentencepiece(["<pad>", "<eos>", "<bos>", "<unk>"], ["<image>"], "<bos>")
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    roles = dict(bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")
    return tf.GemmaTokenizerFast(tokenizer_object=tokenizer, add_bos_token=False, padding_side="left", **roles)


def byte_level(*tokens, **roles):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "a")]
    vocab = {piece: i for i, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special(*tokens))
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **roles)


def smol_tokenizer():
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    tokens = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", *tiles]
    return byte_level(*tokens, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|endoftext|>")


SMOL_CHAT = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}:"
    "{% else %}: {% endif %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<image>{% endif %}{% endfor %}{% for part in message['content'] %}{% if part['type'] == 'text' %}\n{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def upright_positions(self, pixel_values, patch_attention_mask):
    """The position ids of transformers up to 4.54 and from 5.0 on: 4.55 to 4.57 begin with 0, 0, 1 (its issue 41190)."""
    side, patch = self.num_patches_per_side, self.patch_size
    rows, columns = pixel_values.shape[2] // patch, pixel_values.shape[3] // patch
    assert patch_attention_mask.all()
    boundaries = torch.arange(1 / side, 1.0, 1 / side)
    place = lambda n: torch.bucketize(torch.clamp(torch.arange(n, dtype=torch.float32) * (1.0 / torch.tensor(n)), max=1.0 - 1e-6), boundaries, right=True)
    ids = (place(rows)[:, None] * side + place(columns)).flatten()
    return self.patch_embedding(pixel_values).flatten(2).transpose(1, 2) + self.position_embedding(ids)


def opened(cls, folder):
    return cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def inputs_of(processor, folder, case):
    pictures = [Image.open(folder.parent / name) for name in case["pictures"]]
    text = case["text"]
    if "chat" in case:
        text = processor.apply_chat_template(case["chat"], add_generation_prompt=True)
        case["text"] = text
    more = {"add_special_tokens": False} if "chat" in case and processor.tokenizer.bos_token and text.startswith(processor.tokenizer.bos_token) else {}
    return processor(text=text, images=pictures or None, return_tensors="pt", **more)


def results(model, inputs):
    """Columns of logits and the log of the sum of all, what follows, and how near the best two came."""
    inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")}
    config = tf.GenerationConfig(do_sample=False, max_new_tokens=64, pad_token_id=0)
    # Or the model's own end would take the place of none.
    model.generation_config = config
    with torch.no_grad():
        logits = model(**inputs).logits[0]
        out = model.generate(**inputs, generation_config=config, output_logits=True, return_dict_in_generate=True)
    assert len(out.logits) == 64
    top = torch.stack(out.logits)[:, 0].topk(2).values
    gap = (top[:, 0] - top[:, 1]).min().item()
    found = {"logits": logits[:, ::STEP], "sums": logits.logsumexp(-1)}
    return found, out.sequences[0, inputs["input_ids"].shape[1]:].tolist(), gap


def checksum(pixels):
    """Of the bits of each number, in order."""
    bits = pixels.numpy().astype(np.float32).view(np.uint32).astype(np.uint64).ravel()
    return int((bits * (np.arange(bits.size, dtype=np.uint64) % 65521 + 1)).sum() >> np.uint64(1))


def write(name, model, processor, cases, change=None, plain=None):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cls = type(model)
    for seed in range(len(name), 1000):
        randomise(model.float(), seed).to(torch.float16).save_pretrained(folder)
        if change:
            change(folder)
        again = opened(cls, folder)
        tensors, gaps, kept = {}, [], []
        for case in cases:
            inputs = inputs_of(processor, folder, case)
            found, greedy, gap = results(again, inputs)
            gaps.append(gap)
            tensors |= {f"{case['name']}.{k}": v.detach().clone().contiguous() for k, v in found.items()}
            kept.append(case | {"ids": inputs["input_ids"][0].tolist(), "pixels": checksum(inputs.get("pixel_values", torch.zeros(0))), "greedy": greedy})
        # Where the best two are too near, rounding decides what comes next.
        if min(gaps) > 2e-3:
            break
    processor.save_pretrained(folder)
    if plain:
        (folder / "added_tokens.json").unlink(missing_ok=True)
        plain.save_pretrained(folder)
    for file in folder.glob("*.json"):
        if file.name == "tokenizer.json":
            file.write_text(json.dumps(json.loads(file.read_text()), ensure_ascii=False, separators=(",", ":")) + "\n")
    save_file(tensors, folder / "expected.safetensors")
    (folder / "cases.json").write_text(json.dumps({"step": STEP, "cases": kept}, ensure_ascii=False) + "\n")
    print(name, [len(set(case["greedy"])) for case in kept], "seed", seed, "gap", min(gaps), "size", sum(f.stat().st_size for f in folder.iterdir()))


def check(golden, ours):
    """What the reference makes of our folder, beside what it made of its own."""
    expected, cases = load_file(golden / "expected.safetensors"), json.loads((golden / "cases.json").read_text())["cases"]
    config = json.loads((ours / "config.json").read_text())
    cls = getattr(tf, config["architectures"][0])
    model, loading = cls.from_pretrained(ours, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    problems = {k: v for k, v in loading.items() if v}
    processor = tf.AutoProcessor.from_pretrained(ours)
    # On Pillow; of a tokenizer the slow class would want sentencepiece.
    processor.image_processor = tf.AutoImageProcessor.from_pretrained(ours, use_fast=False)
    if config["model_type"] in ("idefics3", "smolvlm") and config["transformers_version"] != tf.__version__:
        modeling_idefics3.Idefics3VisionEmbeddings.forward = upright_positions
    worst = 0.0
    for case in cases:
        case["text"] = case.get("text", "")
        inputs = inputs_of(processor, golden, case)
        assert inputs["input_ids"][0].tolist() == case["ids"], case["name"]
        assert checksum(inputs.get("pixel_values", torch.zeros(0))) == case["pixels"], case["name"]
        found, greedy, _ = results(model.eval(), inputs)
        assert greedy == case["greedy"], case["name"]
        for name, value in found.items():
            theirs = expected[f"{case['name']}.{name}"]
            worst = max(worst, (value.float() - theirs.float()).abs().max().item())
    print(f"{ours}: {len(cases)} cases, largest difference {worst}, {problems or 'all tensors used'}")
    sys.exit(1 if worst > 1e-4 or problems else 0)


if "--check" in sys.argv:
    check(OUT, pathlib.Path(sys.argv[sys.argv.index("--check") + 1]))

OUT.mkdir(parents=True, exist_ok=True)
for name, size, seed in (("wide.png", (37, 22), 3), ("tall.png", (19, 33), 8)):
    Image.fromarray(photo(*size, seed)).save(OUT / name, optimize=True)

VISION = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, patch_size=4, image_size=16)
TEXT = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
CLIP = dict(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
ask = lambda *parts: [{"role": "user", "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]}]


def case(name, text, *pictures):
    return {"name": name, "pictures": list(pictures)} | ({"text": text} if isinstance(text, str) else {"chat": text, "text": ""})


TWO = [
    case("one", "USER: <image>\nWhat is this? ASSISTANT:", "wide.png"),
    case("two", "USER: <image> and <image>\nthe same? ASSISTANT:", "tall.png", "wide.png"),
    case("text", "USER: hello ASSISTANT:"),
]


def llava(name, vision, text, tokenizer, images, cases, template=None, additional=1, **more):
    size = len(tokenizer)
    text.vocab_size = size
    image = tokenizer.convert_tokens_to_ids("<image>")
    text.bos_token_id, text.eos_token_id, text.pad_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    config = tf.LlavaConfig(vision, text, image_token_index=image, image_seq_length=16, **more)
    strategy = config.vision_feature_select_strategy
    processor = tf.LlavaProcessor(images, tokenizer, patch_size=4, vision_feature_select_strategy=strategy, chat_template=template,
                                  num_additional_image_tokens=additional)
    write(name, tf.LlavaForConditionalGeneration(config), processor, cases)


llava("llava-clip", tf.CLIPVisionConfig(**VISION, projection_dim=10), tf.LlamaConfig(**TEXT), llama_tokenizer(), tf.CLIPImageProcessor(**CLIP), TWO)
dino = {k: v for k, v in VISION.items() if k != "intermediate_size"} | dict(mlp_ratio=2)
llava("llava-dinov2", tf.Dinov2Config(**dino), tf.LlamaConfig(**TEXT, tie_word_embeddings=True), llama_tokenizer(), tf.BitImageProcessor(**CLIP), TWO[:2],
      vision_feature_layer=[-1, 1, -2], projector_hidden_act="gelu_pytorch_tanh", multimodal_projector_bias=False)
qwen = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
llava("llava-siglip", tf.SiglipVisionConfig(**VISION), tf.Qwen2Config(**TEXT, tie_word_embeddings=True), qwen,
      tf.SiglipImageProcessor(size={"height": 16, "width": 16}), [case("chat", ask(None, "What is this?"), "wide.png"), TWO[1]], QWEN_CHAT, 0,
      vision_feature_layer=-1, vision_feature_select_strategy="full")


def idefics3(name, model_type, images, cases, version=None, **text):
    tokenizer = smol_tokenizer()
    text = tf.LlamaConfig(**TEXT | dict(max_position_embeddings=512), vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **text)
    config, model = (tf.Idefics3Config, tf.Idefics3ForConditionalGeneration) if model_type == "idefics3" else (tf.SmolVLMConfig, tf.SmolVLMForConditionalGeneration)
    ids = dict(image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id)
    # transformers 4 goes by the one, 5 by the other.
    config = config(vision_config=VISION, text_config=text, scale_factor=2, tie_word_embeddings=text.tie_word_embeddings, **ids)
    # SmolVLM's own processor does the same to pictures, and wants packages for videos.
    processor = tf.Idefics3Processor(Idefics3ImageProcessor(**images), tokenizer, image_seq_len=4, chat_template=SMOL_CHAT)

    def change(folder):
        if version:
            file = folder / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"transformers_version": version}, indent=2) + "\n")

    write(name, model(config), processor, cases, change)
    if model_type == "smolvlm":
        SmolVLMImageProcessor(**images).save_pretrained(OUT / name)


TILES = dict(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
SMOL = [
    case("chat", ask(None, "What is this?"), "wide.png"),
    case("two", "<|im_start|>User:<image> and<image>the same?<end_of_utterance>\nAssistant:", "tall.png", "wide.png"),
    case("text", ask("hello")),
]
idefics3("smolvlm", "smolvlm", TILES | dict(do_image_splitting=False), SMOL, tie_word_embeddings=True)
kept = modeling_idefics3.Idefics3VisionEmbeddings.forward
modeling_idefics3.Idefics3VisionEmbeddings.forward = upright_positions
idefics3("idefics3", "idefics3", TILES, SMOL[:2], version="5.0.0")
modeling_idefics3.Idefics3VisionEmbeddings.forward = kept


def paligemma(name, text):
    tokenizer = gemma_tokenizer()
    text.vocab_size, text.bos_token_id, text.eos_token_id, text.pad_token_id = len(tokenizer), 2, 1, 0
    vision = tf.SiglipVisionConfig(**VISION, vision_use_head=False)
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = tf.PaliGemmaConfig(vision, text, image_token_index=image, projection_dim=16, hidden_size=16, pad_token_id=0, bos_token_id=2, eos_token_id=1)
    images = tf.SiglipImageProcessor(size={"height": 16, "width": 16})
    images.image_seq_length = 16
    # Without the 1,152 tokens for places and segments that the processor adds: they would be most of the file.
    plain = gemma_tokenizer()
    processor = tf.PaliGemmaProcessor(images, tokenizer)
    cases = [case("one", "<image>caption en", "wide.png"), case("bare", "what is this?", "tall.png"), case("two", "<image><image>the same?", "wide.png", "tall.png")]
    write(name, tf.PaliGemmaForConditionalGeneration(config), processor, cases, plain=plain)


GEMMA = TEXT | dict(head_dim=6)
paligemma("paligemma", tf.GemmaConfig(**GEMMA))
paligemma("paligemma2", tf.Gemma2Config(**GEMMA, sliding_window=512, query_pre_attn_scalar=9, attn_logit_softcapping=3.0, final_logit_softcapping=2.0))
