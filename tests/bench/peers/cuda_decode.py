"""Decode steps of a Bamba in PyTorch, beside which `culm bench --device cuda` is to be read: run it after that in the same session on the same GPU.

    python3 tests/bench/peers/cuda_decode.py CONFIG.json OUT.json [--batch 1,8,64] [--context 1024] [--quick] [--only eager|compiled]

Two systems, on random weights in bf16:
  eager     Transformers' BambaForCausalLM and its generate(), as most people run it: the difference of two lengths of answer, so that the prompt does not count.
            Without the mamba_ssm and causal_conv1d packages it takes Transformers' own code, and a prompt of 128 tokens in place of --context.
  compiled  what a PyTorch engineer would write for speed: static caches, each kind of layer compiled by Inductor with max-autotune (--quick: without), the step
            with the choice of the next token in one CUDA graph. States and caches are bf16.
Medians; times of the graph by ten replays in a row.
"""

import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F

torch.manual_seed(0)
torch._dynamo.config.cache_size_limit = 256
DEVICE, BF16 = "cuda", torch.bfloat16


def median(values):
    return sorted(values)[len(values) // 2]


def wall(run, warm=2, runs=5):
    """Median milliseconds by the host's clock, the GPU idle before and after."""
    for _ in range(warm):
        run()
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) * 1000)
    return median(times)


def copy_rate():
    """Bytes a second, read and written counted."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    b = torch.empty_like(a)

    def copies():
        for _ in range(10):
            b.copy_(a)

    return 10 * 2 * a.numel() / (wall(copies) / 1000)


def eager(config, batches, context):
    from transformers import BambaConfig, BambaForCausalLM

    try:
        import causal_conv1d  # noqa: F401
        import mamba_ssm  # noqa: F401

        fast = True
    except ImportError:
        fast = False
    length = context if fast else 128
    settings = BambaConfig(**{key: value for key, value in config.items() if key != "architectures"})
    torch.set_default_dtype(BF16)
    with torch.device(DEVICE):
        model = BambaForCausalLM(settings).eval()
    torch.set_default_dtype(torch.float32)
    result = {}
    with torch.no_grad():
        for batch in batches:
            ids = torch.randint(5, config["vocab_size"], (batch, length), device=DEVICE)

            def generate(count):
                return model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)

            few, many = (wall(lambda: generate(count), 1, 3) for count in (4, 36))
            result[str(batch)] = {"milliseconds": (many - few) / 32, "context": length, "fast_kernels": fast}
            print("eager", batch, result[str(batch)], flush=True)
    return result


class Sizes:
    def __init__(self, c):
        self.hidden, self.inner, self.vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
        self.layers, self.attending = c["num_hidden_layers"], set(c["attn_layer_indices"])
        self.heads, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.head = self.hidden // self.heads
        self.rotary = int(self.head * c.get("rope_parameters", {}).get("partial_rotary_factor", c.get("partial_rotary_factor", 1)))
        self.m_heads, self.m_head = c["mamba_n_heads"], c["mamba_d_head"]
        self.groups, self.state, self.width = c["mamba_n_groups"], c["mamba_d_state"], c["mamba_d_conv"]
        self.ssm = self.m_heads * self.m_head
        self.channels = self.ssm + 2 * self.groups * self.state
        if self.groups != 1:
            sys.exit("the compiled step is written for one group")


def norm(x, weight, eps=1e-5):
    f = x.float()
    return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def feed_forward(x, w):
    gate, up = F.linear(norm(x, w["norm2"]), w["gate_up"]).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w["down"])


def mamba_layer(s):
    def layer(x, w, conv, ssm):
        batch = x.shape[0]
        gate, mixed, dt = F.linear(norm(x, w["norm1"]), w["in_proj"]).split([s.ssm, s.channels, s.m_heads], -1)
        taps = torch.cat([conv, mixed[:, None]], 1)
        conv.copy_(taps[:, 1:])
        mixed = F.silu((taps.float() * w["conv"].float()).sum(1) + w["conv_bias"].float()).to(BF16)
        values, keys, queries = mixed.split([s.ssm, s.state, s.state], -1)
        values = values.view(batch, s.m_heads, s.m_head).float()
        dt = F.softplus(dt.float() + w["dt_bias"])
        decay = torch.exp(dt * w["a"])[:, :, None, None]
        now = ssm.float() * decay + (dt[:, :, None] * values)[..., None] * keys.float()[:, None, None, :]
        ssm.copy_(now.to(BF16))
        y = (now * queries.float()[:, None, None, :]).sum(-1) + w["d"][:, None] * values
        y = norm(y.view(batch, s.ssm) * F.silu(gate.float()), 1.0).to(BF16) * w["gated_norm"]
        return feed_forward(x + F.linear(y, w["out_proj"]), w)

    return layer


def attention_layer(s):
    def rotate(t, cos, sin):
        turned, kept = t[..., : s.rotary], t[..., s.rotary :]
        a, b = turned.chunk(2, -1)
        return torch.cat([turned * cos + torch.cat([-b, a], -1) * sin, kept], -1)

    def layer(x, w, keys, values, position, cos, sin):
        batch, own = x.shape[0], s.kv * s.head
        q, k, v = F.linear(norm(x, w["norm1"]), w["qkv"]).split([s.hidden, own, own], -1)
        q, k = rotate(q.view(batch, s.heads, s.head), cos, sin), rotate(k.view(batch, s.kv, s.head), cos, sin)
        keys[:, :, position] = k[:, :, None]
        values[:, :, position] = v.view(batch, s.kv, 1, s.head)
        seen = (torch.arange(keys.shape[2], device=DEVICE) <= position)[None, None, None]
        y = F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=seen, enable_gqa=True)
        return feed_forward(x + F.linear(y.reshape(batch, s.hidden), w["o_proj"]), w)

    return layer


def weights(s):
    normal = lambda *shape: torch.randn(*shape, device=DEVICE, dtype=BF16) * 0.02
    ones = lambda n: torch.ones(n, device=DEVICE, dtype=BF16)
    layers = []
    for i in range(s.layers):
        w = {"norm1": ones(s.hidden), "norm2": ones(s.hidden), "gate_up": normal(2 * s.inner, s.hidden), "down": normal(s.hidden, s.inner)}
        if i in s.attending:
            w |= {"qkv": normal(s.hidden + 2 * s.kv * s.head, s.hidden), "o_proj": normal(s.hidden, s.hidden)}
        else:
            w |= {
                "in_proj": normal(s.ssm + s.channels + s.m_heads, s.hidden),
                "conv": normal(s.width, s.channels) * 10,
                "conv_bias": normal(s.channels),
                "dt_bias": torch.randn(s.m_heads, device=DEVICE),
                "a": -8 * torch.rand(s.m_heads, device=DEVICE),
                "d": torch.ones(s.m_heads, device=DEVICE),
                "gated_norm": ones(s.ssm),
                "out_proj": normal(s.hidden, s.ssm),
            }
        layers.append(w)
    return layers, normal(s.vocab, s.hidden), normal(s.vocab, s.hidden), ones(s.hidden)


def compiled(config, batches, context, quick):
    s = Sizes(config)
    layers, table, head, last_norm = weights(s)
    mode = {} if quick else {"mode": "max-autotune-no-cudagraphs"}
    result = {}
    for batch in batches:
        torch._dynamo.reset()
        mamba, attend, choose = (
            torch.compile(f, dynamic=False, **mode)
            for f in (mamba_layer(s), attention_layer(s), lambda x: F.linear(norm(x, last_norm), head).argmax(-1))
        )
        zeros = lambda *shape: torch.zeros(batch, *shape, device=DEVICE, dtype=BF16)
        cache = lambda: torch.randn(batch, s.kv, context, s.head, device=DEVICE, dtype=BF16) * 0.02
        states = [
            (cache(), cache()) if i in s.attending else (zeros(s.width - 1, s.channels), zeros(s.m_heads, s.m_head, s.state))
            for i in range(s.layers)
        ]
        token, position = torch.randint(0, s.vocab, (batch,), device=DEVICE), torch.tensor([context - 1], device=DEVICE)
        angles = position.float() * 10000.0 ** (-torch.arange(0, s.rotary, 2, device=DEVICE) / s.rotary)
        cos, sin = (torch.cat([f(angles)] * 2).to(BF16) for f in (torch.cos, torch.sin))

        def step():
            x = table[token]
            for i, (w, held) in enumerate(zip(layers, states)):
                x = attend(x, w, *held, position, cos, sin) if i in s.attending else mamba(x, w, *held)
            token.copy_(choose(x))

        started = time.perf_counter()
        with torch.no_grad():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
        seconds = time.perf_counter() - started

        def replays():
            for _ in range(10):
                graph.replay()

        result[str(batch)] = {"milliseconds": wall(replays) / 10, "context": context, "compile_seconds": seconds}
        print("compiled", batch, result[str(batch)], flush=True)
        del graph, states
        torch.cuda.empty_cache()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("out")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["eager", "compiled"])
    options = parser.parse_args()
    with open(options.config) as file:
        config = json.load(file)
    batches = [int(batch) for batch in options.batch.split(",")]
    report = {
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "copy": copy_rate(),
        "context": options.context,
        "autotuned": not options.quick,
    }
    torch.cuda.empty_cache()
    systems = {
        "compiled": lambda: compiled(config, batches, options.context, options.quick),
        "eager": lambda: eager(config, batches, options.context),
    }
    for name, measure in systems.items():
        if options.only not in (None, name):
            continue
        try:
            report[name] = measure()
        except Exception as error:  # the other system is measured all the same, and the report says what became of this one
            report[name] = {"error": repr(error)[:500]}
            print(name, "failed:", repr(error)[:500], file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
        with open(options.out, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
