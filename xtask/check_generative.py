"""Compares a generative model folder under `vlm generate` with the same folder under transformers.

Run: python xtask/check_generative.py DIR --image FILE… --prompt TEXT [--vlm target/release/vlm]
Needs torch, transformers 4.57 and safetensors; DIR is one that transformers knows too, such as what
`vlm assemble --fusion mlp` made and `vlm train` trained. Each picture is asked about by itself. Ends
with 1 if tokens differ, a logit of any position differs by more than 1e-3 of the largest, or the
answer (64 tokens, greedy) is another one. Pictures should be opaque and not JPEG.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.image_utils import load_image

parser = argparse.ArgumentParser()
parser.add_argument("dir", type=pathlib.Path)
parser.add_argument("--image", nargs="+", required=True)
parser.add_argument("--prompt", required=True)
parser.add_argument("--vlm", default="target/release/vlm")
args = parser.parse_args()

# Pillow's pixels: torchvision's differ by some levels.
processor = AutoProcessor.from_pretrained(args.dir, use_fast=False)
model, info = AutoModelForImageTextToText.from_pretrained(args.dir, dtype=torch.float32, output_loading_info=True)
model.eval()
print(f"{type(model).__name__}; " + "; ".join(f"{name}: {', '.join(keys)}" for name, keys in info.items() if keys))
fails = False
for file in args.image:
    with tempfile.TemporaryDirectory() as scratch:
        logits = pathlib.Path(scratch) / "logits.safetensors"
        command = [args.vlm, "generate", "--model", args.dir, "--image", file, "--prompt", args.prompt]
        command += ["--json", "--max-tokens", "64", "--temperature", "0", "--logits", logits]
        said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        ours = load_file(logits)
    ids = ours["input_ids"].long()
    # The prompt as it was cut into tokens, with one mark for each picture again.
    token = processor.image_token
    text = processor.tokenizer.decode(ids[0])
    while token * 2 in text:
        text = text.replace(token * 2, token)
    inputs = processor(images=load_image(file), text=text, return_tensors="pt", add_special_tokens=False)
    # Some tokenizers say which sentence a token is of, which no model here asks for.
    inputs.pop("token_type_ids", None)
    same = torch.equal(inputs["input_ids"], ids)
    worst = float("nan")
    answered = False
    if same:
        with torch.no_grad():
            theirs = model(**inputs).logits
            answer = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
        worst = ((theirs - ours["logits"]).abs().max() / theirs.abs().max()).item()
        answered = answer.tolist() == said["token_ids"]
    fails |= not (same and worst <= 1e-3 and answered)
    print(f"{file}: tokens {'equal' if same else 'differ'}, largest difference {worst:.1e} of the largest logit, answer {'equal' if answered else 'differs'}: {said['text']!r}")
sys.exit(fails)
