"""The operations and decode steps of a report of tests/bench/webgpu.ts, in PyTorch on the same GPU: cuBLAS, SDPA, and Inductor for what has no library.

    python3 tests/bench/peers/webgpu_ops.py REPORT.json OUT.json [--no-models] [--quick]

Each operation is measured in the types that the report's kernels use ("us"; products: weights and x in bf16 where the weights are), with TF32 off, and where
PyTorch has a faster path in bf16 for both operands also in that ("us_bf16"). Short ones are replayed from a CUDA graph over copies that no cache holds
together, long ones timed alone; medians of CUDA events. A decode step is what a PyTorch engineer would write: static caches, layers compiled by Inductor with
max-autotune (--quick: without), all in one CUDA graph.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

torch.manual_seed(0)
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
torch._dynamo.config.cache_size_limit = 256
DEVICE, BF16, F32 = "cuda", torch.bfloat16, torch.float32
CACHE_BYTES = 512e6
QUICK = "--quick" in sys.argv
# Work that brings an idle GPU's clocks up.
WARM_SECONDS = 0.3


def events(run, runs=20):
    """Median milliseconds of `run`, after it has kept the GPU busy for a while."""
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_SECONDS:
        run()
        torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        run()
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b))
    return sorted(times)[len(times) // 2]


def graph_of(run):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def rotated(make, step, size):
    """Microseconds of `step` on one of as many copies as no cache holds, from a CUDA graph of all of them."""
    copies = [make() for _ in range(max(2, min(40, int(CACHE_BYTES // size) + 1)))]

    def run():
        for copy in copies:
            step(*copy)

    return events(graph_of(run).replay) / len(copies) * 1000


def randn(*shape, dtype=F32, scale=1.0):
    return torch.randn(*shape, device=DEVICE, dtype=dtype) * scale


def product(m, n, k, dtype):
    types = {"f32": F32, "bf16": BF16, "f16": torch.float16}[dtype]
    if m == 1:
        make = lambda: (randn(m, k, dtype=types), randn(n, k, dtype=types, scale=0.02))
        return {"us": rotated(make, F.linear, n * k * types.itemsize)}
    x, w = randn(m, k, dtype=types), randn(n, k, dtype=types, scale=0.02)
    return {"us": events(lambda: F.linear(x, w)) * 1000}


def chunked_scan(x, dt, A, B, C, D, bias, state, chunk):
    """Mamba-2's scan in matrix products by chunks. x [L, H, P], dt [L, H], B and C [L, N] (one group), state [H, P, N]."""
    L, H, P = x.shape
    N = B.shape[1]
    c = L // chunk
    dt = F.softplus(dt + bias)
    below = torch.tril(torch.ones(chunk, chunk, device=x.device))
    decay = below @ (dt * A).view(c, chunk, H)  # a running sum; Inductor fails on cumsum here
    xd = (x * dt[..., None]).view(c, chunk, H, P)
    B, C = B.view(c, chunk, N), C.view(c, chunk, N)
    between = (decay[:, :, None] - decay[:, None]).masked_fill(below[None, :, :, None] == 0, -torch.inf).exp()
    scores = (C @ B.transpose(1, 2))[..., None] * between  # [c, q, s, H]
    y = scores.permute(0, 3, 1, 2) @ xd.permute(0, 2, 1, 3)  # [c, H, q, P]
    to_end = (decay[:, -1:] - decay).exp()
    fresh = (xd * to_end[..., None]).permute(0, 2, 3, 1) @ B[:, None]  # [c, H, P, N]
    before = []
    for i in range(c):
        before.append(state)
        state = decay[i, -1].exp()[:, None, None] * state + fresh[i]
    carried = C[:, None] @ torch.stack(before).transpose(2, 3)  # [c, H, q, P]
    y = y + carried * decay.permute(0, 2, 1)[..., None].exp()
    return y.permute(0, 2, 1, 3).reshape(L, H, P) + D[:, None] * x, state


def scan_step(x, dt, A, B, C, D, bias, state):
    """One token: x [H, P], dt [H], B and C [N]; the state is replaced."""
    dt = F.softplus(dt + bias)
    new = (dt * A).exp()[:, None, None] * state + (dt[:, None] * x)[..., None] * B
    state.copy_(new)
    return (new * C).sum(-1) + D[:, None] * x


def scan_inputs(L, H, P, N):
    return (randn(L, H, P), randn(L, H), -torch.rand(H, device=DEVICE) * 8 - 0.5, randn(L, N), randn(L, N), torch.ones(H, device=DEVICE), randn(H))


def check_scan():
    x, dt, A, B, C, D, bias = scan_inputs(64, 4, 16, 32)
    state = randn(4, 16, 32)
    y, end = chunked_scan(x, dt, A, B, C, D, bias, state, 16)
    steps = torch.stack([scan_step(x[t], dt[t], A, B[t], C[t], D, bias, state) for t in range(64)])
    for name, got, expected in (("y", y, steps), ("state", end, state)):
        error = (got - expected).norm() / expected.norm()
        assert error < 1e-4, f"chunked scan, {name}: {error}"


def scan(seq, heads, size, groups, state):
    assert groups == 1, "one group only"
    if seq == 1:
        step = torch.compile(scan_step, dynamic=False)

        def make():
            x, dt, A, B, C, D, bias = scan_inputs(1, heads, size, state)
            return x[0], dt[0], A, B[0], C[0], D, bias, randn(heads, size, state)

        return {"us": rotated(make, step, 2 * heads * size * state * 4)}
    whole = torch.compile(chunked_scan, dynamic=False)
    inputs = scan_inputs(seq, heads, size, state)
    kept = randn(heads, size, state)
    return {"us": events(lambda: whole(*inputs, kept, 256 if seq % 256 == 0 else seq)) * 1000}


def attention(seq, length, heads, kvHeads, size):
    def measure(dtype):
        def make():
            return randn(1, heads, seq, size, dtype=dtype), randn(1, kvHeads, length, size, dtype=dtype), randn(1, kvHeads, length, size, dtype=dtype)

        if seq == 1:
            return rotated(make, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), 2 * kvHeads * length * size * dtype.itemsize)
        assert seq == length
        q, k, v = make()
        if dtype == F32:  # the fused kernels for f32 know no groups of heads
            k, v = (t.repeat_interleave(heads // kvHeads, 1) for t in (k, v))
        return events(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=dtype != F32)) * 1000

    return {"us": measure(F32), "us_bf16": measure(BF16)}


def convolution(seq, channels, width):
    @torch.compile(dynamic=False)
    def conv(x, w, b):
        padded = F.pad(x, (0, 0, width - 1, 0)).float()
        y = b.float() + sum(w[:, i].float() * padded[i : i + seq] for i in range(width))
        return F.silu(y).to(x.dtype)

    def measure(dtype):
        x, w, b = randn(seq, channels, dtype=dtype), randn(channels, width, dtype=dtype), randn(channels, dtype=dtype)
        return events(graph_of(lambda: conv(x, w, b)).replay) * 1000

    return {"us": measure(F32), "us_bf16": measure(BF16)}


OPERATIONS = {"product": product, "scan": scan, "attention": attention, "convolution": convolution}


def rms(x, w, eps=1e-5):
    f = x.float()
    return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * w


class Bamba:
    """A decode step at batch 1 with weights and states in bf16. Weights are random: only how long it takes counts."""

    def __init__(self, c):
        self.c = c
        d, inner, ffn = c["hiddenSize"], c["innerSize"], c["intermediateSize"]
        H, P, N, channels = c["mambaHeads"], c["mambaHeadDim"], c["mambaStateSize"], c["convChannels"]
        heads, kv, size = c["numAttentionHeads"], c["numKeyValueHeads"], c["headDim"]
        half = c["rotaryDim"]
        w = lambda *shape: randn(*shape, dtype=BF16, scale=0.02)
        one = lambda n: torch.ones(n, device=DEVICE, dtype=BF16)

        def mlp(x, n2, gate_up, down):
            g, u = F.linear(rms(x, n2), gate_up).chunk(2, -1)
            return x + F.linear(F.silu(g) * u, down)

        def mamba(x, n1, w_in, cw, cb, bias, A, D, gn, w_out, n2, gate_up, down, conv, ssm):
            z, xbc, dt = F.linear(rms(x, n1), w_in).split([inner, channels, H], -1)
            full = torch.cat([conv, xbc[:, None]], 1)
            conv.copy_(full[:, 1:])
            xbc = F.silu((full.float() * cw.float()).sum(1) + cb.float()).to(BF16)
            xs, B, C = xbc.split([inner, N, N], -1)
            xs = xs.view(1, H, P).float()
            dt = F.softplus(dt.float() + bias)
            s = ssm.float() * torch.exp(dt * A)[:, :, None, None] + (dt[:, :, None] * xs)[..., None] * B.float()[:, None, None, :]
            ssm.copy_(s.to(BF16))
            y = (s * C.float()[:, None, None, :]).sum(-1) + D[:, None] * xs
            y = rms(y.reshape(1, inner) * F.silu(z.float()), gn).to(BF16)
            return mlp(x + F.linear(y, w_out), n2, gate_up, down)

        def attend(x, n1, w_qkv, w_o, n2, gate_up, down, keys, values, pos, cos, sin):
            q, k, v = F.linear(rms(x, n1), w_qkv).split([heads * size, kv * size, kv * size], -1)

            def rope(t):
                r, rest = t[..., :half], t[..., half:]
                a, b = r.chunk(2, -1)
                return torch.cat([r * cos + torch.cat([-b, a], -1) * sin, rest], -1)

            q, k, v = rope(q.view(1, heads, size)), rope(k.view(1, kv, size)), v.view(1, kv, size)
            keys[:, :, pos] = k[:, :, None]
            values[:, :, pos] = v[:, :, None]
            mask = (torch.arange(keys.shape[2], device=DEVICE) <= pos)[None, None, None]
            o = F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=mask, enable_gqa=True).reshape(1, heads * size)
            return mlp(x + F.linear(o, w_o), n2, gate_up, down)

        self.layers = []
        for kind in c["layerKinds"]:
            rest = (one(d), w(2 * ffn, d), w(d, ffn))
            if kind == "mamba":
                first = (one(d), w(c["projectionSize"], d), w(c["mambaConvWidth"], channels), w(channels), randn(H))
                self.layers.append((kind, first + (-torch.rand(H, device=DEVICE) * 8, torch.ones(H, device=DEVICE), one(inner), w(d, inner)) + rest))
            else:
                self.layers.append((kind, (one(d), w((heads + 2 * kv) * size, d), w(d, heads * size)) + rest))
        self.table, self.head, self.norm = w(c["vocabSize"], d), w(c["vocabSize"], d), one(d)
        mode = "default" if QUICK else "max-autotune-no-cudagraphs"
        self.mamba, self.attend, self.last = (
            torch.compile(f, mode=mode, dynamic=False)
            for f in (mamba, attend, lambda x, norm, head: F.linear(rms(x, norm), head).argmax(-1))
        )

    def milliseconds(self, position):
        c = self.c
        H, P, N, kv, size, half = (c[k] for k in ("mambaHeads", "mambaHeadDim", "mambaStateSize", "numKeyValueHeads", "headDim", "rotaryDim"))
        zeros = lambda *shape: torch.zeros(*shape, device=DEVICE, dtype=BF16)
        states = [
            (zeros(1, c["mambaConvWidth"] - 1, c["convChannels"]), zeros(1, H, P, N))
            if kind == "mamba"
            else (randn(1, kv, position + 1, size, dtype=BF16), randn(1, kv, position + 1, size, dtype=BF16))
            for kind, _ in self.layers
        ]
        token = torch.zeros(1, device=DEVICE, dtype=torch.int64)
        pos = torch.tensor([position], device=DEVICE)
        angles = pos.float() * 10000.0 ** (-torch.arange(0, half, 2, device=DEVICE) / half)
        cos, sin = (torch.cat([t] * 2).to(BF16) for t in (angles.cos(), angles.sin()))

        def step():
            x = self.table[token]
            for (kind, weights), state in zip(self.layers, states):
                x = self.mamba(x, *weights, *state) if kind == "mamba" else self.attend(x, *weights, *state, pos, cos, sin)
            token.copy_(self.last(x, self.norm, self.head))

        with torch.no_grad():
            return events(graph_of(step).replay)


def main():
    report = json.load(open(sys.argv[1]))
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "operations": {}, "models": {}}

    def attempt(what, measure, keep):
        try:
            value = measure()
            keep(value)
            print(f"{what}: {value}", flush=True)
        except Exception as error:  # one that PyTorch cannot do must not cost the others
            print(f"FAILED {what}: {error!r}"[:400], flush=True)
        torch.cuda.empty_cache()
        json.dump(result, open(sys.argv[2], "w"), indent=1)

    a = torch.randn(1 << 28, device=DEVICE)
    b = torch.empty_like(a)
    attempt("copy, GB/s", lambda: 8 * a.numel() / events(lambda: b.copy_(a)) / 1e6, lambda v: result.update(copy=v))
    del a, b
    check_scan()
    with torch.no_grad():
        for operation in report["operations"]:
            shape = dict(operation["shape"])
            kind = shape.pop("kind")
            attempt(operation["name"], lambda: OPERATIONS[kind](**shape), lambda v: result["operations"].update({operation["name"]: v}))
    for model in [] if "--no-models" in sys.argv else report["models"]:
        bamba = Bamba(model["config"])
        for position in sorted({d["position"] for d in model["decode"]}):
            keep = lambda v: result["models"].setdefault(model["model"], {}).update({str(position): v})
            attempt(f"{model['model']} decode at {position}, ms", lambda: bamba.milliseconds(position), keep)
        del bamba
        torch.cuda.empty_cache()


main()
