"""The project as files: dvc.yaml held to the stages, params.yaml checked whole, presets, git and DVC as programs."""
