"""Goldens of the image processor classes: crates/vlm-encoders/tests/golden/processors.

Needs transformers 4.57.6 and Pillow 13.0. Run: python xtask/golden/processors.py OUT_DIR
Expected levels come from the slow processors, on Pillow, with rescaling and normalising turned off,
expected numbers from the whole of them; at the classes' own sizes only checksums are kept.
Decoding and the resampling filters are in image.py.
"""

import json
import pathlib
import sys

import numpy as np
import PIL
import transformers
from PIL import Image
from safetensors.numpy import save_file
from transformers import BitImageProcessor, CLIPImageProcessor, Siglip2ImageProcessor, SiglipImageProcessor, ViTImageProcessor
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(11)


def photo(width, height):
    """Soft shapes with a little noise and one hard edge, as a photo has them."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = x / max(width, 2), y / max(height, 2)
    base = np.stack([np.sin(5 * u + 3 * v), np.cos(4 * v - 2 * u), np.sin(9 * u * v + 1)], -1) * 110 + 128
    base[u + v > 1.3] = (250, 240, 8)
    return np.clip(base + rng.normal(0, 4, base.shape), 0, 255).astype(np.uint8)


# Width and height: beside the targets of 24 pixels larger, smaller, equal, and thin as a line.
SIZES = {"landscape": (91, 53), "portrait": (47, 73), "tiny": (3, 2), "line": (40, 1), "post": (1, 37), "same": (24, 24), "small": (17, 11)}
# Old files, and one whose crop is larger than what is resized.
SQUARE = {"size": {"height": 24, "width": 24}}
CLASSES = {
    "clip": (CLIPImageProcessor, {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
    "clip-upright": (CLIPImageProcessor, {"size": {"shortest_edge": 20}, "crop_size": {"height": 30, "width": 14}}),
    "siglip": (SiglipImageProcessor, SQUARE),
    "siglip-wide": (SiglipImageProcessor, {"size": {"height": 13, "width": 31}}),
    "vit": (ViTImageProcessor, SQUARE),
    "vit-imagenet": (ViTImageProcessor, {"size": 19, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    "dinov2": (BitImageProcessor, {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28},
                                   "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    "siglip2": (Siglip2ImageProcessor, {"patch_size": 4, "max_num_patches": 30}),
    "siglip2-few": (Siglip2ImageProcessor, {"patch_size": 8, "max_num_patches": 3}),
}
DEFAULTS = {"clip": CLIPImageProcessor, "siglip": SiglipImageProcessor, "vit": ViTImageProcessor, "bit": BitImageProcessor,
            "siglip2": Siglip2ImageProcessor}


def run(processor, file, **more):
    picture = Image.open(OUT / file)
    # Told outright: for a picture of 1 or 3 rows transformers would guess the wrong layout.
    return processor(picture, input_data_format="channels_last", return_tensors="np", **more)


def levels(out):
    values = out["pixel_values"][0]
    values = values if "spatial_shapes" in out else values.transpose(1, 2, 0)
    assert values.min() >= 0 and values.max() <= 255 and (values == values.astype(np.uint8)).all()
    return np.ascontiguousarray(values.astype(np.uint8))


def checksum(values):
    weights = np.arange(values.size, dtype=np.uint64) % 65521 + 1
    return int((values.astype(np.uint64).ravel() * weights).sum())


tensors, cases, whole = {}, [], []
for picture, (width, height) in SIZES.items():
    Image.fromarray(photo(width, height)).save(OUT / f"{picture}.png", optimize=True)
for name, (cls, options) in CLASSES.items():
    processor = cls(**options)
    case = {"name": name, "config": json.loads(processor.to_json_string()), "grids": {}}
    for picture in SIZES:
        out = run(processor, f"{picture}.png", do_rescale=False, do_normalize=False)
        tensors[f"{name}/{picture}"] = levels(out)
        if "spatial_shapes" in out:
            grid = [int(n) for n in out["spatial_shapes"][0]]
            case["grids"][picture] = grid
            mask = out["pixel_attention_mask"][0]
            assert mask.sum() == grid[0] * grid[1] and mask[: mask.sum()].all()
    tensors[f"{name}/numbers"] = run(processor, "portrait.png")["pixel_values"][0].astype(np.float32)
    cases.append(case)
for name, cls in DEFAULTS.items():
    out = {picture: levels(run(cls(), f"{picture}.png", do_rescale=False, do_normalize=False)) for picture in ("landscape", "tiny")}
    whole.append({"class": cls.__name__, "sums": {picture: checksum(values) for picture, values in out.items()},
                  "config": json.loads(cls().to_json_string())})
# In tiles: of each the checksum, the whole picture last.
TILED = {
    "idefics3": (Idefics3ImageProcessor, {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 16}}),
    "idefics3-uneven": (Idefics3ImageProcessor, {"size": {"longest_edge": 50}, "max_image_size": {"longest_edge": 13}, "resample": 3}),
    "idefics3-whole": (Idefics3ImageProcessor, {"size": {"longest_edge": 40}, "max_image_size": {"longest_edge": 24}, "do_image_splitting": False}),
    "idefics3-as-is": (Idefics3ImageProcessor, {"do_resize": False, "max_image_size": {"longest_edge": 24}}),
    "smolvlm": (SmolVLMImageProcessor, {"size": {"longest_edge": 24}, "max_image_size": {"longest_edge": 24}}),
    "idefics3-usual": (Idefics3ImageProcessor, {}),
}
tiled = []
for name, (cls, options) in TILED.items():
    processor = cls(**options)
    case = {"name": name, "config": json.loads(processor.to_json_string()), "grids": {}, "sums": {}}
    for picture in SIZES:
        out = run(processor, f"{picture}.png", do_rescale=False, do_normalize=False, return_row_col_info=True)
        values = out["pixel_values"][0].transpose(0, 2, 3, 1)
        assert (values == values.astype(np.uint8)).all() and out["pixel_attention_mask"].all()
        case["grids"][picture] = [out["rows"][0][0], out["cols"][0][0]]
        case["sums"][picture] = [checksum(np.ascontiguousarray(tile)) for tile in values]
    tiled.append(case)
# What the search for a size makes of more sizes than there are pictures: height, width, patch, most, height, width.
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches as fit

sizes = [(int(h), int(w)) for h, w in zip(np.exp(rng.uniform(0, 9, 150)), np.exp(rng.uniform(0, 9, 150)))]
fits = [[h, w, p, n, *fit(h, w, p, n)] for (h, w), p, n in zip(sizes, [16, 14, 32, 4, 1] * 30, [256, 1024, 576, 1, 7, 100] * 25)]

save_file(tensors, OUT / "expected.safetensors")
(OUT / "cases.json").write_text(json.dumps({
    "transformers": transformers.__version__, "pillow": PIL.__version__, "cases": cases, "defaults": whole, "tiled": tiled, "fits": fits,
}) + "\n")
