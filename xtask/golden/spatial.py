"""Boxes as transformers' Kosmos-2 processor encodes and decodes them."""

import json
import random
import sys
from pathlib import Path

from transformers.models.kosmos2.processing_kosmos2 import (
    clean_text_and_extract_entities_with_bboxes,
    coordinate_to_patch_index,
    patch_index_to_coordinate,
)

out = Path(sys.argv[1])
draw = random.Random(5)

given = [
    (0.1, 0.25, 0.5, 0.75),
    (0.0, 0.0, 1.0, 1.0),
    (0.3, 0.3, 0.31, 0.31),
    (0.390625, 0.046875, 0.984375, 0.828125),
    (0.5, 0.5, 0.53125, 1.0),
    (0.0, 0.96875, 0.03125, 1.0),
]
while len(given) < 120:
    x1, y1, x2, y2 = (round(draw.random(), draw.choice([2, 5, 15])) for _ in range(4))
    # One is the last share that still begins a cell.
    if x1 < x2 and y1 < y2 and x1 < 1 and y1 < 1:
        given.append((x1, y1, x2, y2))

boxes = []
for box in given:
    first, last = coordinate_to_patch_index(box, 32)
    text = "<phrase>a thing</phrase><object>"
    text += f"<patch_index_{first:04}><patch_index_{last:04}></object>"
    boxes.append(
        {"given": box, "text": text, "decoded": patch_index_to_coordinate(first, last, 32)}
    )

texts = []
for text in [
    "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044>"
    "<patch_index_0863></object> warming himself by<phrase> a fire</phrase><object>"
    "<patch_index_0005><patch_index_0911></object>.",
    "<grounding><phrase>two dogs</phrase><object><patch_index_0010><patch_index_0300>"
    "</delimiter_of_multi_objects/><patch_index_0500><patch_index_0921></object> run",
    "Where? <object><patch_index_0040><patch_index_0040></object> there",
    "<phrase>nothing</phrase> and <phrase>a bar</phrase><object><patch_index_0064>"
    "<patch_index_0095></object>",
    "no box at all",
]:
    _, entities = clean_text_and_extract_entities_with_bboxes(text)
    # Without a phrase the reference makes up a name of the tokens.
    entities = [
        (None if name.startswith("<patch") else name, found) for name, _, found in entities
    ]
    texts.append({"text": text, "entities": entities})

(out / "kosmos.json").write_text(json.dumps({"boxes": boxes, "texts": texts}, indent=0))
