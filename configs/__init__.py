"""The configuration tree: config.yaml and one folder of options per group. Installed as fedsim.configs."""
