// Convolutions of channels-last images with weights (O, KH, KW, I / groups): any geometry. They serve where the library of
// convolutions is absent or has no deterministic algorithm, and they are the reference of the emulated step.
//
// All three passes are matrix products in tiles of 64 x 64 numbers, of which a thread computes 4 x 4. What a tile reads
// is gathered into shared memory, 16 of the inner dimension at a time.

struct Geometry {
    unsigned batch, in_channels, in_height, in_width, out_channels, out_height, out_width;
    unsigned kernel_height, kernel_width, stride_y, stride_x, top, left, dilation_y, dilation_x, groups;

    __device__ unsigned ig() const { return in_channels / groups; }
    __device__ unsigned og() const { return out_channels / groups; }
    __device__ unsigned taps() const { return kernel_height * kernel_width; }
};

constexpr unsigned TILE = 64, DEPTH = 16;

// The 4 x 4 numbers of a thread: rows threadIdx.x / 16 * 4 and columns threadIdx.x % 16 * 4 of the tile. `a(row, k)` and
// `b(k, column)` give what the tile reads. Numbers that lie together are those of neighbouring rows if BY_ROWS, else those of
// neighbouring k.
template <bool BY_ROWS, typename A, typename B>
__device__ inline void multiply(unsigned first, unsigned last, A a, B b, float (&sums)[4][4]) {
    __shared__ float left[DEPTH][TILE + 4], right[DEPTH][TILE + 4];
    const unsigned top = threadIdx.x / 16 * 4, side = threadIdx.x % 16 * 4;
    for (unsigned k = first; k < last; k += DEPTH) {
        for (unsigned i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            unsigned row = BY_ROWS ? i % TILE : i / DEPTH, d = BY_ROWS ? i / TILE : i % DEPTH;
            left[d][row] = k + d < last ? a(row, k + d) : 0.0f;
            right[i / TILE][i % TILE] = k + i / TILE < last ? b(k + i / TILE, i % TILE) : 0.0f;
        }
        __syncthreads();
        for (unsigned d = 0; d < DEPTH; d++)
            for (unsigned r = 0; r < 4; r++)
                for (unsigned c = 0; c < 4; c++) sums[r][c] = fmaf(left[d][top + r], right[d][side + c], sums[r][c]);
        __syncthreads();
    }
}

// The number of x that output pixel `p` of a group reads at place `k` of its window, (tap, channel); 0 outside the image.
__device__ inline float read_by(const float *x, const Geometry &g, unsigned group, unsigned p, unsigned k) {
    unsigned tap = k / g.ig(), n = p / (g.out_height * g.out_width);
    int iy = (int)(p / g.out_width % g.out_height * g.stride_y + tap / g.kernel_width * g.dilation_y) - (int)g.top;
    int ix = (int)(p % g.out_width * g.stride_x + tap % g.kernel_width * g.dilation_x) - (int)g.left;
    if (iy < 0 || ix < 0 || iy >= (int)g.in_height || ix >= (int)g.in_width) return 0.0f;
    return x[(((size_t)n * g.in_height + iy) * g.in_width + ix) * g.in_channels + group * g.ig() + k % g.ig()];
}

// y = x * w. Blocks: (tiles of pixels, tiles of a group's output channels, groups).
extern "C" __global__ void convolve(const float *x, const float *w, float *y, Geometry g) {
    const unsigned pixels = g.batch * g.out_height * g.out_width, group = blockIdx.z, depth = g.taps() * g.ig();
    const unsigned first_pixel = blockIdx.x * TILE, first_channel = blockIdx.y * TILE;
    float sums[4][4] = {};
    multiply<false>(
        0, depth,
        [&](unsigned row, unsigned k) {
            unsigned p = first_pixel + row;
            return p < pixels ? read_by(x, g, group, p, k) : 0.0f;
        },
        [&](unsigned k, unsigned column) {
            unsigned o = first_channel + column;
            return o < g.og() ? w[(size_t)(group * g.og() + o) * depth + k] : 0.0f;
        },
        sums);
    for (unsigned r = 0; r < 4; r++)
        for (unsigned c = 0; c < 4; c++) {
            unsigned p = first_pixel + threadIdx.x / 16 * 4 + r, o = first_channel + threadIdx.x % 16 * 4 + c;
            if (p < pixels && o < g.og()) y[(size_t)p * g.out_channels + group * g.og() + o] = sums[r][c];
        }
}

// The place of an output pixel that reads row or column `at` with tap `tap`; -1 if there is none.
__device__ inline int reader(unsigned at, unsigned tap, unsigned padding, unsigned dilation, unsigned stride, unsigned count) {
    int o = (int)(at + padding) - (int)(tap * dilation);
    return o < 0 || o % (int)stride != 0 || o / (int)stride >= (int)count ? -1 : o / (int)stride;
}

// The gradient of x. Blocks: (tiles of input pixels, tiles of a group's input channels, groups).
extern "C" __global__ void convolve_input(const float *gy, const float *w, float *gx, Geometry g) {
    const unsigned pixels = g.batch * g.in_height * g.in_width, group = blockIdx.z, depth = g.taps() * g.og();
    const unsigned first_pixel = blockIdx.x * TILE, first_channel = blockIdx.y * TILE;
    float sums[4][4] = {};
    multiply<false>(
        0, depth,
        [&](unsigned row, unsigned k) {
            unsigned p = first_pixel + row;
            if (p >= pixels) return 0.0f;
            unsigned tap = k / g.og(), n = p / (g.in_height * g.in_width);
            int oy = reader(p / g.in_width % g.in_height, tap / g.kernel_width, g.top, g.dilation_y, g.stride_y, g.out_height);
            int ox = reader(p % g.in_width, tap % g.kernel_width, g.left, g.dilation_x, g.stride_x, g.out_width);
            if (oy < 0 || ox < 0) return 0.0f;
            return gy[(((size_t)n * g.out_height + oy) * g.out_width + ox) * g.out_channels + group * g.og() + k % g.og()];
        },
        [&](unsigned k, unsigned column) {
            unsigned i = first_channel + column, tap = k / g.og(), o = group * g.og() + k % g.og();
            return i < g.ig() ? w[((size_t)o * g.taps() + tap) * g.ig() + i] : 0.0f;
        },
        sums);
    for (unsigned r = 0; r < 4; r++)
        for (unsigned c = 0; c < 4; c++) {
            unsigned p = first_pixel + threadIdx.x / 16 * 4 + r, i = first_channel + threadIdx.x % 16 * 4 + c;
            if (p < pixels && i < g.ig()) gx[(size_t)p * g.in_channels + group * g.ig() + i] = sums[r][c];
        }
}

// The gradient of w in parts. Blocks: (tiles of a group's output channels x tiles of taps and input channels, parts,
// groups); part p adds the pixels from p * each on.
extern "C" __global__ void convolve_weight(const float *x, const float *gy, float *parts, unsigned each, Geometry g) {
    const unsigned pixels = g.batch * g.out_height * g.out_width, group = blockIdx.z, depth = g.taps() * g.ig();
    const unsigned tiles = (g.og() + TILE - 1) / TILE;
    const unsigned first_channel = blockIdx.x % tiles * TILE, first_column = blockIdx.x / tiles * TILE;
    const unsigned first = blockIdx.y * each, last = first + each < pixels ? first + each : pixels;
    float sums[4][4] = {};
    multiply<true>(
        first, last,
        [&](unsigned row, unsigned p) {
            unsigned o = first_channel + row;
            return o < g.og() ? gy[(size_t)p * g.out_channels + group * g.og() + o] : 0.0f;
        },
        [&](unsigned p, unsigned column) {
            unsigned k = first_column + column;
            return k < depth ? read_by(x, g, group, p, k) : 0.0f;
        },
        sums);
    for (unsigned r = 0; r < 4; r++)
        for (unsigned c = 0; c < 4; c++) {
            unsigned o = first_channel + threadIdx.x / 16 * 4 + r, k = first_column + threadIdx.x % 16 * 4 + c;
            if (o < g.og() && k < depth)
                parts[((size_t)blockIdx.y * g.out_channels + group * g.og() + o) * depth + k] = sums[r][c];
        }
}

// Depthwise: each channel has a filter of its own, as many outputs as inputs. A thread computes one number.
extern "C" __global__ void depthwise(const float *x, const float *w, float *y, Geometry g) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (size_t)g.batch * g.out_height * g.out_width * g.out_channels) return;
    unsigned c = i % g.out_channels, p = i / g.out_channels, n = p / (g.out_height * g.out_width);
    int y0 = (int)(p / g.out_width % g.out_height * g.stride_y) - (int)g.top, x0 = (int)(p % g.out_width * g.stride_x) - (int)g.left;
    float sum = 0.0f;
    for (unsigned ky = 0; ky < g.kernel_height; ky++)
        for (unsigned kx = 0; kx < g.kernel_width; kx++) {
            int iy = y0 + (int)(ky * g.dilation_y), ix = x0 + (int)(kx * g.dilation_x);
            if (iy < 0 || ix < 0 || iy >= (int)g.in_height || ix >= (int)g.in_width) continue;
            float value = x[(((size_t)n * g.in_height + iy) * g.in_width + ix) * g.in_channels + c];
            sum = fmaf(value, w[(size_t)c * g.taps() + ky * g.kernel_width + kx], sum);
        }
    y[i] = sum;
}

extern "C" __global__ void depthwise_input(const float *gy, const float *w, float *gx, Geometry g) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (size_t)g.batch * g.in_height * g.in_width * g.in_channels) return;
    unsigned c = i % g.in_channels, p = i / g.in_channels, n = p / (g.in_height * g.in_width);
    float sum = 0.0f;
    for (unsigned ky = 0; ky < g.kernel_height; ky++)
        for (unsigned kx = 0; kx < g.kernel_width; kx++) {
            int oy = reader(p / g.in_width % g.in_height, ky, g.top, g.dilation_y, g.stride_y, g.out_height);
            int ox = reader(p % g.in_width, kx, g.left, g.dilation_x, g.stride_x, g.out_width);
            if (oy < 0 || ox < 0) continue;
            float value = gy[(((size_t)n * g.out_height + oy) * g.out_width + ox) * g.out_channels + c];
            sum = fmaf(value, w[(size_t)c * g.taps() + ky * g.kernel_width + kx], sum);
        }
    gx[i] = sum;
}

// The gradient of a depthwise weight in parts. Blocks: (tiles of 32 channels, parts); at most `taps` sums of a thread lie in
// registers, so there are several instances.
template <unsigned TAPS>
__device__ inline void depthwise_weight_of(const float *x, const float *gy, float *parts, unsigned each, const Geometry &g) {
    __shared__ float sums[THREADS];
    const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    const unsigned pixels = g.batch * g.out_height * g.out_width;
    const unsigned first = blockIdx.y * each, last = first + each < pixels ? first + each : pixels;
    for (unsigned base = 0; base < g.taps(); base += TAPS) {
        float own[TAPS] = {};
        if (c < g.out_channels)
            for (unsigned p = first + row; p < last; p += THREADS / 32) {
                unsigned n = p / (g.out_height * g.out_width);
                int y0 = (int)(p / g.out_width % g.out_height * g.stride_y) - (int)g.top;
                int x0 = (int)(p % g.out_width * g.stride_x) - (int)g.left;
                float gradient = gy[(size_t)p * g.out_channels + c];
                for (unsigned t = 0; t < TAPS; t++) {
                    unsigned tap = base + t;
                    int iy = y0 + (int)(tap / g.kernel_width * g.dilation_y), ix = x0 + (int)(tap % g.kernel_width * g.dilation_x);
                    bool inside = tap < g.taps() && iy >= 0 && ix >= 0 && iy < (int)g.in_height && ix < (int)g.in_width;
                    float value = inside ? x[(((size_t)n * g.in_height + iy) * g.in_width + ix) * g.in_channels + c] : 0.0f;
                    own[t] = fmaf(value, gradient, own[t]);
                }
            }
        for (unsigned t = 0; t < TAPS; t++) {
            sums[threadIdx.x] = own[t];
            __syncthreads();
            if (row == 0 && c < g.out_channels && base + t < g.taps()) {
                float sum = 0.0f;
                for (unsigned r = 0; r < THREADS / 32; r++) sum += sums[r * 32 + lane];
                parts[((size_t)blockIdx.y * g.out_channels + c) * g.taps() + base + t] = sum;
            }
            __syncthreads();
        }
    }
}

extern "C" __global__ void depthwise_weight(const float *x, const float *gy, float *parts, unsigned each, Geometry g) {
    depthwise_weight_of<9>(x, gy, parts, each, g);
}

extern "C" __global__ void depthwise_weight_wide(const float *x, const float *gy, float *parts, unsigned each, Geometry g) {
    depthwise_weight_of<25>(x, gy, parts, each, g);
}
