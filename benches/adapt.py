"""What bench-adapt measures, with peft on transformers: one measurement, one JSON line.

Four bits are bitsandbytes'. Threads one a core; the caller sets OMP_PROC_BIND=true, without which threads
wander between cores.
"""

import argparse
import json
import os
import time

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, CLIPModel  # noqa: E402

TWO = ["q_proj", "v_proj"]


def memory(field):
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def config(task, rank, clip):
    kind = None if clip else "CAUSAL_LM"
    inner = "fc2" if clip else "down_proj"

    def lora(targets, **more):
        return LoraConfig(r=rank, lora_alpha=8, target_modules=targets, task_type=kind, **more)

    return {
        "lora": lambda: lora(TWO),
        "merged": lambda: lora(TWO),
        "lora-all": lambda: lora("all-linear"),
        "qlora": lambda: lora("all-linear"),
        "dora": lambda: lora(TWO, use_dora=True),
        "ia3": lambda: IA3Config(
            target_modules=["k_proj", "v_proj", inner],
            feedforward_modules=[inner],
            task_type=kind,
        ),
        "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=30, task_type=kind),
        "prompt": lambda: PromptTuningConfig(num_virtual_tokens=20, task_type=kind),
    }.get(task, lambda: None)()


def texts(model, args):
    """The loss of the last tokens of texts, and how many tokens there are."""
    vocabulary = model.config.vocab_size
    count = args.batch * args.tokens
    ids = torch.tensor([(i * 7919 + 13) % (vocabulary - 100) + 100 for i in range(count)])
    ids = ids.reshape(args.batch, args.tokens)

    def loss():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=args.answer + 1).logits
        wanted = ids[:, -args.answer :].flatten()
        return F.cross_entropy(logits[:, -args.answer - 1 : -1].flatten(0, 1), wanted)

    return loss, count


def pairs(model, args):
    """The contrastive loss of pairs, and how many there are."""
    text, vision = model.config.text_config, model.config.vision_config
    size = vision.image_size
    pixels = torch.rand(args.batch, vision.num_channels, size, size) * 2 - 1
    ids = torch.randint(0, text.bos_token_id, (args.batch, text.max_position_embeddings))
    ids[:, 0], ids[:, -1] = text.bos_token_id, text.eos_token_id
    pixels = pixels.to(model.dtype)
    return lambda: model(input_ids=ids, pixel_values=pixels, return_loss=True).loss, args.batch


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("--model", default="datasets/.cache/smollm2")
    parser.add_argument("--clip")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--precision", choices=["highest", "high", "medium"], default="highest")
    args = parser.parse_args()
    # What multiplies with bfloat16's precision there holds all in it here: bitsandbytes has no other way.
    dtype = torch.bfloat16 if args.precision == "medium" else torch.float32
    torch.set_float32_matmul_precision(args.precision)
    torch.set_num_threads(THREADS)
    base = memory("VmRSS")
    more = {}
    if args.task == "qlora":
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        more["device_map"] = "cpu"
    kind = CLIPModel if args.clip else AutoModelForCausalLM
    model = kind.from_pretrained(args.clip or args.model, dtype=dtype, **more)
    chosen = config(args.task, args.rank, args.clip)
    if chosen is not None:
        model = get_peft_model(model, chosen)
    if args.task == "merged":
        model = model.merge_and_unload()
    trains = args.task not in ["infer", "merged"]
    model.train(trains)
    loss, count = (pairs if args.clip else texts)(model, args)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0) if trains else None

    def step():
        start = time.perf_counter()
        if trains:
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()
        else:
            with torch.inference_mode():
                loss()
        return time.perf_counter() - start

    seconds = [step() for _ in range(1 + args.repeats)][1:]
    print(
        json.dumps(
            {
                "program": f"peft, PyTorch {torch.__version__}",
                "task": args.task,
                "batch": count,
                "trainable": sum(p.numel() for p in parameters),
                "seconds": seconds,
                "peak_mib": memory("VmHWM"),
                "base_mib": base,
                "simd": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
