# Exported detectors alone: mmnextvit/runtime, without torch and OpenMMLab's packages.
#
#   docker build -f docker/runtime.Dockerfile -t mmnextvit-runtime .
#   docker run --rm --network none -v "$PWD:/work" mmnextvit-runtime model.onnx image.jpg > objects.jsonl
#
# For OpenVINO's files: --build-arg PACKAGE=openvino
FROM debian:bookworm-slim AS packages
ARG PACKAGE=onnxruntime
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
COPY requirements/lock.txt requirements/official-lite.txt /
# The versions that the tests run with. The program needs no pip.
RUN python3 -m venv /venv \
    && /venv/bin/pip install --no-cache-dir -c /lock.txt -c /official-lite.txt numpy opencv-python-headless "$PACKAGE" \
    && /venv/bin/pip uninstall -y setuptools pip

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /venv /venv
COPY mmnextvit/runtime /app/mmnextvit/runtime
ENV PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1
USER 1000
WORKDIR /work
ENTRYPOINT ["/venv/bin/python", "-m", "mmnextvit.runtime"]
