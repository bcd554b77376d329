"""Goldens of CLIPModel: crates/vlm-encoders/tests/golden/clip.

Needs transformers 4.57.6 and torch 2.9. Run: python xtask/golden/clip.py OUT_DIR
Each folder holds what `save_pretrained` wrote for a random model, and expected.safetensors with
inputs and the outputs computed in f32, from the rounded weights where they are f16 or bf16.
Every parameter is random, so that a bias or a norm's weight in the wrong place shows.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

OUT = pathlib.Path(sys.argv[1])
torch.set_num_threads(1)
# A tower whose sizes all differ, so that none can be taken for another.
VISION = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=4)
TEXT = dict(hidden_size=16, intermediate_size=36, num_hidden_layers=1, num_attention_heads=4, vocab_size=60, max_position_embeddings=9)


def model(seed, projection_dim, text, vision):
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=TEXT | text, vision_config=VISION | vision, projection_dim=projection_dim, logit_scale_init_value=1.5)
    made = CLIPModel(config).eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name == "logit_scale":
                p.fill_(1.25)
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif p.dim() < 2 or "embedding.weight" in name and "patch" not in name:
                p.copy_(0.5 * torch.randn_like(p))
            else:
                p.copy_(1.5 * p[0].numel() ** -0.5 * torch.randn_like(p))
    return made


def age(folder):
    """Adds what old files carry: position ids, and a second copy of a tower's config that wins."""
    file = folder / "model.safetensors"
    extra = {f"{tower}_model.embeddings.position_ids": torch.arange(n).expand(1, -1).contiguous() for tower, n in (("text", 9), ("vision", 2))}
    save_file(load_file(file) | extra, file, metadata={"format": "pt"})
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["text_config_dict"] = config["text_config"]
    config["text_config"] = {"hidden_act": "gelu", "hidden_size": 99}
    config["vision_config_dict"] = None
    file.write_text(json.dumps(config, indent=2) + "\n")


def write(name, made, ids, dtype=torch.float32, aged=False, **more):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    made.to(dtype).save_pretrained(folder, **more)
    if aged:
        age(folder)
    made = CLIPModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    vision = made.config.vision_config
    torch.manual_seed(len(name))
    pixels = torch.randn(2, vision.num_channels, vision.image_size, vision.image_size)
    ids = torch.tensor(ids)
    with torch.no_grad():
        out = made(pixel_values=pixels, input_ids=ids)
    # Features before they are normalised hold their length as well.
    with torch.no_grad():
        image, text = made.get_image_features(pixels), made.get_text_features(ids)
    save_file({
        "pixel_values": pixels,
        "input_ids": ids,
        "image_features": image,
        "text_features": text,
        "image_embeds": out.image_embeds,
        "text_embeds": out.text_embeds,
        "logits_per_image": out.logits_per_image.contiguous(),
    }, folder / "expected.safetensors")


# As CLIP's own: the end token is the last of the vocabulary, and fills the rows too.
CLIP_IDS = [[58, 5, 9, 31, 59, 59, 59], [58, 59, 59, 59, 59, 59, 59], [58, 0, 1, 2, 3, 4, 59], [58, 5, 9, 31, 17, 59, 59]]
ends = dict(bos_token_id=58, eos_token_id=59, pad_token_id=59)
write("quick", model(1, 12, ends, {}), CLIP_IDS)
write("f16", model(1, 12, ends, {}), CLIP_IDS, torch.float16)
write("bf16", model(1, 12, ends, {}), CLIP_IDS, torch.bfloat16)
write("sharded", model(1, 12, ends, {}), CLIP_IDS, max_shard_size="20KB")

# Exact gelu, other eps, a picture that patches do not cover (the rest is left out), an end token
# amid the vocabulary with larger ids after it, and a text without one (transformers pools at 0).
gelu = dict(hidden_act="gelu", layer_norm_eps=1e-2)
write(
    "gelu",
    model(2, 20, gelu | dict(num_hidden_layers=2, bos_token_id=6, eos_token_id=7, pad_token_id=0), gelu | dict(image_size=15, num_hidden_layers=1)),
    [[6, 50, 51, 7, 0, 0, 0, 0, 0], [6, 1, 7, 59, 7, 2, 0, 0, 0], [6, 50, 51, 52, 53, 54, 55, 56, 57]],
)

# End token 2 in the config means "the largest id", the first one if it occurs twice; a 2 in the
# text means nothing. Grey pictures, one patch, one head.
write(
    "legacy",
    model(3, 16, dict(hidden_act="relu", num_attention_heads=1, bos_token_id=0, eos_token_id=2, pad_token_id=1), dict(num_channels=1, image_size=5, num_attention_heads=1, hidden_act="silu")),
    [[57, 2, 9, 59, 1, 1], [57, 2, 59, 4, 59, 2], [57, 1, 1, 1, 1, 1]],
    aged=True,
)
