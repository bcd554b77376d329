"""What bench-generate measures, in PyTorch eager with transformers: one measurement, one JSON line.

Attention is transformers' default (sdpa), its cache the default one, threads one a core; the caller
sets OMP_PROC_BIND=true, without which threads wander between cores.
"""

import argparse
import inspect
import json
import os
import time

# Before torch is there: OMP_PROC_BIND then ties this thread to one core.
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)
from transformers.generation.streamers import BaseStreamer  # noqa: E402

QUESTION = "<image>\nWhat is in this picture?"


def memory(field):
    """A field of /proc/self/status in MiB, None where there is no such file."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


class Clock(BaseStreamer):
    """Notes when the first token of the answer comes; the prompt is put first."""

    def __init__(self):
        self.calls, self.first = 0, None

    def put(self, value):
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter()

    def end(self):
        pass


@torch.inference_mode()
def prefill(model, inputs, answer):
    start = time.perf_counter()
    model(**inputs, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


@torch.inference_mode()
def decode(model, inputs, answer):
    clock = Clock()
    streamer = clock if len(inputs["input_ids"]) == 1 else None
    start = time.perf_counter()
    model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=answer,
        min_new_tokens=answer,
        streamer=streamer,
    )
    end = time.perf_counter()
    if streamer:
        return end - clock.first
    # A streamer takes one text only: the prompt is taken off instead.
    return end - start - prefill(model, inputs, answer)


def told(args):
    """A model and what it is told."""
    if args.image:
        from PIL import Image

        model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(args.model, use_fast=False)
        picture = Image.open(args.image).convert("RGB")
        inputs = processor(
            images=[picture] * args.batch, text=[QUESTION] * args.batch, return_tensors="pt"
        )
        # Segments, which a tokenizer may count, are for few models.
        known = inspect.signature(model.forward).parameters
        return model.eval(), {name: value for name, value in inputs.items() if name in known}
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    vocabulary = model.config.vocab_size
    ids = [(i * 7919 + 13) % (vocabulary - 100) + 100 for i in range(args.prompt)]
    ids = torch.tensor([ids] * args.batch)
    return model.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["prefill", "decode"])
    parser.add_argument("--model", default="datasets/.cache/smollm2")
    parser.add_argument("--image")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    base = memory("VmRSS")
    model, inputs = told(args)
    run, tokens, warm, repeats = {
        "prefill": (prefill, inputs["input_ids"].shape[1], 2, 7),
        "decode": (decode, args.answer - 1, 1, 3),
    }[args.task]
    repeats = args.repeats or repeats
    seconds = [run(model, inputs, args.answer) for _ in range(warm + repeats)][warm:]
    print(
        json.dumps(
            {
                "program": f"transformers, PyTorch {torch.__version__}",
                "task": args.task,
                "batch": args.batch * tokens,
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
