"""Renders the templates of this folder with Jinja2 3.1.6 and the settings of Transformers' chat templates: python3 render.py > new.json"""

import json

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller):
        return caller()


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception

cases = json.load(open("rendered.json"))
for case in cases:
    variables = {"messages": case["chat"], "tools": None, "documents": None, "add_generation_prompt": False}
    variables |= {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"} | case["options"]
    case["text"] = environment.from_string(open(f"{case['template']}.jinja").read()).render(**variables)
print(json.dumps(cases, indent=2, ensure_ascii=False))
