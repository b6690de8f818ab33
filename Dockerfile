# qdrop for NVIDIA GPUs:
#   docker build -t qdrop .
#   docker run --gpus all -v /data:/data -v "$PWD:/work" -w /work qdrop quantize best/mobilenet_v2_w4a4 --device cuda \
#     --data /data/imagenet --weights mobilenet_v2.pth --out result
ARG CUDA=13.0.2
FROM nvidia/cuda:${CUDA}-cudnn-devel-ubuntu24.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl g++ gcc git && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
ENV PATH=/root/.cargo/bin:$PATH
# The compute capability of the GPUs that candle's kernels are compiled for: 80 (A100), 89 (RTX 40), 90 (H100, H200).
ARG CUDA_COMPUTE_CAP=80
ENV CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP}
WORKDIR /qdrop
COPY . .
RUN cargo install --path cli --features cuda --locked --root /usr/local

FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu24.04
COPY --from=build /usr/local/bin/qdrop /usr/local/bin/qdrop
ENTRYPOINT ["qdrop"]
