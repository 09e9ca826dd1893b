"""The adapters: a module for each wire form of a language model service."""
