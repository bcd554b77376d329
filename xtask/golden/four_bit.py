"""Goldens of weights of four bits: crates/vlm-fusion/tests/golden/four_bit.

Needs transformers 4.57.6, torch 2.9 and bitsandbytes 0.50.2. Run: python xtask/golden/four_bit.py OUT_DIR
Each folder is a small model among the goldens as transformers writes it with bitsandbytes, and
expected.safetensors: tokens, pixels, logits; and of one linear map what bitsandbytes unpacks its weight
to (NAME.unpacked).
"""

import os
import pathlib
import shutil
import sys

import torch
import transformers as tf
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1]).resolve()
os.chdir(pathlib.Path(__file__).resolve().parents[2] / "crates")
torch.set_num_threads(1)


def ids(columns, vocabulary):
    return torch.tensor([[(5 * c + 3) % vocabulary for c in range(columns)]])


def make(name, kind, source, inputs, code, nested):
    config = tf.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=code,
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = kind.from_pretrained(source, dtype=torch.float32, quantization_config=config, device_map="cpu")
    # Otherwise bitsandbytes computes in bfloat16, and wants 32 outputs or a multiple.
    model.train()
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    for file in source.iterdir():
        if not (folder / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, folder)
    with torch.no_grad():
        expected = dict(inputs, logits=model(**inputs).logits.contiguous())
    for path, module in model.named_modules():
        if path.endswith("layers.0.mlp.down_proj"):
            weight = module.weight
            expected[f"{path}.unpacked"] = dequantize_4bit(weight.data, weight.quant_state).float().contiguous()
    save_file(expected, folder / "expected.safetensors")
    print(name, sorted(expected), float(expected["logits"].abs().max()))


def wide():
    """The small LLaVA with rows of whole blocks: bitsandbytes 0.50.2 unpacks others wrongly on a CPU."""
    small = pathlib.Path("vlm-fusion/tests/golden/generative/llava-clip")
    config = tf.AutoConfig.from_pretrained(small)
    for part in [config.text_config, config.vision_config]:
        part.hidden_size, part.intermediate_size, part.num_hidden_layers = 64, 128, 2
    config.text_config.num_hidden_layers, config.text_config.head_dim = 1, 16
    torch.manual_seed(0)
    model = tf.LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(4) if p.dim() > 1 else p.add_(0.1 * torch.randn_like(p))
    folder = OUT / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    for file in small.iterdir():
        if not (folder / file.name).exists() and file.name not in ["expected.safetensors", "cases.json"]:
            shutil.copy(file, folder)
    return folder


llava = wide()
token = tf.AutoConfig.from_pretrained(llava).image_token_id
text = torch.cat([ids(3, 330), torch.full((1, 16), token), ids(5, 330)], 1)
pixels = torch.sin(torch.arange(3 * 16 * 16, dtype=torch.float32) * 0.37).reshape(1, 3, 16, 16)
inputs = {"input_ids": text, "pixel_values": pixels}
make("nf4", tf.LlavaForConditionalGeneration, llava, inputs, "nf4", True)
make("fp4", tf.LlavaForConditionalGeneration, llava, inputs, "fp4", False)
