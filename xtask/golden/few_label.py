"""Goldens of the few-label methods: crates/vlm-contrastive/tests/golden/few_label.

Needs numpy, scipy, scikit-learn, torch and safetensors. Run: python xtask/golden/few_label.py OUT_DIR
The formulas are written down again here, from the papers and in double precision: Tip-Adapter's
logits, CLIP-Adapter's mixing, the supervised contrastive loss with its gradient, label propagation
on a graph of nearest neighbours (solved densely), and scikit-learn's logistic regression.
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

OUT = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(20240)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def floats(x):
    """What a single-precision reader gets, so that both start from the same numbers."""
    return np.asarray(x, dtype=np.float32).astype(np.float64)


def tip(f, keys, labels, text, alpha, beta, scale):
    values = np.eye(labels.max() + 1)[labels]
    return scale * f @ text.T + alpha * np.exp(-beta * (1 - f @ keys.T)) @ values


def adapter(f, down, up, ratio):
    hidden = np.maximum(np.maximum(f @ down, 0) @ up, 0)
    return unit(ratio * hidden + (1 - ratio) * f)


def sup_con(z, labels, temperature, base=0.07):
    """One anchor at a time, as the paper's sum is written."""
    total = 0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        log_sum = torch.logsumexp(torch.stack([z[i] @ z[a] / temperature for a in others]), 0)
        total = total + sum(z[i] @ z[p] / temperature - log_sum for p in positives) / len(positives)
    return -(temperature / base) * total / len(z)


def propagate(nodes, queries, labels, classes, k, gamma, alpha):
    count = len(nodes)
    cosine = nodes @ nodes.T
    np.fill_diagonal(cosine, -np.inf)
    a = np.zeros((count, count))
    for i in range(count):
        nearest = np.argsort(-cosine[i])[:k]
        a[i, nearest] = np.maximum(cosine[i, nearest], 0) ** gamma
    w = a + a.T
    degree = w.sum(1)
    s = w / np.sqrt(np.outer(degree, degree))
    y = np.zeros((count, classes))
    y[np.arange(len(labels)), labels] = 1
    f = np.linalg.solve(np.eye(count) - alpha * s, y)
    share = f / f.sum(1, keepdims=True)
    logs = np.log(share, where=share > 0, out=np.zeros_like(share))
    certainty = 1 + (share * logs).sum(1) / np.log(classes)
    heard = np.zeros((len(queries), classes))
    for i, row in enumerate(queries @ nodes.T):
        nearest = np.argsort(-row)[:k]
        heard[i] = (np.maximum(row[nearest], 0) ** gamma / np.sqrt(degree[nearest])) @ f[nearest]
    return f, certainty, heard


f, keys, text = (floats(unit(rng.normal(size=(n, 8)))) for n in (5, 9, 3))
labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
down, up = floats(rng.normal(size=(8, 2))), floats(rng.normal(size=(2, 8)))

z = torch.tensor(floats(unit(rng.normal(size=(12, 6)))), requires_grad=True)
groups = [0, 1, 2, 0, 1, 3] * 2
loss = sup_con(z, groups, 0.1)
loss.backward()

nodes, queries = (floats(unit(rng.normal(size=(n, 4)) + 0.4)) for n in (40, 6))
spread, certainty, heard = propagate(nodes, queries, np.array([0, 1, 2, 0, 1, 2]), 3, 5, 3.0, 0.9)

x = floats(rng.normal(size=(30, 4)))
classes = rng.integers(0, 3, 30)
probe = LogisticRegression(C=2.5, tol=1e-10, max_iter=10000).fit(x, classes)

OUT.mkdir(parents=True, exist_ok=True)
save_file({name: np.ascontiguousarray(values, dtype=np.float32) for name, values in {
    "f": f, "keys": keys, "text": text, "labels": labels, "down": down, "up": up,
    "tip": tip(f, keys, labels, text, 1.17, 2.5, 20.0),
    "tip_cache": tip(f, keys, labels, text, 1.17, 2.5, 0.0),
    "adapter": adapter(f, down, up, 0.2),
    "z": z.detach().numpy(), "groups": np.array(groups), "sup_con": np.array([loss.item()]), "sup_con_gradient": z.grad.numpy(),
    "nodes": nodes, "queries": queries, "spread": spread, "certainty": certainty, "heard": heard,
    "x": x, "classes": classes, "probe": probe.decision_function(x), "probe_weight": probe.coef_.T,
}.items()}, OUT / "expected.safetensors")
