# One image for Ray's head and workers, the MLflow server and the command line.
#   docker build -t tuner:0.1.0 .                                                      GPUs (runs on CPUs too)
#   docker build -t tuner:0.1.0 --build-arg ACCELERATOR=cpu --build-arg TORCH_INDEX=URL .   small, CPUs only
# ACCELERATOR=cpu takes PyTorch from its project's index of CPU builds, whose address you give as TORCH_INDEX. Every file
# that is installed has the hash that deploy/requirements.txt says (x86-64), but for PyTorch's CPU builds. The base is
# pinned by digest: deploy/README.md says how to look whether a newer one is out.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS build
ARG ACCELERATOR=cuda
ARG TORCH_INDEX=
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml deploy/requirements.txt README.md ./
COPY search_spaces search_spaces
COPY trainables trainables
COPY tuner tuner
RUN case "$ACCELERATOR" in cpu|cuda) ;; *) echo "ACCELERATOR=$ACCELERATOR is not allowed: cpu or cuda" >&2; exit 2 ;; esac \
 && python -m venv /opt/tuner \
 && if [ "$ACCELERATOR" = cpu ]; then \
        : "${TORCH_INDEX:?--build-arg ACCELERATOR=cpu needs --build-arg TORCH_INDEX=URL}" \
     && grep -vE '^(nvidia-|cuda-|triton|torch=|torchvision=)' requirements.txt > hashed.txt \
     && sed -nE 's/^(torch|torchvision)(==[^ ]+) .*/\1\2/p' requirements.txt > torch.txt \
     && /opt/tuner/bin/pip install --no-deps --index-url "$TORCH_INDEX" -r torch.txt; \
    else cp requirements.txt hashed.txt; fi \
 && /opt/tuner/bin/pip install --require-hashes --no-deps -r hashed.txt \
 && /opt/tuner/bin/pip install --no-deps --no-build-isolation . \
 && /opt/tuner/bin/pip check \
 && /opt/tuner/bin/tuner methods > /dev/null

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
# wget: KubeRay's probes. openssh-client and rsync: Ray's cluster launcher. Their versions are the pinned Debian's, which
# keeps no older ones.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends wget openssh-client rsync procps \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home tuner \
 && mkdir -p /tuner-home && chown tuner:tuner /tuner-home
COPY --from=build /opt/tuner /opt/tuner
# Ray gives a silent node up after half a minute instead of one (it asks every 3 s, and four silences are enough)
ENV RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=4
ENV PATH=/opt/tuner/bin:$PATH TUNER_HOME=/tuner-home PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 \
    RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /home/tuner
VOLUME /tuner-home
HEALTHCHECK --interval=60s --timeout=30s --start-period=20s CMD ["tuner", "doctor"]
CMD ["tuner", "--help"]
