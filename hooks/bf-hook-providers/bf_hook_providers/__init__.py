"""Engines for providers other than OpenAI. `bf_plugin` calls the `create_engine` of the packages below, by entry point.

What the engines have in common is here: one `ProviderEngine` over a `Provider`, which is what differs. Each provider is
a package of three modules: its SDK, the body of its requests, the reader of its answers.
"""
