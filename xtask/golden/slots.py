"""Goldens of what stands in place of an attention and beside a feed-forward: crates/vlm-peft/tests/golden/slots.

Needs torch 2.9. Run: python xtask/golden/slots.py OUT_DIR
Each case is a block written down anew from the formulas of EAS (arXiv 2403.15226) and MemVP (arXiv 2405.05615), with
its tensors (CASE.NAME, maps as PyTorch has them, [out, in]), what goes in (x), what comes out (y), and the gradients
of half the sum of its squares (grad.NAME, grad.x).
"""

import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1]).resolve()
OUT.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

WIDTH, HEADS, INNER, TOKENS, BATCH = 8, 2, 12, 5, 2
count = 0


def wave(*shape, height=0.5):
    """Values that are never the same twice."""
    global count
    count += 1
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (height * torch.sin(0.7 * numbers * (1 + 0.13 * count) + count)).float().reshape(shape)


def rms(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def attention(p, x, which="attention", context=None, seen=None):
    context = x if context is None else context
    split = lambda y: y.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    linear = lambda name, x: F.linear(x, p[f"{which}.{name}.weight"], p.get(f"{which}.{name}.bias"))
    q, k, v = split(linear("q", x)), split(linear("k", context)), split(linear("v", context))
    scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    if p["causal"]:
        scores = scores.masked_fill(torch.ones(TOKENS, TOKENS).tril() == 0, -torch.inf)
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None, None, :], -torch.inf)
    return linear("out", (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


def mean_of_seen(p, x):
    if not p["causal"]:
        return x.mean(1, keepdim=True).expand_as(x)
    return x.cumsum(1) / torch.arange(1, TOKENS + 1).reshape(1, -1, 1)


def grouped(x, weight, bias):
    """A 1x1 convolution in two groups."""
    return F.conv1d(x.transpose(1, 2), weight.unsqueeze(-1), bias, groups=2).transpose(1, 2)


def propagation(p, name, x, scale, temperature):
    part = lambda end: p[f"{name}.{end}"]
    z = F.linear(x, part("local.weight"), part("local.bias"))
    if f"{name}.global.weight" in p:
        z = 0.5 * (mean_of_seen(p, F.linear(x, part("global.weight"), part("global.bias"))) + z)
    said = grouped(z, part("up.weight"), part("up.bias"))
    if f"{name}.router.weight" in p:
        w = (F.linear(mean_of_seen(p, x), part("router.weight"), part("router.bias")) / temperature).softmax(-1)
        said = w[..., :1] * said + w[..., 1:] * grouped(z, part("other.weight"), part("other.bias"))
    return x + scale * said


def feed_forward(p, x):
    up = F.linear(x, p["feed_forward.up.weight"], p.get("feed_forward.up.bias"))
    if p["gated"]:
        inner = F.silu(F.linear(x, p["feed_forward.gate.weight"])) * up
    else:
        inner = F.gelu(up)
    return F.linear(inner, p["feed_forward.down.weight"], p.get("feed_forward.down.bias"))


def norm(p, which, x):
    weight = p[f"{which}.weight"]
    return rms(x, weight) if p["gated"] else F.layer_norm(x, (WIDTH,), weight, p[f"{which}.bias"], 1e-5)


def block(gated):
    p = {"gated": gated, "causal": gated}
    for name, out, into in [
        ("attention.q", WIDTH, WIDTH), ("attention.k", WIDTH, WIDTH), ("attention.v", WIDTH, WIDTH),
        ("attention.out", WIDTH, WIDTH), ("feed_forward.up", INNER, WIDTH), ("feed_forward.down", WIDTH, INNER),
    ]:
        p[f"{name}.weight"] = wave(out, into)
        if not gated:
            p[f"{name}.bias"] = wave(out, height=0.2)
    if gated:
        p["feed_forward.gate.weight"] = wave(INNER, WIDTH)
    for name in ("norm1", "norm2"):
        p[f"{name}.weight"] = 1 + wave(WIDTH, height=0.3)
        if not gated:
            p[f"{name}.bias"] = wave(WIDTH, height=0.2)
    return p


def narrow(p, name, inner, with_mean, router):
    for end, out in [("global", inner), ("local", inner), ("router", 2)]:
        if end == "global" and not with_mean or end == "router" and not router:
            continue
        p[f"{name}.{end}.weight"], p[f"{name}.{end}.bias"] = wave(out, WIDTH), wave(out, height=0.2)
    for end in ("up", "other") if router else ("up",):
        p[f"{name}.{end}.weight"], p[f"{name}.{end}.bias"] = wave(WIDTH, inner // 2), wave(WIDTH, height=0.2)


def skipped(p, x):
    seen = propagation(p, "bypass", norm(p, "norm1", x), 0.8, 3.0) * p["norm2.weight"]
    return x + feed_forward(p, seen if p["gated"] else seen + p["norm2.bias"])


def renormed(p, x):
    """Not as EAS's code has it: what is said is of the rows that the feed-forward would see."""
    return x + feed_forward(p, propagation(p, "bypass", norm(p, "norm2", x), 0.8, 3.0))


def kept(p, x):
    h = x + attention(p, propagation(p, "front", norm(p, "norm1", x), 0.8, 3.0))
    return h + feed_forward(p, norm(p, "norm2", h))


def remembered(p, x):
    h = x + attention(p, norm(p, "norm1", x))
    n = norm(p, "norm2", h)
    f = p["picture"]
    v = 0.6 * F.linear(F.silu(F.linear(f, p["fc1.weight"], p["fc1.bias"])), p["fc2.weight"], p["fc2.bias"])
    # The first text has a picture of four rows for six slots, the second none.
    v = torch.stack([F.pad(v, (0, 0, 0, 2)), torch.zeros(6, WIDTH)])
    act = F.silu if p["gated"] else F.gelu
    found = act(n @ (v + p["emb1"]).transpose(1, 2)) @ (v + p["emb2"])
    return h + feed_forward(p, n) + 0.7 * found


def beside(p, x):
    h = x + attention(p, norm(p, "norm1", x))
    n = norm(p, "norm2", h)
    return h + feed_forward(p, n) + 0.6 * F.linear(F.gelu(F.linear(n, p["fc1.weight"])), p["fc2.weight"])


# Of the first text all rows of the other stream are seen, of the second the first two.
SEEN = torch.tensor([[True] * 4, [True, True, False, False]])


def after(p, which, x):
    return F.layer_norm(x, (WIDTH,), p[f"{which}.weight"], p[f"{which}.bias"], 1e-5)


def weighed(p, name, z, x):
    """What a way past says of z, weighed by the token itself."""
    part = lambda end: p[f"{name}.{end}"]
    said = grouped(z, part("up.weight"), part("up.bias"))
    if f"{name}.router.weight" in p:
        w = (F.linear(x, part("router.weight"), part("router.bias")) / 3.0).softmax(-1)
        said = w[..., :1] * said + w[..., 1:] * grouped(z, part("other.weight"), part("other.bias"))
    return 0.8 * said


def local(p, name, x):
    return F.linear(x, p[f"{name}.local.weight"], p[f"{name}.local.bias"])


def across(p, x):
    """A layer of METER whose attention to the other stream is skipped."""
    h = after(p, "norm1", x + attention(p, x))
    told = F.linear(p["context"], p["bypass.global.weight"], p["bypass.global.bias"])
    mean = (told * SEEN[..., None]).sum(1, keepdim=True) / SEEN.sum(1).reshape(-1, 1, 1)
    g = after(p, "cross_norm", h + weighed(p, "bypass", 0.5 * (mean + local(p, "bypass", h)), h))
    return after(p, "norm2", g + feed_forward(p, g))


def asked(p, x):
    """The same with what stands in front of that attention."""
    h = after(p, "norm1", x + attention(p, x))
    asking = h + weighed(p, "front", local(p, "front", h), h)
    g = after(p, "cross_norm", h + attention(p, asking, "cross", p["context"], SEEN))
    return after(p, "norm2", g + feed_forward(p, g))


tensors = {}


def case(name, p, forward):
    leaves = {key: value.requires_grad_() for key, value in p.items() if torch.is_tensor(value)}
    x = wave(BATCH, TOKENS, WIDTH, height=1.0).requires_grad_()
    y = forward(p, x)
    (0.5 * y.square().sum()).backward()
    all = {"x": x, "y": y, "grad.x": x.grad} | leaves
    all |= {f"grad.{key}": value.grad for key, value in leaves.items() if value.grad is not None}
    tensors.update({f"{name}.{key}": value.detach().clone().contiguous() for key, value in all.items()})


for gated, kind in ((True, "gated"), (False, "plain")):
    for router in (True, False):
        p = block(gated)
        narrow(p, "bypass", 6, True, router)
        case(f"skipped-{kind}" + ("" if router else "-bare"), p, skipped)
    p = block(gated)
    narrow(p, "front", 4, False, True)
    case(f"kept-{kind}", p, kept)
    p = block(gated)
    p |= {"fc1.weight": wave(3, 7), "fc1.bias": wave(3, height=0.2), "fc2.weight": wave(WIDTH, 3)}
    p |= {"fc2.bias": wave(WIDTH, height=0.2), "emb1": wave(1, 6, WIDTH), "emb2": wave(1, 6, WIDTH)}
    p["picture"] = wave(4, 7)
    case(f"memory-{kind}", p, remembered)

for gated, kind in ((True, "gated"), (False, "plain")):
    p = block(gated) | {"fc1.weight": wave(3, WIDTH), "fc2.weight": wave(WIDTH, 3)}
    case(f"beside-{kind}", p, beside)

def crossing():
    p = block(False)
    for name, into in (("q", WIDTH), ("k", 6), ("v", 6), ("out", WIDTH)):
        p[f"cross.{name}.weight"], p[f"cross.{name}.bias"] = wave(WIDTH, into), wave(WIDTH, height=0.2)
    p["cross_norm.weight"], p["cross_norm.bias"] = 1 + wave(WIDTH, height=0.3), wave(WIDTH, height=0.2)
    p["context"] = wave(BATCH, 4, 6, height=1.0)
    return p


for router in (True, False):
    p = crossing()
    narrow(p, "bypass", 6, False, router)
    p["bypass.global.weight"], p["bypass.global.bias"] = wave(6, 6), wave(6, height=0.2)
    case("across" + ("" if router else "-bare"), p, across)
p = crossing()
narrow(p, "front", 4, False, True)
case("asked", p, asked)

for gated, kind in ((True, "gated"), (False, "plain")):
    for router in (True, False):
        p = block(gated)
        narrow(p, "bypass", 6, True, router)
        case(f"renormed-{kind}" + ("" if router else "-bare"), p, renormed)

save_file(tensors, OUT / "expected.safetensors")
