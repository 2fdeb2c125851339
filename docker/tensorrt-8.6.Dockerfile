# TensorRT 8.6, the oldest that BACKEND=tensorrt takes, with a Python that the packages support.
# This project has never built it; docker/README.md says how to, and what is known of the base.
#
# --build-arg BASE_DIGEST=sha256:... pins the base image; no digest of it could be learnt.
ARG BASE_DIGEST=
FROM nvcr.io/nvidia/tensorrt:23.04-py3${BASE_DIGEST:+@${BASE_DIGEST}}

# The image's own Python is 3.8. This build of 3.10 wants nothing but glibc 2.17 or later.
ADD --checksum=sha256:fb1caac917d7b6497bb6f5950da5f1e48d05c43a498948dd97f85760c4382d9f \
    https://github.com/astral-sh/python-build-standalone/releases/download/20251031/cpython-3.10.19+20251031-x86_64-unknown-linux-gnu-install_only.tar.gz \
    /tmp/python.tar.gz
RUN tar --extract --no-same-owner --file=/tmp/python.tar.gz --directory=/opt \
    && rm /tmp/python.tar.gz
ENV PATH=/opt/python/bin:$PATH \
    PYTHON=/opt/python/bin/python3.10

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*

# TensorRT's libraries are in the image: the variable keeps the stub from fetching others.
COPY requirements-nv-8.6.txt /opt/
RUN NVIDIA_TENSORRT_DISABLE_INTERNAL_PIP=1 python3.10 -m pip install --no-cache-dir --no-deps \
    --requirement /opt/requirements-nv-8.6.txt

# Module and libraries have to be of one version.
RUN python3.10 -c "import ctypes, tensorrt; \
assert tensorrt.__version__ == '8.6.1', tensorrt.__version__; \
version = ctypes.CDLL('libnvinfer.so.8').getInferLibVersion(); \
assert version == 8601, version"

# A user without an entry in the image's list of users has no home folder of its own.
ENV HOME=/tmp
WORKDIR /checkout
USER 1000:1000
CMD ["bash"]
