"""Goldens of every family that vlm-encoders opens: crates/vlm-encoders/tests/golden/encoders.

Needs transformers 4.57.6, torch 2.9 and open_clip 3.3. Run: python xtask/golden/encoders.py OUT_DIR
Each folder holds what the reference wrote for a random model (in f16, to keep it small), and
expected.safetensors with inputs and outputs, computed in f32 from the rounded weights. Every
parameter is random, so that a bias or a norm's weight in the wrong place shows.
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers as tf
from safetensors.torch import load_file, save_file

OUT = pathlib.Path(sys.argv[1])
torch.set_num_threads(1)


def randomise(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("logit_scale"):
                p.fill_(1.25)
            elif "norm" in name.lower() and name.endswith("weight") or "lambda1" in name or ".ln_" in name and name.endswith("weight"):
                # Gemma's norms count from 1.
                p.copy_((0 if "gemma" in type(model).__name__.lower() else 1) + 0.3 * torch.randn_like(p))
            elif p.dim() < 2 or "embed" in name and "projection" not in name and "patch" not in name:
                p.copy_(0.5 * torch.randn_like(p))
            else:
                p.copy_(1.5 * p[0].numel() ** -0.5 * torch.randn_like(p))
    return model.eval()


def save(folder, inputs, outputs):
    tensors = {k: v.detach().clone().contiguous() for k, v in (inputs | outputs).items() if v is not None}
    save_file(tensors, folder / "expected.safetensors")


def outputs(out):
    found = {"last_hidden_state": out.last_hidden_state, "pooler_output": getattr(out, "pooler_output", None)}
    for name in ("image_embeds", "text_embeds"):
        found[name] = getattr(out, name, None)
    for i, state in enumerate(out.hidden_states or ()):
        found[f"hidden_states.{i}"] = state
    return found


def write(name, cls, config, inputs, run=None, seed=0, change=None):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = randomise(cls(config), seed + len(name))
    model.to(torch.float16).save_pretrained(folder)
    if change:
        change(folder)
    model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        found = (run or (lambda m, x: outputs(m(**x, output_hidden_states=True))))(model, inputs)
    save(folder, inputs, found)


def pixels(*shape):
    torch.manual_seed(sum(shape))
    return {"pixel_values": torch.randn(*shape)}


def ids(vocabulary, lengths, side="right", seed=3, fill=0):
    torch.manual_seed(seed)
    longest = max(lengths)
    rows = torch.full((len(lengths), longest), fill)
    mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, n in enumerate(lengths):
        at = slice(0, n) if side == "right" else slice(longest - n, longest)
        rows[row, at] = torch.randint(1, vocabulary, (n,))
        mask[row, at] = 1
    return {"input_ids": rows, "attention_mask": mask}


VISION = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, patch_size=4)
TEXT = dict(hidden_size=16, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, vocab_size=40)

# CLIP's towers alone, with projections.
write("clip-vision", tf.CLIPVisionModelWithProjection, tf.CLIPVisionConfig(**VISION, image_size=18, projection_dim=10), pixels(2, 3, 18, 18))
clip_ids = ids(38, [5, 8])
clip_ids["input_ids"][0, 4] = 39
clip_ids["input_ids"][1, 6] = 39
write("clip-text", tf.CLIPTextModelWithProjection, tf.CLIPTextConfig(**TEXT, max_position_embeddings=9, eos_token_id=39, bos_token_id=38, projection_dim=10), clip_ids)


# SigLIP: dual, and an image tower without a head. The picture has a rest that no patch covers.
def dual(model, inputs):
    out = model(**inputs, output_hidden_states=True)
    vision, text = out.vision_model_output, out.text_model_output
    return {
        "vision.last_hidden_state": vision.last_hidden_state,
        "vision.pooler_output": vision.pooler_output,
        "text.last_hidden_state": text.last_hidden_state,
        "text.pooler_output": text.pooler_output,
        "image_embeds": out.image_embeds,
        "text_embeds": out.text_embeds,
        "logits_per_image": out.logits_per_image,
    }


siglip_text = TEXT | dict(max_position_embeddings=7, projection_size=24)
siglip_ids = {"input_ids": ids(40, [7, 7, 7])["input_ids"]}
write("siglip", tf.SiglipModel, tf.SiglipConfig(text_config=siglip_text, vision_config=VISION | dict(image_size=18)), pixels(2, 3, 18, 18) | siglip_ids, dual)
write("siglip-vision", tf.SiglipVisionModel, tf.SiglipVisionConfig(**VISION, image_size=16, vision_use_head=False), pixels(1, 3, 16, 16))
write("siglip-text", tf.SiglipTextModel, tf.SiglipTextConfig(**siglip_text), siglip_ids)

# SigLIP 2 with grids of their own: 3x4 and 2x5 of 12 patches, from a table of 4x4.
torch.manual_seed(5)
grids = torch.tensor([[3, 4], [2, 5]])
seen = torch.tensor([[1] * 12, [1] * 10 + [0] * 2])
flat = {"pixel_values": torch.randn(2, 12, 3 * 16), "pixel_attention_mask": seen, "spatial_shapes": grids}
flexible = {k: v for k, v in VISION.items()} | dict(num_patches=16)
write("siglip2", tf.Siglip2Model, tf.Siglip2Config(text_config=siglip_text, vision_config=flexible), flat | siglip_ids, dual)

# ViT: not square, with and without its dense pooling and the biases of q, k and v.
write("vit", tf.ViTModel, tf.ViTConfig(**VISION, image_size=[12, 20], qkv_bias=False), pixels(2, 3, 12, 20))
base = lambda name: lambda model, inputs: outputs(getattr(model, name)(**inputs, output_hidden_states=True))
write("vit-classifier", tf.ViTForImageClassification, tf.ViTConfig(**VISION, image_size=16, num_labels=5, hidden_act="gelu_new"), pixels(1, 3, 16, 16), base("vit"))

# DINOv2: trained on 16x16, looking at that, at smaller, larger, oblong and uneven pictures.
dino = {k: v for k, v in VISION.items() if k != "intermediate_size"} | dict(image_size=16, mlp_ratio=2)


def sizes(model, inputs):
    found = {}
    for name, picture in inputs.items():
        out = model(picture, output_hidden_states=True)
        found |= {f"{name}.last": out.last_hidden_state, f"{name}.pooled": out.pooler_output}
    return found


many = {f"pixels.{h}x{w}": pixels(1, 3, h, w)["pixel_values"] for h, w in [(16, 16), (8, 8), (24, 24), (12, 22), (8, 32)]}
write("dinov2", tf.Dinov2Model, tf.Dinov2Config(**dino), many, sizes)
write("dinov2-gated", tf.Dinov2Model, tf.Dinov2Config(**dino, use_swiglu_ffn=True, qkv_bias=False), pixels(2, 3, 16, 16))
write("dinov2-classifier", tf.Dinov2ForImageClassification, tf.Dinov2Config(**dino, num_labels=3), pixels(1, 3, 16, 16), base("dinov2"))
write("dinov2-registers", tf.Dinov2WithRegistersModel, tf.Dinov2WithRegistersConfig(**dino, num_register_tokens=3), many, sizes)

# BERT: as it is, with a head and a prefix, without its pooling and with the names of old.
bert = TEXT | dict(max_position_embeddings=12)
write("bert", tf.BertModel, tf.BertConfig(**bert), ids(40, [9, 4, 1]))
write("bert-masked", tf.BertForMaskedLM, tf.BertConfig(**bert, hidden_act="relu"), ids(40, [6, 3]), base("bert"))


def old_names(folder):
    file = folder / "model.safetensors"
    old = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    tensors = {old(k): v for k, v in load_file(file).items() if "pooler" not in k}
    tensors["embeddings.position_ids"] = torch.arange(12).expand(1, -1).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


folder = OUT / "bert-old"
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(parents=True)
made = randomise(tf.BertModel(tf.BertConfig(**bert), add_pooling_layer=False), 77)
made.half().save_pretrained(folder)
inputs = ids(40, [5, 7])
with torch.no_grad():
    save(folder, inputs, outputs(made.float()(**inputs, output_hidden_states=True)))
old_names(folder)

# Decoders.
LLAMA = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=40, max_position_embeddings=32)


def decoder(model, inputs):
    out = model(**inputs, output_hidden_states=True)
    found = {f"hidden_states.{i}": state for i, state in enumerate(out.hidden_states)}
    return found | {"last_hidden_state": out.hidden_states[-1], "logits": out.logits}


padded = ids(40, [9, 5])
left = ids(40, [9, 5], "left")
write("llama", tf.LlamaForCausalLM, tf.LlamaConfig(**LLAMA), padded, decoder)
write("llama-tied", tf.LlamaForCausalLM, tf.LlamaConfig(**LLAMA | dict(num_key_value_heads=1, head_dim=6), tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-3, rope_theta=500.0), left, decoder)
write("llama-bare", tf.LlamaModel, tf.LlamaConfig(**LLAMA | dict(num_key_value_heads=4)), padded)
long = ids(40, [40])
for name, scaling in {
    "linear": dict(rope_type="linear", factor=2.5),
    "dynamic": dict(rope_type="dynamic", factor=2.0),
    "yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=8),
    "yarn-full": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=8.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=0.4, truncate=False),
    "llama3": dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    "longrope": dict(rope_type="longrope", factor=4.0, short_factor=[1.0, 1.5, 2.0, 2.5], long_factor=[2.0, 3.0, 5.0, 9.0]),
}.items():
    config = tf.LlamaConfig(**LLAMA | dict(num_hidden_layers=1, hidden_size=32), rope_scaling=scaling)
    write(f"rope-{name}", tf.LlamaModel, config, long)
write("qwen2", tf.Qwen2ForCausalLM, tf.Qwen2Config(**LLAMA, tie_word_embeddings=True), padded, decoder)
write("qwen3", tf.Qwen3ForCausalLM, tf.Qwen3Config(**LLAMA, head_dim=8), padded, decoder)
GEMMA = LLAMA | dict(head_dim=6)
write("gemma", tf.GemmaForCausalLM, tf.GemmaConfig(**GEMMA), padded, decoder)
write("gemma2", tf.Gemma2ForCausalLM, tf.Gemma2Config(**GEMMA, sliding_window=4, query_pre_attn_scalar=9, attn_logit_softcapping=3.0, final_logit_softcapping=2.0), padded, decoder)
write("gemma3", tf.Gemma3ForCausalLM, tf.Gemma3TextConfig(**GEMMA | dict(num_hidden_layers=3), sliding_window=4, query_pre_attn_scalar=9, sliding_window_pattern=2, rope_scaling=dict(rope_type="linear", factor=8.0)), padded, decoder)


# CLIP under open_clip's names.
def open_clip_case():
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    folder = OUT / "open-clip"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cfg = dict(
        embed_dim=12,
        quick_gelu=True,
        vision_cfg=dict(image_size=16, layers=2, width=24, head_width=8, patch_size=4, mlp_ratio=2.0),
        text_cfg=dict(context_length=9, vocab_size=40, width=16, heads=4, layers=2),
    )
    model = CLIP(cfg["embed_dim"], CLIPVisionCfg(**cfg["vision_cfg"]), CLIPTextCfg(**cfg["text_cfg"]), quick_gelu=True)
    model = randomise(model, 9).half().float()
    state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    preprocess = dict(size=[16, 16], mode="RGB", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], interpolation="bicubic", resize_mode="shortest", fill_color=0)
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=cfg, preprocess_cfg=preprocess), indent=2) + "\n")
    picture = pixels(2, 3, 16, 16)
    texts = torch.tensor([[38, 5, 9, 39, 0, 0, 0, 0, 0], [38, 5, 9, 31, 17, 1, 2, 3, 39]])
    with torch.no_grad():
        image, text = model.encode_image(picture["pixel_values"]), model.encode_text(texts)
    save(folder, picture | {"input_ids": texts}, {"image_features": image, "text_features": text})


open_clip_case()
