"""Measures an installation; called by `bf-plugin bench`. Every part that is not measured is a process of its own.

A fake provider (`provider`) paces streams whose every piece of text says when it was sent; a fake gateway (`sink`)
takes the messages and looks at those times; between them stands the process that is measured (`subject`): the plugin
under waitress, or its baseline. Each figure (`figures`) is paired with its baseline in the same run.
"""

from __future__ import annotations
