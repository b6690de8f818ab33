// What a step learns: roundings with their regularizer, scales, zero points and biases. Sums are f64 in one order.

// The quantizer of an activation, with what is learned of it.
struct Site {
    Step step;
    float scale, scale_mean, scale_square;
    float zero_point, zero_point_mean, zero_point_square;
    // Rows of the table of rates; -1 where it is not learned.
    int scale_rates, zero_point_rates;
    // What their rates are relative to.
    float scale_size, zero_point_size;
    // LSQ's factor of both gradients (arXiv 1902.08153, section 2.2).
    double factor;
};

// The grid of a weight: scales and zero points by output channel, each of which has `len` weights that lie together.
struct WeightGrid {
    const float *scale, *zero_point;
    float qmin, qmax;
    unsigned len;
    // Not 0 if weights are rounded up or down entirely; gradients of alpha are those of the soft rounding all the same.
    unsigned hard;
};

constexpr unsigned WEIGHTS_OF_THREAD = 8;
constexpr float GAMMA = -0.1f, ZETA = 1.1f, EPSILON = 1.1920929e-7f;

__device__ inline float positive(float scale) {
    scale = fabsf(scale);
    return scale > EPSILON ? scale : EPSILON;
}

// One update with a rate that is relative to `size`.
__device__ inline void relative_adam(const Rates &rates, float size, float &value, float &mean, float &square,
                                     float gradient) {
    float change = 0.0f;
    adam(rates, change, mean, square, gradient);
    value += size * change;
}

// Projects learned scales and zero points onto their valid ranges, and makes the grids of a step.
extern "C" __global__ void prepare_sites(Site *sites, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    Site &s = sites[i];
    if (s.scale_rates >= 0) s.step.scale = s.scale = positive(s.scale);
    if (s.zero_point_rates >= 0) {
        s.zero_point = clamp(s.zero_point, s.step.qmin, s.step.qmax);
        s.step.zero_point = rintf(s.zero_point);
    }
}

extern "C" __global__ void learn_sites(Site *sites, const Sums *sums, const Rates *rates, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    Site &s = sites[i];
    if (s.scale_rates >= 0)
        relative_adam(rates[s.scale_rates], s.scale_size, s.scale, s.scale_mean, s.scale_square,
                      (float)(sums[i].scale * s.factor));
    if (s.zero_point_rates >= 0)
        relative_adam(rates[s.zero_point_rates], s.zero_point_size, s.zero_point, s.zero_point_mean, s.zero_point_square,
                      (float)(sums[i].zero_point * s.factor));
}

// AdaRound's rectified sigmoid (arXiv 2004.10568, equation 23): the sigmoid, before and after the clamp.
struct Height {
    float sigmoid, raw, h;

    __device__ explicit Height(float alpha) {
        sigmoid = ::sigmoid(alpha);
        raw = sigmoid * (ZETA - GAMMA) + GAMMA;
        h = clamp(raw, 0.0f, 1.0f);
    }
};

__device__ inline float soft_value(float alpha, float floor, float scale, float zero_point, const WeightGrid &grid) {
    float h = !grid.hard ? Height(alpha).h : alpha >= 0.0f ? 1.0f : 0.0f;
    return (clamp(floor + h + zero_point, grid.qmin, grid.qmax) - zero_point) * scale;
}

// The soft weight (equation 22), or the hard one.
extern "C" __global__ void soft_weight(const float *alpha, const float *floor, WeightGrid grid, float *out, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    unsigned c = i / grid.len;
    out[i] = soft_value(alpha[i], floor[i], grid.scale[c], grid.zero_point[c], grid);
}

// The gradient of learned weight scales (Genie-M, arXiv 2212.04780, section 3.2): block c has channel c.
extern "C" __global__ void scale_gradient(const float *alpha, const float *floor, const float *gradient, WeightGrid grid,
                                          double *out) {
    unsigned c = blockIdx.x;
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < grid.len; i += THREADS) {
        size_t at = (size_t)c * grid.len + i;
        sum += gradient[at] * soft_value(alpha[at], floor[at], 1.0f, grid.zero_point[c], grid);
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) out[c] = sum;
}

// One update of a variable with `count` elements, from gradients of `channels` channels: one each, or one for all. `out`
// takes the values of all channels, `before` those that it had. `size` has what the rate of each element is relative to. One
// block.
extern "C" __global__ void learn_channels(float *value, float *mean, float *square, const float *size,
                                          const double *gradient, const Rates *rates, unsigned count, unsigned channels,
                                          float *out, float *before, unsigned are_scales) {
    __shared__ float shared;
    if (count == 1) {
        double sum = 0.0;
        for (unsigned c = threadIdx.x; c < channels; c += THREADS) sum += gradient[c];
        sum = sum_of_block(sum);
        if (threadIdx.x == 0) {
            relative_adam(*rates, size[0], value[0], mean[0], square[0], (float)sum);
            if (are_scales) value[0] = positive(value[0]);
            shared = value[0];
        }
    }
    __syncthreads();
    for (unsigned c = threadIdx.x; c < channels; c += THREADS) {
        if (count > 1) {
            relative_adam(*rates, size[c], value[c], mean[c], square[c], (float)gradient[c]);
            if (are_scales) value[c] = positive(value[c]);
        }
        if (before) before[c] = out[c];
        out[c] = count > 1 ? value[c] : shared;
    }
}

// One update of alpha from the gradient of the soft weight that `grid` gave; `next` has the scales of the next one, which
// `weight` takes. `terms` takes the regularizer of each block.
extern "C" __global__ void learn_rounding(float *alpha, float *mean, float *square, const float *floor,
                                          const float *gradient, WeightGrid grid, const float *next, const Rates *rates,
                                          const Regularizer *regularizer, float *weight, double *terms, unsigned count) {
    const Regularizer r = *regularizer;
    double term = 0.0;
    for (unsigned k = 0; k < WEIGHTS_OF_THREAD; k++) {
        unsigned i = (blockIdx.x * WEIGHTS_OF_THREAD + k) * THREADS + threadIdx.x;
        if (i >= count) break;
        unsigned c = i / grid.len;
        float scale = grid.scale[c], zero_point = grid.zero_point[c], a = alpha[i], f = floor[i];
        Height height(a);
        float q = f + height.h + zero_point;
        float dh = q >= grid.qmin && q <= grid.qmax ? gradient[i] * scale : 0.0f;
        if (r.weight != 0.0f && !grid.hard) {
            float centred = 2.0f * height.h - 1.0f, size = fabsf(centred);
            float sharp = power(size, r.b - 1.0f);
            float outer = 2.0f * r.b * r.weight * sharp;
            dh += centred == 0.0f ? 0.0f : centred > 0.0f ? -outer : outer;
            term += r.weight * (1.0f - sharp * size);
        }
        float steep = (ZETA - GAMMA) * height.sigmoid * (1.0f - height.sigmoid);
        bool held = height.raw >= 0.0f && height.raw <= 1.0f;
        adam(*rates, a, mean[i], square[i], held ? dh * steep : 0.0f);
        alpha[i] = a;
        weight[i] = soft_value(a, f, next[c], zero_point, grid);
    }
    term = sum_of_block(term);
    if (threadIdx.x == 0) terms[blockIdx.x] = term;
}

// The sum of all numbers: one block, one order.
extern "C" __global__ void add_up(const double *numbers, unsigned count, double *sum) {
    double own = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += THREADS) own += numbers[i];
    own = sum_of_block(own);
    if (threadIdx.x == 0) *sum = own;
}

// Keeps the loss and the regularizer of a step, after those of earlier ones.
extern "C" __global__ void keep_losses(const Sums *totals, unsigned last, const double *term, double *losses, unsigned *count,
                                       unsigned most) {
    if (threadIdx.x != 0 || *count >= most) return;
    losses[2 * *count] = totals[last].loss;
    losses[2 * *count + 1] = *term;
    *count += 1;
}

// Adds the gradient of a bias over the pixels of a part: block (tile of 32 channels, part).
extern "C" __global__ void bias_gradient(const float *gz, unsigned pixels, unsigned channels, double *out) {
    __shared__ double sums[THREADS];
    unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    unsigned each = (pixels + gridDim.y - 1) / gridDim.y, first = blockIdx.y * each;
    unsigned last = first + each < pixels ? first + each : pixels;
    double sum = 0.0;
    if (c < channels)
        for (unsigned p = first + row; p < last; p += THREADS / 32) sum += gz[(size_t)p * channels + c];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (row == 0 && c < channels) {
        for (unsigned r = 1; r < THREADS / 32; r++) sum += sums[r * 32 + lane];
        out[(size_t)blockIdx.y * channels + c] = sum;
    }
}

// Adds rows of numbers, such as the parts of a bias's gradient.
extern "C" __global__ void add_rows(const double *rows, unsigned count, unsigned columns, double *out) {
    unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= columns) return;
    double sum = 0.0;
    for (unsigned r = 0; r < count; r++) sum += rows[(size_t)r * columns + c];
    out[c] = sum;
}

// Adds the parts of a weight's gradient.
extern "C" __global__ void add_parts(const float *parts, unsigned count, unsigned len, float *out) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= len) return;
    double sum = 0.0;
    for (unsigned p = 0; p < count; p++) sum += parts[(size_t)p * len + i];
    out[i] = (float)sum;
}

// Images (C, pixels) from channels-last ones, or the other way round: the transpose of each of `batch` matrices.
extern "C" __global__ void transpose(const float *from, float *to, unsigned rows, unsigned columns) {
    __shared__ float tile[32][33];
    const size_t image = (size_t)blockIdx.z * rows * columns;
    unsigned x = threadIdx.x % 32, y = threadIdx.x / 32;
    for (unsigned r = y; r < 32; r += THREADS / 32) {
        unsigned row = blockIdx.y * 32 + r, column = blockIdx.x * 32 + x;
        if (row < rows && column < columns) tile[r][x] = from[image + (size_t)row * columns + column];
    }
    __syncthreads();
    for (unsigned c = y; c < 32; c += THREADS / 32) {
        unsigned column = blockIdx.x * 32 + c, row = blockIdx.y * 32 + x;
        if (row < rows && column < columns) to[image + (size_t)column * rows + row] = tile[x][c];
    }
}
