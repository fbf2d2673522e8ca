"""Whether a run's draft is still one, after a plugin had it."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, fields
from typing import Any

from bf_plugin.runtime.tracecontext import trace_context
from bf_plugin.values import RunDraft


def draft_problem(draft: RunDraft) -> str | None:
    """Return what is wrong with a draft (`tools.0.name: Field required`), None if nothing is.

    Its values are left out: the text is for the log.
    """
    from pydantic import ValidationError

    try:
        _validator().validate_python({field.name: getattr(draft, field.name) for field in fields(draft)})
        json.dumps(asdict(draft), allow_nan=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (TypeError, ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    trace = (draft.traceparent, draft.tracestate)
    return None if trace_context(*trace) == trace else "traceparent, tracestate: not as W3C Trace Context has them"


@functools.cache
def _validator() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(RunDraft)
