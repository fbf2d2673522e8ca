"""FileMaker scripts as tools: declared in the settings, run through the FileMaker Data API or an app's callback.

`create` is what the entry point names. `bf_hook_filemaker.testing` has a FileMaker Server for tests.
"""

from __future__ import annotations

from bf_hook_filemaker.plugin import FileMaker
from bf_hook_filemaker.settings import read
from bf_plugin import PluginContext

__all__ = ["create"]


def create(context: PluginContext) -> FileMaker:
    """Make the plugin of `[plugins.filemaker]`. Raises ConfigurationError, which names the field that is wrong."""
    return FileMaker(read(context.section))
