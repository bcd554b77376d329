"""Compares a model folder under `vlm embed` with the same folder under transformers.

Run: python xtask/check_folder.py DIR --image FILE… --text TEXT… [--vlm target/release/vlm]
Needs torch and transformers, 4 or 5. Ends with 1 if a value of an L2-normalised embedding differs
by more than 1e-4 or a cosine is below 0.99999. Prints the peak memory of `vlm` as well. Pictures
should be opaque and not JPEG: alpha and JPEG decoders are documented differences.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("dir", type=pathlib.Path)
parser.add_argument("--image", nargs="+", required=True)
parser.add_argument("--text", nargs="+", required=True)
parser.add_argument("--vlm", default="target/release/vlm")
args = parser.parse_args()
wanted = {"image": args.image, "text": args.text}


def vlm(kind):
    """The embeddings, and the peak resident memory in bytes (Linux)."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen([args.vlm, "embed", "--model", args.dir, "--json", f"--{kind}", *wanted[kind]], stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            sys.exit(f"vlm embed --{kind} failed")
        out.seek(0)
        rows = json.load(out)["embeddings"]
    if [row[kind] for row in rows] != wanted[kind]:
        sys.exit(f"vlm embed --{kind} answers in another order")
    return [row["embedding"] for row in rows], usage.ru_maxrss * 1024


# Before torch is there: a child's peak counts what its parent held when it was started.
ours = {kind: vlm(kind) for kind in wanted}

import torch
import transformers
from transformers import CLIPModel, CLIPProcessor
from transformers.image_utils import load_image


def normalised(features):
    # transformers 5 wraps the features.
    features = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(features, dim=-1)


# Pillow's pixels: torchvision's, the default of transformers 5, differ by some levels.
pillow = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
processor = CLIPProcessor.from_pretrained(args.dir, **pillow)
# Half precision stays what it is in the file and is computed with in f32, as `vlm` does.
model = CLIPModel.from_pretrained(args.dir, dtype=torch.float32).eval()
pixels = processor(images=[load_image(file) for file in args.image], return_tensors="pt")
tokens = processor(text=args.text, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    theirs = {"image": normalised(model.get_image_features(**pixels)), "text": normalised(model.get_text_features(**tokens))}

print(f"{args.dir} under transformers {transformers.__version__}")
size = sum(file.stat().st_size for file in args.dir.glob("*.safetensors"))
fails = False
for kind, (rows, peak) in ours.items():
    rows = torch.tensor(rows)
    worst = (rows - theirs[kind]).abs().max().item()
    cosine = torch.nn.functional.cosine_similarity(rows.double(), theirs[kind].double()).min().item()
    fails |= not (worst <= 1e-4 and cosine >= 0.99999)
    print(f"{kind:5} {len(rows):3}  largest difference {worst:.1e}  least cosine {cosine:.9f}  peak memory {peak / 1e6:.0f} MB, file {size / 1e6:.0f} MB")
sys.exit(fails)
