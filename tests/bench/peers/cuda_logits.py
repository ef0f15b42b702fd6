"""Logits of a checkpoint by Transformers and by culm, on the same GPU. In two calls, with culm's between them:

    python3 tests/bench/peers/cuda_logits.py ask MODEL_DIR INPUTS.safetensors REFERENCE.safetensors [--length 64]
    culm forward --model MODEL_DIR --inputs INPUTS.safetensors --output OURS.safetensors --backend cuda --max-length 128
    python3 tests/bench/peers/cuda_logits.py compare REFERENCE.safetensors OURS.safetensors

`ask` draws token ids and computes their logits with Transformers' BambaForCausalLM twice: in bfloat16, as the checkpoint is meant to run, and in float32, which is
as near to the truth as matters here. `compare` holds both bf16 computations to the float32 one: culm passes when it is no farther from it than Transformers in
bf16 is (with a tenth to spare), in the mean and at the worst place. Exit code 1 when it does not pass.
"""

import argparse
import json
import sys

import torch
from safetensors.torch import load_file, save_file

# How much farther than Transformers' own bf16 a result may be.
SPARE = 1.1


def ask(folder, inputs, reference, length):
    from transformers import AutoModelForCausalLM

    logits = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cuda").eval()
        if not logits:
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(5, model.config.vocab_size, (1, length), generator=generator)
            save_file({"input_ids": ids}, inputs)
        with torch.no_grad():
            logits[name] = model(ids.cuda(), use_cache=False).logits.float().cpu().contiguous()
        del model
        torch.cuda.empty_cache()
    save_file(logits, reference)


def distances(logits, truth):
    scale = truth.abs().max()
    difference = (logits - truth).abs()
    return {
        "worst": (difference.max() / scale).item(),
        "mean": (difference.mean() / truth.abs().mean()).item(),
        "same_token": (logits.argmax(-1) == truth.argmax(-1)).float().mean().item(),
    }


def compare(reference, ours):
    expected, got = load_file(reference), load_file(ours)["logits"]
    theirs, here = distances(expected["bfloat16"], expected["float32"]), distances(got, expected["float32"])
    passed = all(here[key] <= SPARE * theirs[key] for key in ("worst", "mean"))
    print(json.dumps({"transformers_bf16": theirs, "culm": here, "positions": got.shape[1], "passed": passed}, indent=1))
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask")
    for name in ("folder", "inputs", "reference"):
        asking.add_argument(name)
    asking.add_argument("--length", type=int, default=64)
    comparing = commands.add_parser("compare")
    for name in ("reference", "ours"):
        comparing.add_argument(name)
    options = parser.parse_args()
    if options.command == "ask":
        ask(options.folder, options.inputs, options.reference, options.length)
    elif not compare(options.reference, options.ours):
        sys.exit(1)


if __name__ == "__main__":
    main()
