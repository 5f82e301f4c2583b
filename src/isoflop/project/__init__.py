"""A project's files: checks of dvc.yaml and params.yaml, presets, upgrades; calls to git and DVC."""
