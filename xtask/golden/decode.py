"""Goldens of how tokens are chosen: crates/vlm-fusion/tests/golden/decode.

Needs torch and transformers. Run: python xtask/golden/decode.py OUT_DIR
Probabilities after transformers' own logits processors, in the order in which its `generate` puts
them, of random logits and of some with ties.
"""

import json
import pathlib
import sys

import torch
from transformers import LogitsProcessorList
from transformers.generation import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

OUT = pathlib.Path(sys.argv[1])
VOCABULARY = 40
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 400},
    {"top_p": 0.1},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.6},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.2},
    {"temperature": 1.5, "top_k": 5, "top_p": 0.3},
]


def probabilities(logits, seen, settings):
    steps = LogitsProcessorList()
    if "repetition_penalty" in settings:
        steps.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    if "temperature" in settings:
        steps.append(TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        steps.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        steps.append(TopPLogitsWarper(settings["top_p"]))
    scores = steps(torch.tensor([seen]), logits[None].clone())
    return torch.softmax(scores, -1)[0]


torch.manual_seed(20250)
plain = torch.randn(VOCABULARY) * 2
tied = torch.round(torch.randn(VOCABULARY))
cases = []
for logits in (plain, tied):
    # Ids come twice, and are penalised once.
    seen = torch.randint(0, VOCABULARY, (12,)).tolist() + [3, 3]
    for settings in SETTINGS:
        # Which of tokens that tie survives the nucleus is left to the sort.
        if logits is tied and "top_p" in settings:
            continue
        cases.append(
            {
                "logits": logits.tolist(),
                "seen": seen,
                "settings": settings,
                "probabilities": probabilities(logits, seen, settings).tolist(),
            }
        )
(OUT / "choices.json").write_text(json.dumps(cases))
