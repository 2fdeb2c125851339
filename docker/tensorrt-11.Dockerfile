# TensorRT 11. This project has never built it; docker/README.md says how to, and what is known of
# the base.
#
# The digest is that of the image for x86-64, as public sources give it for this tag. Another tag
# needs its own digest and TensorRT version: three --build-arg.
ARG BASE_TAG=26.07-py3
ARG BASE_DIGEST=sha256:b82db1abc23750ab0069abc99bbe4ea29138dbdc23ea39861199e2346638b48a
FROM nvcr.io/nvidia/tensorrt:${BASE_TAG}@${BASE_DIGEST}
ARG TENSORRT_VERSION=11.1.0.106

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        cmake g++ git make ninja-build python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

# TensorRT's module and libraries are in the image: only CUDA's module is missing.
COPY requirements-nv.txt /opt/
RUN python3 -m pip install --break-system-packages --no-cache-dir --no-deps \
    --constraint /opt/requirements-nv.txt cuda-bindings cuda-core cuda-pathfinder cuda-python

RUN python3 -c "import sys, tensorrt; \
assert (3, 10) <= sys.version_info[:2] <= (3, 12), sys.version; \
assert tensorrt.__version__ == '${TENSORRT_VERSION}', tensorrt.__version__; \
import cuda.bindings.runtime"

# A user without an entry in the image's list of users has no home folder of its own.
ENV HOME=/tmp \
    PYTHON=/usr/bin/python3
WORKDIR /checkout
USER 1000:1000
CMD ["bash"]
