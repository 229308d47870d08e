"""Where the loader plugs into serving code; each module imports its framework when it is used, none at import of this package.

    transformers   load(cls, path): a whole model by transformers' own lazy `state_dict=` source
    rebind         accelerate(): code that reads by the safetensors library reads by this one, inside a block
    vllm           register(): load_format="prestage", found by vLLM through the entry point group vllm.general_plugins

docs/integrations.md says which line to pick, and which versions each was run with.
"""
