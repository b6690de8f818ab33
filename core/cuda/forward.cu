// Forward passes: what stands between convolutions where nothing is dropped, and the operations between units.
//
// Images are channels-last without gaps: value i belongs to channel i % channels. A thread takes one value of the output, or
// four that lie together.

// What follows a convolution, in this order; any pointer may be null. A layer that is sums of integers has factors: the
// sums become integers again (a library may compute them with fractions), and `rest` is added before the factors. The offsets
// are a bias.
struct Finish {
    const float *rest, *factors, *offsets, *shortcut, *bounds;
};

template <Activation A>
__device__ void finish(float *z, const Finish &f, const Step &step, bool quantized, unsigned channels, size_t len) {
    const size_t first = 4 * ((size_t)blockIdx.x * THREADS + threadIdx.x);
    if (first >= len) return;
    const unsigned count = len - first < 4 ? len - first : 4;
    float values[4] = {};
    if (count == 4) {
        float4 four = *(const float4 *)(z + first);
        values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
    } else {
        for (unsigned i = 0; i < count; i++) values[i] = z[first + i];
    }
    const Grid grid(step);
    unsigned c = first % channels;
    for (unsigned i = 0; i < count; i++) {
        float v = values[i];
        if (f.factors) {
            v = rintf(v);
            if (f.rest) v += f.rest[first + i];
            v = v * f.factors[c];
        }
        if (f.offsets) v += f.offsets[c];
        if (f.shortcut) v += f.shortcut[first + i];
        v = activate<A>(v, A == CLIP ? f.bounds[c] : 0.0f);
        values[i] = quantized ? grid.quantize(v).steps * step.scale : v;
        c = c + 1 == channels ? 0 : c + 1;
    }
    if (count == 4) {
        *(float4 *)(z + first) = make_float4(values[0], values[1], values[2], values[3]);
    } else {
        for (unsigned i = 0; i < count; i++) z[first + i] = values[i];
    }
}

#define FINISH(NAME, A)                                                                                               \
    extern "C" __global__ void finish_##NAME(float *z, Finish f, Step step, unsigned quantized, unsigned channels,    \
                                             size_t len) {                                                            \
        finish<A>(z, f, step, quantized, channels, len);                                                              \
    }

FINISH(none, NONE)
FINISH(relu, RELU)
FINISH(relu6, RELU6)
FINISH(silu, SILU)
FINISH(hard_swish, HARD_SWISH)
FINISH(hard_sigmoid, HARD_SIGMOID)
FINISH(sigmoid, SIGMOID)
FINISH(gelu, GELU)
FINISH(clip, CLIP)

// The number of a thread's value, among all blocks.
__device__ inline size_t value_of_thread() { return (size_t)blockIdx.x * THREADS + threadIdx.x; }

// The nearest integers of x / scale, or the rests that they leave.
extern "C" __global__ void to_steps(const float *x, float *out, float inverse, unsigned rest, size_t len) {
    size_t i = value_of_thread();
    if (i >= len) return;
    float v = x[i] * inverse;
    out[i] = rest ? v - rintf(v) : rintf(v);
}

extern "C" __global__ void copy_values(const float *x, float *out, size_t len) {
    size_t i = value_of_thread();
    if (i < len) out[i] = x[i];
}

// x * factor + offset of each channel.
extern "C" __global__ void affine(const float *x, const float *factors, const float *offsets, float *out,
                                  unsigned channels, size_t len) {
    size_t i = value_of_thread();
    if (i < len) out[i] = x[i] * factors[i % channels] + offsets[i % channels];
}

// Products with a value of equal size, or with one pixel for each image, whose values are `image` apart.
extern "C" __global__ void multiply_values(const float *x, const float *factors, float *out, unsigned one_pixel, unsigned image,
                                    unsigned channels, size_t len) {
    size_t i = value_of_thread();
    if (i < len) out[i] = x[i] * factors[one_pixel ? i / image * channels + i % channels : i];
}

// Channels from `from` on of images with `read` channels become those from `to` on of images with `written` channels.
extern "C" __global__ void copy_channels(const float *x, unsigned read, unsigned from, float *out, unsigned written,
                                         unsigned to, unsigned count, size_t len) {
    size_t i = value_of_thread();
    if (i < len) out[i / count * written + to + i % count] = x[i / count * read + from + i % count];
}

// Channels as rows of `groups` groups, read column by column.
extern "C" __global__ void shuffle(const float *x, float *out, unsigned groups, unsigned channels, size_t len) {
    size_t i = value_of_thread();
    if (i >= len) return;
    unsigned c = i % channels;
    out[i] = x[i - c + c % groups * (channels / groups) + c / groups];
}

// The mean over all pixels of each image, added in their order.
extern "C" __global__ void mean(const float *x, float *out, unsigned pixels, unsigned channels, size_t len) {
    size_t i = value_of_thread();
    if (i >= len) return;
    const float *own = x + i / channels * pixels * channels + i % channels;
    float sum = 0.0f;
    for (unsigned p = 0; p < pixels; p++) sum += own[(size_t)p * channels];
    out[i] = sum * (1.0f / (float)pixels);
}

// A pool. Windows may begin and end in the padding.
struct Pool {
    unsigned channels, in_height, in_width, out_height, out_width, kernel_height, kernel_width, stride_y, stride_x, top,
        bottom, left, right, counts_padding;
};

// Pixels under a window along one axis, and how many it covers together with those of the padding.
struct Window {
    unsigned first, last, covered;

    __device__ Window(unsigned at, unsigned stride, unsigned kernel, unsigned size, unsigned before, unsigned after) {
        unsigned start = at * stride, end = start + kernel;
        if (end > size + before + after) end = size + before + after;
        first = start < before ? 0 : start - before;
        last = end < before ? 0 : end - before;
        if (last > size) last = size;
        covered = end - start;
    }
};

// Calls `body` with each value under the window of a thread's value; returns the number by which a sum is divided.
template <typename F> __device__ inline float each_under_window(const float *x, const Pool &p, size_t i, F body) {
    const unsigned c = i % p.channels;
    const size_t pixel = i / p.channels;
    const Window columns(pixel % p.out_width, p.stride_x, p.kernel_width, p.in_width, p.left, p.right);
    const size_t row = pixel / p.out_width;
    const Window rows(row % p.out_height, p.stride_y, p.kernel_height, p.in_height, p.top, p.bottom);
    const float *image = x + row / p.out_height * p.in_height * p.in_width * p.channels + c;
    for (unsigned y = rows.first; y < rows.last; y++)
        for (unsigned u = columns.first; u < columns.last; u++)
            body(image[((size_t)y * p.in_width + u) * p.channels]);
    if (p.counts_padding) return (float)(rows.covered * columns.covered);
    unsigned height = rows.first < rows.last ? rows.last - rows.first : 0;
    unsigned width = columns.first < columns.last ? columns.last - columns.first : 0;
    return (float)(height * width);
}

extern "C" __global__ void max_pool(const float *x, float *out, Pool pool, size_t len) {
    size_t i = value_of_thread();
    if (i >= len) return;
    float best = -__uint_as_float(0x7F800000u);
    each_under_window(x, pool, i, [&](float v) { best = v > best || v != v ? v : best; });
    out[i] = best;
}

extern "C" __global__ void average_pool(const float *x, float *out, Pool pool, size_t len) {
    size_t i = value_of_thread();
    if (i >= len) return;
    float sum = 0.0f;
    float count = each_under_window(x, pool, i, [&](float v) { sum += v; });
    out[i] = sum * (1.0f / count);
}

// Layer normalization over the channels of each pixel. A block takes 16 pixels; 16 threads, which add up the channels of
// one, do so in the order of qdrop_kernels::nhwc::layer_norm.
extern "C" __global__ void layer_norm(const float *x, const float *factors, const float *offsets, float epsilon, float *out,
                                      unsigned channels, unsigned pixels) {
    constexpr unsigned LANES_OF_PIXEL = 16;
    __shared__ float sums[THREADS];
    const unsigned lane = threadIdx.x % LANES_OF_PIXEL, own = threadIdx.x / LANES_OF_PIXEL;
    const unsigned pixel = blockIdx.x * (THREADS / LANES_OF_PIXEL) + own;
    const bool there = pixel < pixels;
    const float *from = x + (size_t)pixel * channels;
    auto add_up = [&](float sum) {
        sums[threadIdx.x] = sum;
        __syncthreads();
        float all = 0.0f;
        for (unsigned l = 0; l < LANES_OF_PIXEL; l++) all += sums[own * LANES_OF_PIXEL + l];
        __syncthreads();
        return all;
    };
    float sum = 0.0f;
    for (unsigned c = lane; there && c < channels; c += LANES_OF_PIXEL) sum += from[c];
    const float mean = add_up(sum) / (float)channels;
    sum = 0.0f;
    for (unsigned c = lane; there && c < channels; c += LANES_OF_PIXEL) sum += (from[c] - mean) * (from[c] - mean);
    const float inverse = 1.0f / sqrtf(add_up(sum) / (float)channels + epsilon);
    for (unsigned c = lane; there && c < channels; c += LANES_OF_PIXEL)
        out[(size_t)pixel * channels + c] = (from[c] - mean) * inverse * factors[c] + offsets[c];
}
