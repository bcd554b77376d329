"""What bench-clip measures, in PyTorch eager with transformers: one measurement, one JSON line.

Weights are random. Attention is transformers' default (sdpa), AdamW PyTorch's default, threads
one a core; the caller sets OMP_PROC_BIND=true, without which threads wander between cores.
"""

import argparse
import json
import os
import time

# Before torch is there: OMP_PROC_BIND then ties this thread to one core.
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

import torch  # noqa: E402
from transformers import CLIPConfig, CLIPModel  # noqa: E402


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


def timed(warm, repeats, step):
    seconds = []
    for _ in range(warm + repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[warm:]


def pixels(config, batch):
    size = config.vision_config.image_size
    return torch.rand(batch, config.vision_config.num_channels, size, size) * 2 - 1


def train(model, config, batch, warm, repeats):
    text = config.text_config
    ids = torch.randint(0, text.bos_token_id, (batch, text.max_position_embeddings))
    ids[:, 0] = text.bos_token_id
    ids[:, -1] = text.eos_token_id
    images = pixels(config, batch)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), weight_decay=0.1)

    def step():
        model(input_ids=ids, pixel_values=images, return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(warm, repeats, step)


def embed(model, config, batch, warm, repeats):
    images = pixels(config, batch)
    model.eval()

    @torch.inference_mode()
    def step():
        torch.nn.functional.normalize(model.get_image_features(pixel_values=images), dim=-1)

    return timed(warm, repeats, step)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["train", "embed"])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    base = memory("VmRSS")
    config = CLIPConfig()
    model = CLIPModel(config)
    run, batch, warm, repeats = {"train": (train, 32, 2, 5), "embed": (embed, 16, 3, 15)}[args.task]
    batch, repeats = args.batch or batch, args.repeats or repeats
    seconds = run(model, config, batch, warm, repeats)
    middle = sorted(seconds)
    median = (middle[(repeats - 1) // 2] + middle[repeats // 2]) / 2
    print(
        json.dumps(
            {
                "program": f"PyTorch {torch.__version__}, {config._attn_implementation or 'sdpa'}",
                "task": args.task,
                "batch": batch,
                "seconds": seconds,
                "images_per_second": batch / median,
                "peak_mib": memory("VmHWM"),
                "base_mib": base,
                "simd": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
