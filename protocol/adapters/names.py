"""What a manifest says of an adapter's release: names of its files, and the number of the rule it is merged by."""

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
NOTE_NAME = "skyload_adapter.json"
RULE = 1  # raise it with any change of `rule` that changes a bit
