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
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, BitsAndBytesConfig  # noqa: E402

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


def config(task, rank):
    lora = lambda targets, **more: LoraConfig(
        r=rank, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **more
    )
    return {
        "lora": lambda: lora(TWO),
        "merged": lambda: lora(TWO),
        "lora-all": lambda: lora("all-linear"),
        "qlora": lambda: lora("all-linear"),
        "dora": lambda: lora(TWO, use_dora=True),
        "ia3": lambda: IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            task_type="CAUSAL_LM",
        ),
        "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=30, task_type="CAUSAL_LM"),
    }.get(task, lambda: None)()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("--model", default="datasets/.cache/smollm2")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    base = memory("VmRSS")
    more = {}
    if args.task == "qlora":
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        more["device_map"] = "cpu"
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, **more)
    chosen = config(args.task, args.rank)
    if chosen is not None:
        model = get_peft_model(model, chosen)
    if args.task == "merged":
        model = model.merge_and_unload()
    trains = args.task not in ["infer", "merged"]
    model.train(trains)
    vocabulary = model.config.vocab_size
    count = args.batch * args.tokens
    ids = torch.tensor([(i * 7919 + 13) % (vocabulary - 100) + 100 for i in range(count)])
    ids = ids.reshape(args.batch, args.tokens)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0) if trains else None

    def loss():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=args.answer + 1).logits[:, -args.answer - 1 : -1]
        return F.cross_entropy(logits.flatten(0, 1), ids[:, -args.answer :].flatten())

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
