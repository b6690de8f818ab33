// Depthwise convolutions of the common shapes, which memory limits: a thread has four channels and a strip of four pixels
// of a row. Kernel and stride are known when it is compiled; dilation is 1, and channels come in fours.

constexpr unsigned STRIP = 4;

__device__ inline float4 four(const float *from) { return *(const float4 *)from; }

__device__ inline void add_product(float4 &sum, float4 a, float4 b) {
    sum.x = fmaf(a.x, b.x, sum.x), sum.y = fmaf(a.y, b.y, sum.y);
    sum.z = fmaf(a.z, b.z, sum.z), sum.w = fmaf(a.w, b.w, sum.w);
}

// The weights of one tap of four channels from `c` on.
template <int K> __device__ inline float4 tap_of(const float *w, unsigned c, int tap) {
    const float *first = w + (size_t)c * (K * K) + tap;
    return make_float4(first[0], first[K * K], first[2 * K * K], first[3 * K * K]);
}

// The place of a thread's strip in images of `height` rows of `width` pixels.
struct Strip {
    unsigned channel, x, y, image;
    bool any;

    __device__ Strip(unsigned batch, unsigned height, unsigned width, unsigned channels) {
        unsigned i = blockIdx.x * THREADS + threadIdx.x, quads = channels / 4, strips = (width + STRIP - 1) / STRIP;
        channel = i % quads * 4;
        i /= quads;
        x = i % strips * STRIP;
        i /= strips;
        y = i % height;
        image = i / height;
        any = image < batch;
    }
};

template <int K, int S> __device__ void depthwise_strip(const float *x, const float *w, float *y, const Geometry &g) {
    const Strip at(g.batch, g.out_height, g.out_width, g.out_channels);
    if (!at.any) return;
    const unsigned c = at.channel;
    float4 sums[STRIP] = {};
    for (int ky = 0; ky < K; ky++) {
        int iy = (int)(at.y * S) + ky - (int)g.top;
        if (iy < 0 || iy >= (int)g.in_height) continue;
        const float *row = x + ((size_t)at.image * g.in_height + iy) * g.in_width * g.in_channels + c;
        float4 taps[K];
        for (int kx = 0; kx < K; kx++) taps[kx] = tap_of<K>(w, c, ky * K + kx);
        for (int j = 0; j < (int)(STRIP - 1) * S + K; j++) {
            int ix = (int)(at.x * S) + j - (int)g.left;
            if (ix < 0 || ix >= (int)g.in_width) continue;
            float4 value = four(row + (size_t)ix * g.in_channels);
            for (int r = 0; r < (int)STRIP; r++)
                if (j >= r * S && j - r * S < K) add_product(sums[r], value, taps[j - r * S]);
        }
    }
    float *out = y + (((size_t)at.image * g.out_height + at.y) * g.out_width + at.x) * g.out_channels + c;
    for (unsigned r = 0; r < STRIP && at.x + r < g.out_width; r++) *(float4 *)(out + (size_t)r * g.out_channels) = sums[r];
}

template <int K, int S> __device__ void depthwise_input_strip(const float *gy, const float *w, float *gx, const Geometry &g) {
    const Strip at(g.batch, g.in_height, g.in_width, g.in_channels);
    if (!at.any) return;
    const unsigned c = at.channel;
    float4 sums[STRIP] = {};
    for (int ky = 0; ky < K; ky++) {
        int y = (int)(at.y + g.top) - ky;
        if (y < 0 || y % S != 0 || y / S >= (int)g.out_height) continue;
        const float *row = gy + ((size_t)at.image * g.out_height + y / S) * g.out_width * g.out_channels + c;
        for (int kx = 0; kx < K; kx++) {
            float4 tap = tap_of<K>(w, c, ky * K + kx);
            for (int r = 0; r < (int)STRIP; r++) {
                int x = (int)(at.x + g.left) + r - kx;
                if (x < 0 || x % S != 0 || x / S >= (int)g.out_width) continue;
                add_product(sums[r], four(row + (size_t)(x / S) * g.out_channels), tap);
            }
        }
    }
    float *out = gx + (((size_t)at.image * g.in_height + at.y) * g.in_width + at.x) * g.in_channels + c;
    for (unsigned r = 0; r < STRIP && at.x + r < g.in_width; r++) *(float4 *)(out + (size_t)r * g.in_channels) = sums[r];
}

// Fours of channels of a block of the weight's gradient; its other threads take other strips.
constexpr unsigned QUADS = 8;

// Blocks: (tiles of 32 channels, parts); part p adds `each` strips from p * each on.
template <int K, int S>
__device__ void depthwise_weight_strip(const float *x, const float *gy, float *parts, unsigned each, const Geometry &g) {
    __shared__ float4 shared[THREADS];
    const unsigned quad = threadIdx.x % QUADS, lane = threadIdx.x / QUADS, c = (blockIdx.x * QUADS + quad) * 4;
    const unsigned strips = (g.out_width + STRIP - 1) / STRIP, all = g.batch * g.out_height * strips;
    const unsigned first = blockIdx.y * each, last = first + each < all ? first + each : all;
    float4 sums[K * K] = {};
    if (c < g.out_channels)
        for (unsigned s = first + lane; s < last; s += THREADS / QUADS) {
            unsigned x0 = s % strips * STRIP, y = s / strips % g.out_height, n = s / strips / g.out_height;
            float4 gradients[STRIP];
            for (unsigned r = 0; r < STRIP; r++) {
                const float *from = gy + (((size_t)n * g.out_height + y) * g.out_width + x0 + r) * g.out_channels + c;
                gradients[r] = x0 + r < g.out_width ? four(from) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
#pragma unroll
            for (int ky = 0; ky < K; ky++) {
                int iy = (int)(y * S) + ky - (int)g.top;
                if (iy < 0 || iy >= (int)g.in_height) continue;
                const float *row = x + ((size_t)n * g.in_height + iy) * g.in_width * g.in_channels + c;
#pragma unroll
                for (int j = 0; j < (int)(STRIP - 1) * S + K; j++) {
                    int ix = (int)(x0 * S) + j - (int)g.left;
                    if (ix < 0 || ix >= (int)g.in_width) continue;
                    float4 value = four(row + (size_t)ix * g.in_channels);
#pragma unroll
                    for (int r = 0; r < (int)STRIP; r++)
                        if (j >= r * S && j - r * S < K) add_product(sums[ky * K + j - r * S], value, gradients[r]);
                }
            }
        }
#pragma unroll
    for (int tap = 0; tap < K * K; tap++) {
        shared[threadIdx.x] = sums[tap];
        __syncthreads();
        if (lane == 0 && c < g.out_channels) {
            float4 sum = shared[quad];
            for (unsigned l = 1; l < THREADS / QUADS; l++) {
                float4 other = shared[l * QUADS + quad];
                sum.x += other.x, sum.y += other.y, sum.z += other.z, sum.w += other.w;
            }
            float *out = parts + ((size_t)blockIdx.y * g.out_channels + c) * (K * K) + tap;
            out[0] = sum.x, out[K * K] = sum.y, out[2 * K * K] = sum.z, out[3 * K * K] = sum.w;
        }
        __syncthreads();
    }
}

#define DEPTHWISE(K, S)                                                                                                \
    extern "C" __global__ void depthwise_##K##_##S(const float *x, const float *w, float *y, Geometry g) {             \
        depthwise_strip<K, S>(x, w, y, g);                                                                             \
    }                                                                                                                  \
    extern "C" __global__ void depthwise_input_##K##_##S(const float *gy, const float *w, float *gx, Geometry g) {     \
        depthwise_input_strip<K, S>(gy, w, gx, g);                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void depthwise_weight_##K##_##S(const float *x, const float *gy, float *parts,               \
                                                          unsigned each, Geometry g) {                                 \
        depthwise_weight_strip<K, S>(x, gy, parts, each, g);                                                           \
    }

DEPTHWISE(3, 1)
DEPTHWISE(3, 2)
DEPTHWISE(5, 1)
DEPTHWISE(5, 2)
