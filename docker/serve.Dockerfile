# A container that serves one model over HTTP, without torch:
#   docker build -f docker/serve.Dockerfile --build-arg MODEL=ship/model.onnx -t classifier .
#   docker run --rm -p 127.0.0.1:8000:8000 classifier
#   curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
FROM python:3.12-slim
WORKDIR /srv
COPY requirements.lock pyproject.toml README.md LICENSE dvc.yaml .gitignore .dvcignore ./
COPY .dvc/plots .dvc/plots
COPY src src
COPY stages stages
COPY presets presets
# what `isoflop serve` imports; the package itself without its dependencies, which train
RUN grep -v -i -E '^(torch|nvidia|triton)' requirements.lock > pins.txt \
    && pip install --no-cache-dir -c pins.txt cyclopts numpy onnx onnxruntime pillow pydantic pyyaml rich \
    && pip install --no-cache-dir --no-deps . && rm -rf src stages presets
ARG MODEL=ship/model.onnx
COPY ${MODEL} model.onnx
USER nobody
EXPOSE 8000
HEALTHCHECK --interval=30s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["isoflop", "serve", "model.onnx", "--host", "0.0.0.0", "--port", "8000"]
