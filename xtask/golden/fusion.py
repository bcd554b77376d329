"""Goldens of the fusion strategies: crates/vlm-fusion/tests/golden/fusion.

Needs transformers 4.57.6, torch 2.9 and flamingo-pytorch 0.1.2. Run: python xtask/golden/fusion.py OUT_DIR
Each file holds the random parameters of a reference module under its own names, what goes in
(in.*), what comes out (out.*), what the loss weighs each output with (loss.*: the loss is the sum
of all products), and the loss's gradient for every parameter and input (grad.*).
"""

import pathlib
import sys

import torch
import transformers as tf
from flamingo_pytorch.flamingo_pytorch import GatedCrossAttentionBlock, PerceiverResampler
from safetensors.torch import save_file
from torch import nn
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)


def randomise(module, seed):
    """Every parameter random, so that a bias or a norm's weight in the wrong place shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() == 1 and name.endswith("weight"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif p.dim() < 2:
                p.copy_(0.5 * torch.randn_like(p))
            else:
                p.copy_(1.5 * p[0].numel() ** -0.5 * torch.randn_like(p))
    return module.eval()


def save(name, module, inputs, outputs, rename=lambda parameters: parameters, keep=None):
    """`keep[output]` is 0 where an output says nothing (padding)."""
    keep = keep or {}
    outputs = {k: v * keep[k] if k in keep else v for k, v in outputs.items()}
    weights = {k: torch.randn_like(v) for k, v in outputs.items()}
    sum((v * weights[k]).sum() for k, v in outputs.items()).backward()
    parameters = rename({k: v.detach() for k, v in module.named_parameters()})
    gradients = rename({k: v.grad for k, v in module.named_parameters()})
    tensors = parameters | {f"grad.{k}": v for k, v in gradients.items()}
    tensors |= {f"in.{k}": v for k, v in inputs.items()}
    tensors |= {f"grad.in.{k}": v.grad for k, v in inputs.items() if v.requires_grad}
    tensors |= {f"out.{k}": v for k, v in outputs.items()}
    tensors |= {f"loss.{k}": v for k, v in weights.items()}
    tensors |= {f"keep.{k}": v for k, v in keep.items()}
    save_file({k: v.detach().clone().contiguous().float() for k, v in tensors.items()}, OUT / f"{name}.safetensors")


def leaf(*shape):
    return torch.randn(*shape).requires_grad_()


def padding(seen):
    """What transformers' layers add to scores: [batch, 1, 1, keys]."""
    return (1 - seen)[:, None, None, :] * -1e9


# BLIP-2's Q-Former: without text, and with one under the three masks of its first stage.
class QFormer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 3, config.hidden_size))
        self.qformer = tf.Blip2QFormerModel(config)


def q_former():
    config = tf.Blip2QFormerConfig(
        hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=12, encoder_hidden_size=6,
        cross_attention_frequency=2, use_qformer_text_input=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    module = randomise(QFormer(config), 1)
    queries, tokens = 3, 4
    inputs = {"picture": leaf(2, 5, 6), "text": leaf(2, tokens, 8)}
    inputs["seen"] = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])
    inputs["patches"] = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    asking = module.query_tokens.expand(2, -1, -1)

    def run(rows, mask):
        out = module.qformer(
            query_embeds=rows, query_length=queries, attention_mask=mask,
            encoder_hidden_states=inputs["picture"], encoder_attention_mask=inputs["patches"],
        )
        return out.last_hidden_state

    both = torch.cat([asking, inputs["text"]], 1)
    total = queries + tokens
    visible = torch.cat([torch.ones(2, queries), inputs["seen"]], 1)
    is_text = torch.arange(total) >= queries
    apart = (is_text[:, None] == is_text[None, :]).float() * visible[:, None, :]
    earlier = torch.arange(total)[:, None] >= torch.arange(total)[None, :]
    caption = torch.where(is_text[:, None], earlier | ~is_text[None, :], ~is_text[None, :]).float() * visible[:, None, :]
    outputs = {"alone": run(asking, None), "together": run(both, visible), "apart": run(both, apart), "caption": run(both, caption)}
    keep = {k: visible[:, :, None] for k in ("together", "apart", "caption")}
    save("q_former", module, inputs, outputs, keep=keep)


# Flamingo's resampler. flamingo-pytorch adds a row to each picture of a series, which
# open_flamingo does not: it is 0 here.
def resampler():
    module = randomise(PerceiverResampler(dim=8, depth=2, dim_head=4, heads=2, num_latents=3, ff_mult=2), 2)
    module.media_pos_emb.data.zero_()
    inputs = {"picture": leaf(2, 5, 8)}
    without = lambda p: {k: v for k, v in p.items() if k != "media_pos_emb"}
    save("resampler", module, inputs, {"latents": module(inputs["picture"])[:, 0]}, without)


def idefics2():
    config = Idefics2PerceiverConfig(
        hidden_size=8, resampler_n_latents=3, resampler_depth=2, resampler_n_heads=4, resampler_head_dim=4,
        num_key_value_heads=2, rms_norm_eps=1e-6, attn_implementation="eager",
    )
    module = randomise(Idefics2PerceiverResampler(config), 3)
    inputs = {"picture": leaf(2, 5, 8), "patches": torch.tensor([[1.0] * 5, [1, 1, 1, 0, 0]])}
    save("idefics2", module, inputs, {"latents": module(inputs["picture"], inputs["patches"])})


# Flamingo's gated blocks before the second and fourth block of a decoder that does nothing; the
# first text has two pictures, the second one, and both begin before any.
def gated():
    blocks = nn.ModuleDict()
    for number in ("1", "3"):
        block = GatedCrossAttentionBlock(dim=8, dim_head=4, heads=2, ff_mult=2)
        block.attn.to_kv = nn.Linear(6, 16, bias=False)
        blocks[number] = block
    randomise(blocks, 4)
    inputs = {"memories": leaf(3, 2, 6), "text": leaf(2, 7, 8)}
    media = torch.stack([inputs["memories"][:2], torch.cat([inputs["memories"][2:], torch.zeros(1, 2, 6)])])
    locations = torch.tensor([[0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0]]).bool()
    x = inputs["text"]
    for block in blocks.values():
        x = block(x, media, media_locations=locations)
    save("gated", blocks, inputs, {"text": x})


# METER's layers, as BridgeTower has them.
class Meter(nn.Module):
    def __init__(self, config, layers):
        super().__init__()
        self.cross_modal_image_layers = nn.ModuleList([BridgeTowerBertCrossLayer(config) for _ in range(layers)])
        self.cross_modal_text_layers = nn.ModuleList([BridgeTowerBertCrossLayer(config) for _ in range(layers)])


def meter():
    config = tf.BridgeTowerConfig(
        hidden_size=8, num_attention_heads=2, intermediate_size=12, layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, is_decoder=False, attn_implementation="eager",
    )
    module = randomise(Meter(config, 2), 5)
    inputs = {"picture": leaf(2, 5, 8), "text": leaf(2, 4, 8)}
    inputs["patches"] = torch.tensor([[1.0] * 5, [1, 1, 1, 1, 0]])
    inputs["seen"] = torch.tensor([[1.0] * 4, [1, 1, 0, 0]])
    x, y = inputs["picture"], inputs["text"]
    hidden, unread = padding(inputs["patches"]), padding(inputs["seen"])
    for image, text in zip(module.cross_modal_image_layers, module.cross_modal_text_layers):
        x, y = (
            image(x, y, attention_mask=hidden, encoder_attention_mask=unread)[0],
            text(y, x, attention_mask=unread, encoder_attention_mask=hidden)[0],
        )
    keep = {"picture": inputs["patches"][:, :, None], "text": inputs["seen"][:, :, None]}
    save("meter", module, inputs, {"picture": x, "text": y}, keep=keep)


# ViLBERT's connection and the layers behind it, from PyTorch's own attention; under our names.
class Stream(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.block = nn.TransformerEncoderLayer(width, heads, inner, 0.0, nn.functional.gelu, 1e-12, batch_first=True)

    def forward(self, x, other, hidden, own_hidden):
        x = self.norm1(x + self.attention(x, other, other, key_padding_mask=hidden, need_weights=False)[0])
        x = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return self.block(x, src_key_padding_mask=own_hidden)


def our_names(parameters):
    renamed = {}
    for name, value in parameters.items():
        stream, rest = name.split(".", 1)
        before = f"{stream}.connections.0."
        if rest.startswith("block."):
            rest = rest.removeprefix("block.")
            before = f"{stream}.stack.blocks.0."
        for theirs, ours in (("self_attn.", "attention."), ("linear1.", "feed_forward.up."), ("linear2.", "feed_forward.down."), ("out_proj.", "out.")):
            rest = rest.replace(theirs, ours)
        if rest.startswith(("up.", "down.")):
            rest = f"feed_forward.{rest}"
        if "in_proj_" in rest:
            for letter, part in zip("qkv", value.chunk(3)):
                renamed[before + rest.replace("in_proj_", f"{letter}.")] = part
        else:
            renamed[before + rest] = value
    return renamed


def vilbert():
    module = randomise(nn.ModuleDict({"picture": Stream(8, 2, 12), "text": Stream(8, 2, 12)}), 6)
    # PyTorch's fast path has no gradients and other sums.
    module.train()
    inputs = {"picture": leaf(2, 5, 8), "text": leaf(2, 4, 8)}
    inputs["patches"] = torch.tensor([[1.0] * 5, [1, 1, 1, 1, 0]])
    inputs["seen"] = torch.tensor([[1.0] * 4, [1, 1, 0, 0]])
    x, y = inputs["picture"], inputs["text"]
    hidden, unread = inputs["patches"] == 0, inputs["seen"] == 0
    x, y = module["picture"](x, y, unread, hidden), module["text"](y, x, hidden, unread)
    keep = {"picture": inputs["patches"][:, :, None], "text": inputs["seen"][:, :, None]}
    save("vilbert", module, inputs, {"picture": x, "text": y}, our_names, keep)


# The whole way of a picture and a question through merged attention, over ViLT's encoder: a grid of
# 3x4 patches in squares of 2x2, maps and norms, sines of places, rows of types.
class Entry(nn.Module):
    def __init__(self, vision, text, width):
        super().__init__()
        self.picture, self.text = nn.Linear(vision, width), nn.Linear(text, width)
        self.picture_norm, self.text_norm = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.types = nn.Parameter(torch.zeros(2, width))


def sines(places, width):
    waves = 10000.0 ** (-torch.arange(width // 2) / (width // 2))
    angles = places[..., None] * waves
    return torch.cat([angles.sin(), angles.cos()], -1)


def merged():
    config = tf.ViltConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )
    vilt = tf.ViltModel(config, add_pooling_layer=False)
    del vilt.embeddings
    module = nn.ModuleDict({"entry": Entry(6, 10, 8), "merged": vilt, "out": nn.Linear(8, 10)})
    randomise(module, 7)
    inputs = {"picture": leaf(2, 12, 6), "text": leaf(2, 4, 10), "seen": torch.tensor([[1.0] * 4, [0, 0, 1, 1]])}
    entry = module["entry"]
    grid = inputs["picture"].transpose(1, 2).unflatten(2, (3, 4))
    squares = nn.functional.avg_pool2d(grid, 2, ceil_mode=True, count_include_pad=False).flatten(2).transpose(1, 2)
    picture = entry.picture_norm(entry.picture(squares)) + entry.types[1]
    places = torch.tensor([[0.0, 1, 2, 3], [0, 0, 0, 1]])
    text = entry.text_norm(entry.text(inputs["text"])) + sines(places, 8) + entry.types[0]
    seen = torch.cat([inputs["seen"], torch.ones(2, 4)], 1)
    states = vilt.encoder(torch.cat([text, picture], 1), attention_mask=padding(seen)).last_hidden_state
    save("merged", module, inputs, {"rows": module["out"](vilt.layernorm(states)[:, 4:])})


for case in (q_former, resampler, idefics2, gated, meter, vilbert, merged):
    case()
