"""Goldens of ONNX files: crates/vlm-import/tests/golden/onnx_files.

Needs transformers 4.57.6, onnx. Run: python xtask/golden/onnx_files.py OUT_DIR
A tiny DINOv2 with random weights inside a model with a head, exported by PyTorch's older exporter as
published files were; the states are transformers' own. Once more with norms as one operation, and as
the encoder alone.
"""

import pathlib
import sys

import torch
import transformers as tf
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)


class Headed(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = torch.nn.Linear(backbone.config.hidden_size, 5)

    def forward(self, pixels):
        return self.head(self.backbone(pixels).last_hidden_state[:, 0])


class Alone(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.embeddings, self.encoder, self.layernorm = backbone.embeddings, backbone.encoder, backbone.layernorm

    def forward(self, pixels):
        return self.layernorm(self.encoder(self.embeddings(pixels)).last_hidden_state)


def write(name, wrap, opset, plain, **more):
    torch.manual_seed(len(name))
    config = tf.Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, patch_size=4, image_size=20, mlp_ratio=2, attn_implementation="eager", **more)
    model = tf.Dinov2Model(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            # Where weights are the same the exporter keeps one: norms and zero biases as they are made.
            if not plain or weight.ndim > 1:
                weight.normal_(0, 0.2).add_(1 if "norm" in key and key.endswith("weight") else 0)
    pixels = torch.randn(1, 3, 20, 20)
    axes = {"pixels": {0: "batch"}}
    torch.onnx.export(wrap(model).eval(), (torch.randn(1, 3, 12, 12),), OUT / f"{name}.onnx", opset_version=opset, input_names=["pixels"], dynamic_axes=axes, dynamo=False)
    with torch.no_grad():
        small = pixels[:, :, :12, :12].contiguous()
        out = {"pixels": pixels, "last_hidden_state": model(pixels).last_hidden_state, "small": small, "small_hidden_state": model(small).last_hidden_state}
    save_file({key: value.contiguous() for key, value in out.items()}, OUT / f"{name}.safetensors")


write("headed", Headed, 14, False)
write("same", Headed, 14, True)
write("alone", Alone, 17, False, layer_norm_eps=1e-5)
