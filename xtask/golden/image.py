"""Goldens of picture decoding and processing: crates/vlm-encoders/tests/golden/image.

Needs transformers 4.57.6 and Pillow 13.0 (older ones order the two resampling passes differently). Run: python xtask/golden/image.py OUT_DIR
Inputs are PNG where levels are compared (JPEG decoders differ by a level or two).
Expected bytes come from CLIPImageProcessor (the slow one, on Pillow) with rescaling and
normalising turned off; expected numbers from the whole of it.
"""

import json
import pathlib
import sys

import numpy as np
import PIL
import transformers
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from transformers import CLIPImageProcessor

OUT = pathlib.Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(7)


def scene(width, height):
    """Edges, gradients and noise: overshoot, rounding and clipping all occur."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x * y) % 256], -1)
    base[(x // 5 + y // 7) % 3 == 0] = (255, 0, 255)
    noise = rng.integers(-40, 40, base.shape)
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def clip(edge, **more):
    return CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}, **more)


def run(processor, picture, **more):
    # Told outright: for a picture of 1 or 3 rows transformers would guess the wrong layout.
    out = processor(picture, input_data_format="channels_last", return_tensors="np", **more)
    return out["pixel_values"][0]


tensors, cases = {}, []


def case(name, file, **options):
    """Bytes after resize and crop, [height, width, 3]."""
    picture = Image.open(OUT / file)
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    processor = CLIPImageProcessor(**options)
    out = run(processor, picture, do_rescale=False, do_normalize=False)
    tensors[name] = np.ascontiguousarray(out.transpose(1, 2, 0)).astype(np.uint8)
    cases.append({"name": name, "file": file, "config": json.loads(processor.to_json_string())})


def square(edge, **more):
    return {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}, **more}


sizes = {"wide": (96, 61), "tall": (37, 83), "small": (13, 9), "dot": (1, 1), "strip": (3, 200), "same": (32, 32), "odd": (45, 35)}
for name, (w, h) in sizes.items():
    Image.fromarray(scene(w, h)).save(OUT / f"{name}.png", optimize=True)
    case(f"{name}-32", f"{name}.png", **square(32))
for number in range(6):
    for name in ("wide", "small"):
        case(f"{name}-filter{number}", f"{name}.png", **square(31, resample=number))
case("wide-exact", "wide.png", size={"height": 20, "width": 50}, do_center_crop=False)
case("wide-free", "wide.png", size={"shortest_edge": 24}, do_center_crop=False)
case("small-pad", "small.png", do_resize=False, crop_size={"height": 16, "width": 10})
case("odd-cut", "odd.png", do_resize=False, crop_size={"height": 32, "width": 20})

# Sorts of files. Where Pillow and the crate agree, the decoded picture is compared whole.
small = scene(24, 18)
grey16 = (np.arange(24 * 18).reshape(18, 24) * 150).astype(np.uint16)
Image.fromarray(grey16).save(OUT / "grey16.png")
Image.fromarray(small).convert("L").save(OUT / "grey.png")
Image.fromarray(small).quantize(16).save(OUT / "palette.png")
Image.fromarray(small).convert("1").save(OUT / "bits.png")
Image.fromarray(small).save(OUT / "lossless.webp", lossless=True)
Image.fromarray(small).save(OUT / "plain.bmp")
Image.fromarray(small).save(OUT / "packed.tiff", compression="tiff_lzw")
frames = [Image.fromarray(scene(24, 18)).quantize(16) for _ in range(2)]
frames[0].save(OUT / "moving.gif", save_all=True, append_images=frames[1:], duration=50)
colours = [Image.fromarray(scene(24, 18)) for _ in range(2)]
colours[0].save(OUT / "moving.png", save_all=True, append_images=colours[1:], duration=50)
colours[0].save(OUT / "moving.webp", save_all=True, append_images=colours[1:], duration=50, lossless=True)
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(scene(7, 4)).save(OUT / f"turned{orientation}.png", exif=exif)
smooth = np.stack([*np.meshgrid(np.linspace(0, 255, 24), np.linspace(255, 0, 18)), np.full((18, 24), 90.0)], -1).astype(np.uint8)
exif = Image.Exif()
exif[0x0112] = 6
Image.fromarray(smooth).save(OUT / "turned.jpg", quality=95, subsampling=0, exif=exif)
cmyk = np.concatenate([smooth, (smooth[..., :1] // 2)], -1)
Image.fromarray(cmyk, mode="CMYK").save(OUT / "cmyk.jpg", quality=95)
decoded = ["grey16.png", "grey.png", "palette.png", "bits.png", "lossless.webp", "plain.bmp", "packed.tiff", "moving.gif", "moving.png",
           "moving.webp", "turned.jpg", "cmyk.jpg"] + [f"turned{n}.png" for n in range(1, 9)]
for file in decoded:
    picture = Image.open(OUT / file)
    picture.seek(0)
    tensors[f"decoded/{file}"] = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
# Pillow cuts 16-bit grey off at 255 instead of scaling it; the crate keeps the high byte.
tensors["decoded/grey16.png"] = np.repeat((grey16 >> 8).astype(np.uint8)[..., None], 3, -1)

# Alpha: Pillow's `convert` drops it, the crate lays it on white.
alpha = np.dstack([small, rng.integers(0, 256, small.shape[:2], dtype=np.uint8)])
Image.fromarray(alpha).save(OUT / "alpha.png")
tensors["rgba/alpha.png"] = alpha
a = alpha[..., 3:].astype(np.int64)
tensors["white/alpha.png"] = ((alpha[..., :3] * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)

# Numbers: all the way, and at CLIP's own size as a checksum of the bytes and one row of numbers.
wide = Image.open(OUT / "wide.png")
tensors["normalised-16"] = run(clip(16), wide).astype(np.float32)
large = run(clip(224), wide)
tensors["normalised-224-row100"] = np.ascontiguousarray(large[:, 100, :]).astype(np.float32)
levels = run(clip(224), wide, do_rescale=False, do_normalize=False).transpose(1, 2, 0).astype(np.uint8)

save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, OUT / "expected.safetensors")
(OUT / "cases.json").write_text(json.dumps({
    "transformers": transformers.__version__,
    "pillow": PIL.__version__,
    "sum_224": int((levels.astype(np.uint64).ravel() * (np.arange(levels.size, dtype=np.uint64) % 65521 + 1)).sum()),
    "decoded": decoded,
    "cases": cases,
}, indent=1) + "\n")
