"""Which assistant of the server answers: one the operator has named, or one of our making."""

from __future__ import annotations

import asyncio
import hashlib

from bf_hook_assistants.api import Api
from bf_hook_assistants.section import Section
from bf_plugin import PluginStore


class Assistants:
    """Knows the assistant for a model. A run needs one; what it says itself, the caller's words override.

    One that is made is remembered in the store, for all processes; a caller's own key may be for another account, and
    gets its own.
    """

    def __init__(self, section: Section, store: PluginStore) -> None:
        self._section = section
        self._store = store
        self._known: dict[str, str] = {}
        self._making = asyncio.Lock()

    async def pick(self, api: Api, model: str) -> dict[str, str]:
        """Return `assistant_id`, and `model` unless the assistant's own is meant. Raises ProviderError."""
        if model in self._section.assistants:
            return {"assistant_id": self._section.assistants[model]}
        return {"assistant_id": self._section.assistant_id or await self._made(api, model), "model": model}

    async def renew(self, api: Api, model: str) -> bool:
        """Forget an assistant that is gone, if it was of our making; tell whether it was."""
        if model in self._section.assistants or self._section.assistant_id:
            return False
        name = _name(api, model)
        self._known.pop(name, None)
        await asyncio.to_thread(self._store.delete, name)
        return True

    async def _made(self, api: Api, model: str) -> str:
        name = _name(api, model)
        async with self._making:
            found = self._known.get(name) or await asyncio.to_thread(self._store.get, name)
            if found is None:
                found = await api.create_assistant(model)
                await asyncio.to_thread(self._store.put, name, found)
            self._known[name] = str(found)
            return self._known[name]


def _name(api: Api, model: str) -> str:
    return hashlib.sha256("\0".join((api.server, api.whose, model)).encode()).hexdigest()
