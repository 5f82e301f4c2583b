"""The libraries that ``tests.fork_server`` imports before it forks."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

_OF_DVC = (
    "dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce", "dvc.repo.experiments", "dvc.repo.experiments.run",
    "dvc.dvcfile", "dvc.output", "dvc.stage.run", "dvc.stage.cache", "dvc.fs", "dvc.api", "dvc.scm",
    "dvc.progress", "dvc.parsing", "dvc.cachemgr", "dvc.data_cloud", "dvc.dirs", "dvc.repo.open_repo",
    "dvc.repo.artifacts", "dvc.repo.datasets", "dvc.repo.index", "dvc.repo.plots", "dvc.repo.stage",
    "dvc.utils.strictyaml", "configobj", "dulwich.worktree", "dulwich.ignore", "dulwich.index",
    "fsspec.implementations.memory", "celery", "kombu", "dvc.repo.experiments.queue.workspace",
    "dvc.repo.experiments.executor.local", "dvc.repo.graph", "dvc.repo.trie", "dvc.utils.hydra", "hydra",
    "pygit2", "scmrepo.git.backend.pygit2.filter", "dulwich.porcelain", "dvc_data.hashfile.db.local",
    "dvc_data.hashfile.status", "dvc_data.index.checkout", "pyparsing", "dvc_data.index",
    "dvc_data.hashfile.build", "dvc_http", "dulwich.repo", "networkx", "ruamel.yaml", "voluptuous",
    "pathspec", "diskcache", "sqltrie", "asyncio",
)  # fmt: skip

# not onnxruntime, which starts a thread when it is imported
_OF_STAGES = (
    "numpy", "torch", "pytorch_lightning", "torchmetrics", "torch.onnx", "torch._dynamo", "torch.export",
    "torch.utils.flop_counter", "torch_pruning", "onnx", "onnxscript", "onnx_ir.passes.common",
    "onnx.helper", "onnx.numpy_helper", "sklearn.datasets", "sklearn.metrics", "scipy.stats",
    "scipy.optimize", "scipy.special", "cv2", "albumentations", "imagehash", "PIL.Image",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.ticker", "dvclive", "jinja2",
    "rich.table", "rich.progress", "omegaconf", "pydantic", "yaml", "requests", "safetensors.torch",
    "shtab", "s3fs", "dvc_s3", "PIL.ImageOps", "PIL.JpegImagePlugin", "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin", "matplotlib.backends.backend_svg", "onnxscript.function_libs.torch_lib.ops",
    "torch.onnx._internal.exporter._core", "sklearn.datasets.data", "sklearn.datasets.descr", "OpenSSL.SSL",
)  # fmt: skip


def load(cache: Path, *, of_stages: bool) -> None:
    """Import what DVC needs, and with ``of_stages`` what stages and `isoflop` need; ``cache`` is a folder for DVC's."""
    if "dvc.cli.parser" not in sys.modules:
        _import(_OF_DVC)
        _parse_each_text_once(cache)
    if of_stages:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would look for updates over the network
        _import(_OF_STAGES)


def _import(modules: tuple[str, ...]) -> None:
    for module in modules:
        if module not in sys.modules:
            with contextlib.suppress(ImportError):  # of another version: the forks import it where they need it
                importlib.import_module(module)


def _parse_each_text_once(folder: Path) -> None:
    """DVC reads YAML in pure Python, dvc.lock at every start and params.yaml for every stage: 70 % of `dvc status`.

    The same text is the same content, so it is kept in ``folder`` for all forks.
    """
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml

    parse = _yaml.parse_yaml
    folder.mkdir()

    def parse_once(text: str, path: str, typ: str = "safe") -> Any:
        file = folder / f"{typ}-{hashlib.sha256(text.encode()).hexdigest()}"
        if not file.exists():
            content = parse(text, path, typ)
            partial = file.with_suffix(f".{os.getpid()}")
            partial.write_bytes(pickle.dumps(content))
            partial.replace(file)
        return pickle.loads(file.read_bytes())

    for module in (_yaml, strictyaml):
        module.parse_yaml = parse_once
