"""Goldens of adapters: crates/vlm-peft/tests/golden/adapters.

Needs transformers 4.57.6, torch 2.9, peft 0.21.2 and bitsandbytes 0.50.2. Run: python xtask/golden/adapters.py OUT_DIR
Each folder FAMILY-METHOD holds an adapter as peft wrote it, for a small model among the goldens of
other crates, and expected.safetensors: what goes in, what the adapted model says, the gradient of
half the sum of its squares by each tensor of the adapter (grad.NAME), and the tensors after five
steps of AdamW on that (after.NAME).
"""

import os
import pathlib
import shutil
import sys

import peft
import torch
import transformers as tf
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1]).resolve()
# peft notes where a model is from.
os.chdir(pathlib.Path(__file__).resolve().parents[2] / "crates")
ENCODERS = pathlib.Path("vlm-encoders/tests/golden")
GENERATIVE = pathlib.Path("vlm-fusion/tests/golden/generative")
torch.set_num_threads(1)


def ids(rows, columns, vocabulary):
    return torch.tensor([[(7 * r + 5 * c + 3) % vocabulary for c in range(columns)] for r in range(rows)])


def pixels(rows, side):
    values = torch.arange(rows * 3 * side * side, dtype=torch.float32)
    return torch.sin(values * 0.37).reshape(rows, 3, side, side)


def llava():
    model = tf.LlavaForConditionalGeneration.from_pretrained(GENERATIVE / "llava-clip", dtype=torch.float32)
    picture = torch.full((1, 16), model.config.image_token_id)
    text = torch.cat([ids(1, 3, 330), picture, ids(1, 5, 330)], 1)
    return model, {"input_ids": text, "pixel_values": pixels(1, 16)}, lambda said: said.logits


def llama():
    model = tf.LlamaForCausalLM.from_pretrained(ENCODERS / "encoders/llama", dtype=torch.float32)
    return model, {"input_ids": ids(2, 7, model.config.vocab_size)}, lambda said: said.logits


def bert():
    model = tf.BertModel.from_pretrained(ENCODERS / "encoders/bert", dtype=torch.float32)
    return model, {"input_ids": ids(2, 7, model.config.vocab_size)}, lambda said: said.last_hidden_state


def clip():
    model = tf.CLIPVisionModelWithProjection.from_pretrained(ENCODERS / "encoders/clip-vision", dtype=torch.float32)
    side = model.config.image_size
    return model, {"pixel_values": pixels(2, side)}, lambda said: said.image_embeds


def four_bit():
    """LLaVA in four bits, as xtask/golden/four_bit.py made it: LoRA on it is QLoRA."""
    folder = pathlib.Path("vlm-fusion/tests/golden/four_bit/nf4")
    model = tf.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, device_map="cpu")
    picture = torch.full((1, 16), model.config.image_token_id)
    text = torch.cat([ids(1, 3, 330), picture, ids(1, 5, 330)], 1)
    return model, {"input_ids": text, "pixel_values": pixels(1, 16)}, lambda said: said.logits


FAMILIES = {"four-bit": four_bit, "llava": llava, "llama": llama, "bert": bert, "clip": clip}
ATTENTION = {"bert": ["query", "value"], "clip": ["q_proj", "v_proj"]}
KEYS = {"bert": r".*\.(key|value|layer\.\d+\.output\.dense)", "clip": ["k_proj", "v_proj", "fc2"]}
INNER = {"bert": r".*\.layer\.\d+\.output\.dense", "clip": ["fc2"]}


# Methods with tensors of the model beside them.
BESIDE = ["lora-saved", "ia3-saved", "lora-biases"]


def methods(family):
    two = ATTENTION.get(family, ["q_proj", "v_proj", "down_proj"])
    keys = KEYS.get(family, ["k_proj", "v_proj", "down_proj"])
    inner = INNER.get(family, ["down_proj"])
    if family == "four-bit":
        return {"lora": peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")}
    found = {
        "lora": peft.LoraConfig(r=3, lora_alpha=6, target_modules=two),
        "rslora": peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules="all-linear"),
        "dora": peft.LoraConfig(r=2, lora_alpha=4, use_dora=True, target_modules=two),
        "ia3": peft.IA3Config(target_modules=keys, feedforward_modules=inner),
    }
    # What trains whole beside an adapter.
    if family == "llava":
        found["lora-saved"] = peft.LoraConfig(r=3, target_modules=two, modules_to_save=["multi_modal_projector"])
    elif family == "llama":
        found["ia3-saved"] = peft.IA3Config(target_modules=keys, feedforward_modules=inner, modules_to_save=["norm"])
    else:
        bias = "all" if family == "bert" else "lora_only"
        found["lora-biases"] = peft.LoraConfig(r=3, target_modules=two, bias=bias)
    # peft has no rows in front of pictures.
    if family != "clip":
        task = "FEATURE_EXTRACTION" if family == "bert" else "CAUSAL_LM"
        found["prefix"] = peft.PrefixTuningConfig(num_virtual_tokens=5, task_type=task)
        found["prompt"] = peft.PromptTuningConfig(num_virtual_tokens=3, task_type=task)
    return found


def spread(model):
    """Values away from the start, the same for everyone."""
    with torch.no_grad():
        for i, (name, p) in enumerate(sorted(trained(model).items())):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float32) * 0.71 + i).reshape(p.shape)
            if "magnitude" in name or "ia3" in name:
                p.mul_(1 + 0.2 * wave)
            else:
                p.copy_(0.2 * wave)


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def stored(name):
    """A parameter's name in adapter_model.safetensors."""
    if name.startswith("prompt_encoder"):
        return "prompt_embeddings"
    name = name.replace(".modules_to_save.default.", ".")
    name = name.replace(".default.weight", ".weight").replace(".default", "")
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def make(out):
    for family, build in FAMILIES.items():
        for method, config in methods(family).items():
            torch.manual_seed(0)
            model, inputs, hear = build()
            # What is said of learned tokens stands in front.
            front = 3 if method == "prompt" else 0
            say = lambda said: hear(said)[:, front:] if front else hear(said)
            model = peft.get_peft_model(model.eval(), config).eval()
            if family == "four-bit":
                # Otherwise bitsandbytes computes in bfloat16.
                model.train()
            spread(model)
            folder = out / f"{family}-{method}"
            shutil.rmtree(folder, ignore_errors=True)
            model.save_pretrained(folder)
            (folder / "README.md").unlink()
            expected = dict(inputs)
            # With a small eps Adam makes whole steps of gradients that are nothing but rounding, such as
            # that of a key's bias.
            eps = 1.0 if method in BESIDE else 1e-6
            optimiser = torch.optim.AdamW(trained(model).values(), lr=0.01, betas=(0.9, 0.98), eps=eps, weight_decay=0)
            for step in range(5):
                said = say(model(**inputs))
                optimiser.zero_grad()
                (0.5 * said.square().sum()).backward()
                if step == 0:
                    expected["said"] = said.detach().clone().contiguous()
                    for name, p in trained(model).items():
                        # Layers of LLaVA's image tower that nothing is read from have no gradient.
                        grad = torch.zeros_like(p) if p.grad is None else p.grad
                        expected["grad." + stored(name)] = grad.clone().contiguous()
                optimiser.step()
            for name, p in trained(model).items():
                expected["after." + stored(name)] = p.detach().clone().contiguous()
            save_file(expected, folder / "expected.safetensors")
            print(folder.name, sorted(k for k in expected if k.startswith("grad."))[:1], float(said.abs().max()))


make(OUT)
