"""A Hugging Face hub on the loopback interface with tiny networks, and how such a network is made."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"},
    "convnextv2": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "mobilenet_v2": {"depth_multiplier": 0.1, "image_size": 32},
    "efficientnet": {"image_size": 32, "hidden_dim": 256, "width_coefficient": 0.2, "depth_coefficient": 0.2},
    "vit": {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32},
    "dinov2": {"image_size": 28, "patch_size": 14, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
               "mlp_ratio": 2},
    "dinov3_vit": {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2,
                   "num_attention_heads": 2, "intermediate_size": 32},
    "swinv2": {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
               "window_size": 4},
}  # fmt: skip


def tiny_network(kind: str, **changes: Any) -> Any:
    """A network of transformers with random weights; of DINOv3, which has no head there, the features."""
    import torch
    import transformers

    torch.manual_seed(0)
    library: Any = transformers
    config = library.AutoConfig.for_model(kind, num_labels=7, **TINY[kind] | changes)
    auto = library.AutoModel if kind.startswith("dinov3") else library.AutoModelForImageClassification
    return auto.from_config(config).eval()


def saved(folder: Path, kind: str, **changes: Any) -> Path:
    """Such a network as its library saves it, with the metadata of a license and a processor."""
    library: Any = __import__("transformers")
    library.logging.disable_progress_bar()
    tiny_network(kind, **changes).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@dataclass
class Hub:
    """``files`` of the only repository, ``tiny/net``, at the only commit; ``error`` is the code of every answer."""

    files: dict[str, bytes]
    error: str = ""  # X-Error-Code
    tokens: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.tokens.append(self.headers.get("Authorization"))
            if hub.error:
                status = {"GatedRepo": 403, "RepoNotFound": 401}.get(hub.error, 404)
                self._answer(b"{}", status, {"X-Error-Code": hub.error, "X-Error-Message": hub.error})
            elif self.path.startswith("/api/models/tiny/net/revision/"):
                siblings = [self._sibling(name) for name in hub.files]
                about = {"id": "tiny/net", "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}
                self._answer(json.dumps(about).encode(), 200, {"Content-Type": "application/json"})
            else:
                name = self.path.partition(f"/tiny/net/resolve/{COMMIT}/")[2]
                content = hub.files.get(name)
                etag = hashlib.sha256(content or b"").hexdigest()
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
                self._answer(content or b"", 200 if content is not None else 404, headers)

        def _sibling(self, name: str) -> dict[str, Any]:
            content = hub.files[name]
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
            large = {"lfs": lfs} if name.endswith((".safetensors", ".bin")) else {}
            return {"rfilename": name, "size": len(content), "blobId": "0" * 40, **large}

        def _answer(self, content: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        hub.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield hub
        finally:
            http.shutdown()
            thread.join()
