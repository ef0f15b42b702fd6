"""Reference outputs of Hugging Face Transformers beside those in golden/: python3 extra.py REFERENCE_DIR TINY_DIR OUT_DIR

Made with the versions named in the file (CPU, eager attention). Needs torch, transformers and safetensors; nothing is downloaded.
  strict.safetensors   outputs of models whose weights and activations are bfloat16: strict mode has to reproduce their rounding
  rope.safetensors     dynamic and longrope on both sides of the original context, with the configurations in extra.json
  processors.safetensors  scores after each logits processor, from the `sampling.scores` and `sampling.history` of golden/base
  extra.json           token lists of generate() with one option after the other, pipeline results, chat templates
"""

import json
import sys
import tempfile
import traceback
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BambaForCausalLM, pipeline
from transformers.generation import logits_process as lp

torch.manual_seed(0)
torch.set_grad_enabled(False)
reference, tiny, out = (Path(a) for a in sys.argv[1:4])
report = {"torch": torch.__version__, "transformers": transformers.__version__, "errors": {}}


def section(name):
    def run(body):
        try:
            body()
            print("done", name, flush=True)
        except Exception:
            report["errors"][name] = traceback.format_exc()
            print("FAILED", name, traceback.format_exc(), flush=True)
        return body

    return run


def open_model(name, dtype=torch.float32, **changes):
    model = AutoModelForCausalLM.from_pretrained(reference / name, dtype=dtype, attn_implementation="eager", **changes)
    return model.eval()


def golden(name):
    return load_file(reference / name / "golden.safetensors")


tensors = {}


@section("strict")
def strict():
    kept = {}
    for name in ["base", "options", "all-mamba", "all-attention", "bf16"]:
        model = open_model(name, torch.bfloat16)
        g = golden(name)
        ids = g["forward.input_ids"]
        result = model(input_ids=ids, labels=ids, output_hidden_states=True, use_cache=False)
        kept[f"{name}.logits"] = result.logits.float()
        kept[f"{name}.loss"] = result.loss.float()
        for i, h in enumerate(result.hidden_states):
            kept[f"{name}.hidden_states.{i}"] = h.float()
        if name == "all-mamba":
            continue
        first = model(input_ids=ids[:, :20], position_ids=torch.arange(20)[None], use_cache=True)
        cache = first.past_key_values
        kept[f"{name}.prefill_logits"] = first.logits.float()
        steps = []
        for t in range(20, 25):
            step = model(input_ids=ids[:, t : t + 1], position_ids=torch.full((1, 1), t), past_key_values=cache, use_cache=True)
            steps.append(step.logits.float())
        kept[f"{name}.step_logits"] = torch.cat(steps, 1)
        chunk = model(input_ids=ids[:, 25:], position_ids=torch.arange(25, ids.shape[1])[None], past_key_values=cache, use_cache=True)
        kept[f"{name}.chunk_logits"] = chunk.logits.float()
        greedy = model.generate(g["padded.input_ids"], attention_mask=g["padded.attention_mask"], max_new_tokens=24, do_sample=False, eos_token_id=None)
        kept[f"{name}.greedy"] = greedy
    save_file({k: v.contiguous() for k, v in kept.items()}, out / "strict.safetensors")


@section("rope")
def rope():
    kept = {}
    configs = {}
    ids = golden("base")["forward.input_ids"]
    base = open_model("base")
    pairs = base.config.hidden_size // base.config.num_attention_heads // 4
    kinds = {
        "dynamic": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "longrope": {
            "rope_type": "longrope",
            "factor": 4.0,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 16,
            "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
            "long_factor": [2.0 + 0.7 * i for i in range(pairs)],
        },
    }
    for kind, parameters in kinds.items():
        try:
            with tempfile.TemporaryDirectory() as folder:
                config = json.loads((reference / "base" / "config.json").read_text())
                for key in ["rope_theta", "rope_scaling"]:
                    config.pop(key, None)
                config["rope_parameters"] = parameters
                config["max_position_embeddings"] = 16 if kind == "dynamic" else 64
                configs[kind] = config
                (Path(folder) / "config.json").write_text(json.dumps(config))
                (Path(folder) / "model.safetensors").write_bytes((reference / "base" / "model.safetensors").read_bytes())
                load = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
                model = load()
                kept[f"{kind}.short_logits"] = model(input_ids=ids[:, :12], use_cache=False).logits
                kept[f"{kind}.long_logits"] = model(input_ids=ids, use_cache=False).logits
                kept[f"{kind}.short_again_logits"] = model(input_ids=ids[:, :12], use_cache=False).logits
                model = load()
                first = model(input_ids=ids[:, :12], position_ids=torch.arange(12)[None], use_cache=True)
                steps = [first.logits[:, -1:]]
                for t in range(12, 24):
                    step = model(input_ids=ids[:, t : t + 1], position_ids=torch.full((1, 1), t), past_key_values=first.past_key_values, use_cache=True)
                    steps.append(step.logits)
                kept[f"{kind}.step_logits"] = torch.cat(steps, 1)
                kept[f"{kind}.inv_freq"] = model.model.rotary_emb.inv_freq.float()
                print(kind, "attention_scaling", model.model.rotary_emb.attention_scaling)
        except Exception:
            report["errors"][f"rope {kind}"] = traceback.format_exc()
            print("FAILED", kind, traceback.format_exc(), flush=True)
    report["rope_configs"] = configs
    save_file({k: v.contiguous() for k, v in kept.items()}, out / "rope.safetensors")


@section("processors")
def processors():
    g = golden("base")
    scores, history = g["sampling.scores"], g["sampling.history"]
    length = history.shape[1]
    h = history[0].tolist()
    V = scores.shape[1]
    kept = {}
    used = {}

    def run(name, make, at_scores=None):
        try:
            kept[name] = make()(history, (scores if at_scores is None else at_scores).clone())
        except Exception:
            report["errors"][f"processor {name}"] = traceback.format_exc()
            print("FAILED", name, traceback.format_exc(), flush=True)

    for v in [0.2, 0.4, 0.9]:
        run(f"top_h_{v}", lambda: lp.TopHLogitsWarper(top_h=v))
    for v in [3e-4, 0.02]:
        run(f"epsilon_{v}", lambda: lp.EpsilonLogitsWarper(epsilon=v))
        run(f"eta_{v}", lambda: lp.EtaLogitsWarper(epsilon=v))
    for v in [0.2, 0.9]:
        run(f"typical_{v}", lambda: lp.TypicalLogitsWarper(mass=v))
        run(f"typical_{v}_keep3", lambda: lp.TypicalLogitsWarper(mass=v, min_tokens_to_keep=3))
        run(f"top_p_{v}", lambda: lp.TopPLogitsWarper(top_p=v))
        run(f"top_p_{v}_keep3", lambda: lp.TopPLogitsWarper(top_p=v, min_tokens_to_keep=3))
        run(f"min_p_{v}_keep3", lambda: lp.MinPLogitsWarper(min_p=v, min_tokens_to_keep=3))
    run("top_k_1_keep3", lambda: lp.TopKLogitsWarper(top_k=1, min_tokens_to_keep=3))
    words = [[h[-1], 5], [7], [h[-2], h[-1], 9], [V - 1, 3]]
    used["bad_words"] = words
    run("bad_words", lambda: lp.NoBadWordsLogitsProcessor(bad_words_ids=[list(w) for w in words], eos_token_id=[2]))
    bias = [[[5], 4.0], [[h[-1], 9], -3.5], [[h[-2], h[-1], 11], 2.25], [[6, 7], 10.0]]
    used["sequence_bias"] = bias
    run("sequence_bias", lambda: lp.SequenceBiasLogitsProcessor(sequence_bias=[[list(s), b] for s, b in bias]))
    run("suppress", lambda: lp.SuppressTokensLogitsProcessor([1, 4, 9]))
    run("begin_suppress_on", lambda: lp.SuppressTokensAtBeginLogitsProcessor([1, 4], length))
    run("begin_suppress_off", lambda: lp.SuppressTokensAtBeginLogitsProcessor([1, 4], length - 1))
    run("min_length_on", lambda: lp.MinLengthLogitsProcessor(length + 1, torch.tensor([2, 3])))
    run("min_length_off", lambda: lp.MinLengthLogitsProcessor(length, torch.tensor([2, 3])))
    run("min_new_tokens_on", lambda: lp.MinNewTokensLengthLogitsProcessor(length - 2, 3, torch.tensor([2])))
    run("min_new_tokens_off", lambda: lp.MinNewTokensLengthLogitsProcessor(length - 3, 3, torch.tensor([2])))
    run("exponential_decay_on", lambda: lp.ExponentialDecayLengthPenalty((2, 1.3), torch.tensor([2]), length - 5))
    run("exponential_decay_off", lambda: lp.ExponentialDecayLengthPenalty((8, 1.3), torch.tensor([2]), length - 5))
    run("forced_bos_on", lambda: lp.ForcedBOSTokenLogitsProcessor(3), None)
    kept["forced_bos_first"] = lp.ForcedBOSTokenLogitsProcessor(3)(history[:, :1], scores.clone())
    run("forced_eos_on", lambda: lp.ForcedEOSTokenLogitsProcessor(length + 1, torch.tensor([2, 5])))
    run("forced_eos_off", lambda: lp.ForcedEOSTokenLogitsProcessor(length + 2, torch.tensor([2, 5])))
    run("renormalize", lambda: lp.LogitNormalization())
    broken = scores.clone()
    broken[0, 3], broken[0, 5], broken[1, 7] = float("nan"), float("inf"), float("-inf")
    run("remove_invalid", lambda: lp.InfNanRemoveLogitsProcessor(), broken)
    for n in [1, 3]:
        run(f"no_repeat_{n}", lambda: lp.NoRepeatNGramLogitsProcessor(n))
    run("prefix_allowed", lambda: lp.PrefixConstrainedLogitsProcessor(lambda batch, ids: [t for t in range(V) if t % 3 == batch], 1))
    report["processors"] = used
    save_file({k: v.float().contiguous() for k, v in kept.items()}, out / "processors.safetensors")


def lists(t):
    return t.tolist()


@section("generate")
def generate():
    runs = []
    for name in ["base", "options", "all-attention"]:
        model = open_model(name)
        g = golden(name)
        ids, mask = g["padded.input_ids"], g["padded.attention_mask"]
        greedy = model.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False, eos_token_id=None)
        length = ids.shape[1]
        a, b = int(greedy[0, length + 3]), int(greedy[1, length + 6])
        first = int(greedy[0, length])
        cases = {
            "plain": {},
            "eos": {"eos_token_id": [a, b]},
            "min_new_tokens": {"eos_token_id": [a, b], "min_new_tokens": 9},
            "bad_words": {"bad_words_ids": [[first], [int(greedy[0, length + 1]), int(greedy[0, length + 2])]]},
            "sequence_bias": {"sequence_bias": [[[a], -5.0], [[int(greedy[1, length]), int(greedy[1, length + 1])], -8.0], [[4], 1.5]]},
            "suppress": {"suppress_tokens": [a, b], "begin_suppress_tokens": [first]},
            "decay": {"eos_token_id": [a], "exponential_decay_length_penalty": [3, 1.6]},
            "forced_eos": {"forced_eos_token_id": 5},
            "no_repeat_1": {"no_repeat_ngram_size": 1, "repetition_penalty": 1.1},
            "chunked": {"prefill_chunk_size": 5},
            "guidance": {"guidance_scale": 1.7},
            "beams": {"num_beams": 4, "num_return_sequences": 4},
            "beams_eos": {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": [a, b]},
            "beams_eos_early": {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": [a, b], "early_stopping": True},
            "beams_never": {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": [a, b], "early_stopping": "never", "length_penalty": 2.0},
            "beams_short": {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": [a, b, 7], "length_penalty": -1.0},
            "beams_penalty": {"num_beams": 3, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "eos_token_id": [a], "min_new_tokens": 4},
            "beams_bad": {"num_beams": 2, "bad_words_ids": [[first]], "forced_eos_token_id": [5, 6]},
        }
        for case, options in cases.items():
            try:
                settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, **options}
                result = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, output_scores=True, output_logits=True, **settings)
                entry = {"model": name, "case": case, "options": settings, "sequences": lists(result.sequences)}
                if getattr(result, "sequences_scores", None) is not None:
                    entry["sequences_scores"] = lists(result.sequences_scores)
                    entry["beam_indices"] = lists(result.beam_indices)
                elif case in ["plain", "no_repeat_1", "suppress"]:
                    clean = lambda row: [None if x == float("-inf") else x for x in row]
                    entry["scores"] = [[clean(r) for r in s.tolist()] for s in result.scores[:3]]
                    entry["logits"] = [s.tolist() for s in result.logits[:3]]
                runs.append(entry)
            except Exception:
                report["errors"][f"generate {name} {case}"] = traceback.format_exc()
                print("FAILED", name, case, traceback.format_exc(), flush=True)
    report["generate"] = runs


@section("tiny")
def tiny_model():
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="eager").eval()
    runs = []
    prompts = ["It was the best of", "The old man", "She said that", "Call me"]
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        cases = {
            "greedy": {},
            "beam4": {"num_beams": 4, "num_return_sequences": 2},
            "penalty": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
            "guidance": {"guidance_scale": 1.5},
            "stop": {"stop_strings": [" and", ". "], "tokenizer": tokenizer},
            "even": {"prefix_allowed_tokens_fn": lambda batch, row: list(range(0, 4096, 2))},
        }
        for case, options in cases.items():
            try:
                result = model.generate(ids, max_new_tokens=24, do_sample=False, **options)
                runs.append({"prompt": prompt, "case": case, "ids": ids[0].tolist(), "sequences": lists(result), "texts": tokenizer.batch_decode(result, skip_special_tokens=True)})
            except Exception:
                report["errors"][f"tiny {case}"] = traceback.format_exc()
                print("FAILED", case, traceback.format_exc(), flush=True)
    report["tiny"] = runs


@section("pipeline")
def pipelines():
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="eager").eval()
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    runs = []

    def run(name, *args, **kwargs):
        try:
            shown = {k: v for k, v in kwargs.items()}
            runs.append({"name": name, "input": args[0], "options": shown, "output": pipe(*args, max_new_tokens=12, do_sample=False, **kwargs)})
        except Exception as error:
            runs.append({"name": name, "input": args[0], "options": {k: str(v) for k, v in kwargs.items()}, "error": str(error)})
            print("raised", name, error, flush=True)

    run("string", "It was the best of")
    run("new text only", "It was the best of", return_full_text=False)
    run("tensors", "It was the best of", return_tensors=True)
    run("list", ["It was the best of", "Call me"])
    run("batch", ["It was the best of", "Call me", "The"], batch_size=2)
    run("beams", "Call me", num_beams=3, num_return_sequences=2)
    run("prefix", "Call me", prefix="Once upon a time. ")
    run("stop sequence", "It was the best of", stop_sequence=" the")
    run("empty", "")
    run("full text and tensors", "a", return_full_text=True, return_tensors=True)
    run("full text and text", "a", return_full_text=True, return_text=True)
    run("chat without template", [{"role": "user", "content": "Who are you?"}])
    tokenizer.chat_template = template
    chat = [{"role": "system", "content": "Speak plainly."}, {"role": "user", "content": "Who are you?"}]
    run("chat", chat)
    run("chats", [chat, [{"role": "user", "content": "Where is he?"}]])
    run("chat, new text only", chat, return_full_text=False)
    run("continued", [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am the"}])
    run("not continued", [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am the"}], continue_final_message=False)
    tokenizer.chat_template = None
    tokenizer.model_max_length = 16
    run("hole", "It was the best of times, it was the worst of times, it was the age of wisdom", handle_long_generation="hole")
    report["pipeline"] = runs
    report["pipeline_template"] = template


@section("templates")
def templates():
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    sources = {
        "chatml": "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
        "tools": "{% set ns = namespace(n=0) %}{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}{% for m in messages %}{% set ns.n = ns.n + 1 %}[{{ ns.n }}] {{ m['role'] | upper }}: {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}",
        "raise": "{% if messages[0]['role'] != 'user' %}{{ raise_exception('the first message must be from the user') }}{% endif %}{{ bos_token }}{{ messages[0]['content'] }}",
        "generation": "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}|{% endfor %}",
    }
    chats = [
        [{"role": "user", "content": " Hello  "}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}],
    ]
    tool = {"type": "function", "function": {"name": "add", "description": "Adds <two> numbers & more", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}}
    runs = []
    for name, source in sources.items():
        for i, chat in enumerate(chats):
            for options in [{}, {"add_generation_prompt": True}, {"continue_final_message": True}, {"tools": [tool]}]:
                entry = {"template": name, "source": source, "chat": chat, "options": options}
                try:
                    entry["text"] = tokenizer.apply_chat_template(chat, chat_template=source, tokenize=False, **options)
                except Exception as error:
                    entry["error"] = f"{type(error).__name__}: {error}"
                runs.append(entry)
    report["templates"] = runs


@section("loss")
def loss():
    model = open_model("options")
    g = golden("options")
    ids = g["forward.input_ids"]
    labels = g["forward.masked_labels"]
    shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()
    report["loss"] = {
        "num_items_in_batch_50": model(input_ids=ids, labels=labels, num_items_in_batch=50, use_cache=False).loss.item(),
        "shift_labels": model(input_ids=ids, labels=labels, shift_labels=shifted, use_cache=False).loss.item(),
        "labels": model(input_ids=ids, labels=labels, use_cache=False).loss.item(),
    }
    model.config.z_loss_coefficient = 0.01
    model.z_loss_coefficient = 0.01
    report["loss"]["z_loss_0.01"] = model(input_ids=ids, labels=labels, use_cache=False).loss.item()


@section("packed")
def packed():
    """Only attention layers: Transformers' mixers on a CPU leak from one packed sequence into the next."""
    model = open_model("all-attention")
    ids = golden("all-attention")["forward.input_ids"][:1]
    positions = torch.cat([torch.arange(15), torch.arange(22)])[None]
    whole = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    apart = torch.cat([model(input_ids=ids[:, :15], use_cache=False).logits, model(input_ids=ids[:, 15:], use_cache=False).logits], 1)
    report["packed_difference"] = (whole - apart).abs().max().item()


@section("messages")
def messages():
    """What Transformers says to bad settings."""
    model = open_model("base")
    ids = golden("base")["padded.input_ids"][1:]
    cases = [
        {"do_sample": True, "temperature": 0.0},
        {"do_sample": True, "top_p": 2.0},
        {"do_sample": True, "top_k": -1},
        {"repetition_penalty": -1.0},
        {"num_beams": 2, "num_return_sequences": 3},
        {"num_return_sequences": 2},
        {"no_such_option": 1},
        {"max_length": 3},
        {"stop_strings": ["a"]},
        {"bad_words_ids": []},
        {"sequence_bias": []},
        {"no_repeat_ngram_size": -1},
        {"do_sample": True, "typical_p": 1.5},
        {"do_sample": True, "epsilon_cutoff": 2.0},
        {"do_sample": True, "min_p": 2.0},
        {"do_sample": True, "top_h": 2.0},
        {"exponential_decay_length_penalty": [1, -2.0], "eos_token_id": 2},
        {"num_beams": 2, "early_stopping": "sometimes"},
        {"max_new_tokens": 0},
        {"cache_implementation": "quantized"},
        {"prompt_lookup_num_tokens": 3},
    ]
    said = []
    for options in cases:
        try:
            settings = {"max_new_tokens": 3, **options} if "max_length" not in options else options
            model.generate(ids, **settings)
            said.append({"options": options, "error": None})
        except Exception as error:
            said.append({"options": options, "error": f"{type(error).__name__}: {error}"[:600]})
    report["messages"] = said


@section("saved")
def saved():
    """What save_pretrained writes beside the tensors."""
    model = open_model("options")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="300KB")
        files = {p.name: p.stat().st_size for p in sorted(Path(folder).iterdir())}
        report["saved"] = {"files": files, **{n: json.loads((Path(folder) / n).read_text()) for n in files if n.endswith(".json")}}


(out / "extra.json").write_text(json.dumps(report, indent=1, default=str))
print("errors:", list(report["errors"]))
