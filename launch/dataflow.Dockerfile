# The image in which `jaxllm prepare --runner=beam` runs on Dataflow (launch/dataflow.sh builds it):
#   docker build --file=launch/dataflow.Dockerfile --tag=IMAGE .
# Beam wants protobuf below 7, and so a sentencepiece made for it; training has newer ones. Preparing
# data needs no jax.
FROM python:3.12-slim

COPY --from=apache/beam_python3.12_sdk:2.77.0 /opt/apache/beam /opt/apache/beam

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN pip install "apache-beam[gcp]==2.77.0" "sentencepiece==0.2.1" absl-py array-record \
    "etils[epath]" ftfy gcsfs jinja2 lingua-language-detector ml-collections numpy pyarrow pyyaml \
    rich tokenizers trafilatura xxhash zstandard

WORKDIR /jaxllm
COPY pyproject.toml README.md ./
COPY jaxllm jaxllm
RUN pip install --no-deps .
COPY configs configs

ENTRYPOINT ["/opt/apache/beam/boot"]
