// What stands between two convolutions: bias, shortcut, activation function, LSQ quantizer and drop, forward and backward;
// the mix of inputs; and the loss at the end of a unit.
//
// Images are rows of `row` values, (image, row) x (column, channel). A row is cut into groups of 128 values, whose
// choices are the 128 bits of a uint4: bit `part` of byte `l` is that of value 16 * part + l, as in qdrop_kernels::drop.
// A warp takes a group, a thread four values that lie together. Which block does what depends on the sizes alone, and
// every sum has one order: results are the same on every device.

constexpr int GROUP = 128, LANES = 32, WARPS = THREADS / LANES;
// Groups that a block takes: each of its warps takes every eighth of them.
constexpr int GROUPS_OF_BLOCK = 32;
// Binary digits of a probability that count.
constexpr unsigned DIGITS = 16;

// The random numbers of a site in one step; a bit is 1 with the probability `number` / 2^16.
struct Draw {
    unsigned seed_low, seed_high, id0, id1, id2, number;
};

// What a stage adds to the gradients of scale and zero point, and to the loss.
struct Sums {
    double scale, zero_point, loss;
};

// Rows of values, and the channels of a pixel.
struct Rows {
    unsigned row, rows_of_image, groups, channels;
};

// What a stage reads beside the output of a convolution: what is added to it, its bias, the shortcut, and the bias of the
// shortcut's convolution; and the bounds of a clip, one for each channel. Any may be null.
struct Operands {
    const float *bias, *shortcut, *shortcut_bias, *bounds;
};

// The choices of all groups of a site.
extern "C" __global__ void draw_choices(uint4 *kept, const Draw *draw, unsigned groups) {
    unsigned group = blockIdx.x * blockDim.x + threadIdx.x;
    if (group >= groups) return;
    const Draw d = *draw;
    uint4 bits = make_uint4(0, 0, 0, 0);
    unsigned first = d.number == 0 ? DIGITS : __ffs(d.number) - 1;
    for (unsigned digit = first; digit < DIGITS; digit++) {
        uint4 u = philox(d.seed_low, d.seed_high, make_uint4(group * DIGITS + digit, d.id0, d.id1, d.id2));
        bool one = d.number >> digit & 1;
        bits.x = one ? bits.x | u.x : bits.x & u.x;
        bits.y = one ? bits.y | u.y : bits.y & u.y;
        bits.z = one ? bits.z | u.z : bits.z & u.z;
        bits.w = one ? bits.w | u.w : bits.w & u.w;
    }
    kept[group] = d.number >> DIGITS ? make_uint4(~0u, ~0u, ~0u, ~0u) : bits;
}

// The four values of a thread: where they begin, how many there are, their first channel and their choices.
struct Part {
    size_t line;
    unsigned first, count, channel, bits;

    __device__ Part(const uint4 *kept, unsigned group, const Rows &rows) {
        unsigned lane = threadIdx.x % LANES;
        unsigned groups_of_row = (rows.row + GROUP - 1) / GROUP;
        line = group / groups_of_row;
        first = group % groups_of_row * GROUP + 4 * lane;
        count = first >= rows.row ? 0 : rows.row - first < 4 ? rows.row - first : 4;
        channel = first % rows.channels;
        bits = ((const unsigned *)kept)[4 * (size_t)group + lane % 4] >> lane / 4;
    }

    __device__ bool keeps(int i) const { return bits >> 8 * i & 1; }

    // 16 bytes at once where rows allow it. `from` is the beginning of the row's values.
    __device__ void load(const float *from, float (&values)[4]) const {
        from += first;
        if (count == 4 && (size_t)from % 16 == 0) {
            float4 four = *(const float4 *)from;
            values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
        } else {
            for (int i = 0; i < 4; i++) values[i] = i < count ? from[i] : 0.0f;
        }
    }

    __device__ void store(float *to, const float (&values)[4]) const {
        to += first;
        if (count == 4 && (size_t)to % 16 == 0) {
            *(float4 *)to = make_float4(values[0], values[1], values[2], values[3]);
        } else {
            for (int i = 0; i < count; i++) to[i] = values[i];
        }
    }

    // The values before the activation function.
    __device__ void sum(const float *z, const Operands &operands, const Rows &rows, float (&values)[4]) const {
        load(z + line * rows.row, values);
        if (operands.bias) add(operands.bias, rows, values);
        if (operands.shortcut) {
            float others[4];
            load(operands.shortcut + line * rows.row, others);
            if (operands.shortcut_bias) add(operands.shortcut_bias, rows, others);
            for (int i = 0; i < 4; i++) values[i] += others[i];
        }
    }

    // The bounds of the values' channels.
    __device__ void load_bounds(const float *bounds, const Rows &rows, float (&values)[4]) const {
        unsigned c = channel;
        for (int i = 0; i < 4; i++) {
            values[i] = bounds[c];
            c = c + 1 == rows.channels ? 0 : c + 1;
        }
    }

    __device__ void add(const float *bias, const Rows &rows, float (&values)[4]) const {
        unsigned c = channel;
        for (int i = 0; i < 4; i++) {
            values[i] += i < count ? bias[c] : 0.0f;
            c = c + 1 == rows.channels ? 0 : c + 1;
        }
    }
};

// Calls `body` with each group of the block's warp.
template <typename F> __device__ inline void each_group(unsigned groups, F body) {
    for (unsigned i = threadIdx.x / LANES; i < GROUPS_OF_BLOCK; i += WARPS) {
        unsigned group = blockIdx.x * GROUPS_OF_BLOCK + i;
        if (group >= groups) break;
        body(group);
    }
}

// The row of a sample's image that belongs to a row of the batch.
__device__ inline size_t row_of_sample(const unsigned *samples, const Part &part, const Rows &rows) {
    return (size_t)samples[part.line / rows.rows_of_image] * rows.rows_of_image + part.line % rows.rows_of_image;
}

// Samples of a batch by index: the quantized values where the choices say so, the full-precision values elsewhere.
extern "C" __global__ void gather_mix(const float *quantized, const unsigned *quantized_samples, const float *full,
                                      const unsigned *full_samples, const uint4 *kept, float *out, Rows rows) {
    each_group(rows.groups, [&](unsigned group) {
        const Part part(kept, group, rows);
        float q[4], f[4];
        part.load(quantized + row_of_sample(quantized_samples, part, rows) * rows.row, q);
        part.load(full + row_of_sample(full_samples, part, rows) * rows.row, f);
        for (int k = 0; k < 4; k++) q[k] = part.keeps(k) ? q[k] : f[k];
        part.store(out + part.line * rows.row, q);
    });
}

// Without a quantizer no bit of `kept` is set.
template <Activation A>
__device__ void forward(const float *z, const Operands &operands, const uint4 *kept, const Step *step, float *out,
                        const Rows &rows) {
    const Grid grid(*step);
    each_group(rows.groups, [&](unsigned group) {
        const Part part(kept, group, rows);
        float values[4], bounds[4] = {};
        part.sum(z, operands, rows, values);
        if (A == CLIP) part.load_bounds(operands.bounds, rows, bounds);
        for (int k = 0; k < 4; k++) {
            float x = activate<A>(values[k], bounds[k]);
            values[k] = part.keeps(k) ? grid.quantize(x).steps * grid.step.scale : x;
        }
        part.store(out + part.line * rows.row, values);
    });
}

// Backward of one value: the gradient of what the activation function reads; the sums take what it adds to those of scale and
// zero point.
template <Activation A>
__device__ inline float value_backward(const Grid &grid, const OnGrid &q, bool rounded, float z, float bound, float g,
                                       float &scale, float &zero_point) {
    float by_scale = g * (q.inside ? q.steps - q.position : q.steps);
    scale += rounded ? by_scale : 0.0f;
    zero_point += rounded && !q.inside ? -g * grid.step.scale : 0.0f;
    return !rounded || q.inside ? g * slope<A>(z, bound) : 0.0f;
}

__device__ inline void store_sums(Sums *sums, double scale, double zero_point, double loss) {
    Sums all = {sum_of_block(scale), sum_of_block(zero_point), sum_of_block(loss)};
    if (threadIdx.x == 0) sums[blockIdx.x] = all;
}

// `gradient` has that of the stage's value and takes that of z. `sums` takes a number for each block.
template <Activation A>
__device__ void backward(const float *z, const Operands &operands, const uint4 *kept, const Step *step, float *gradient,
                         Sums *sums, const Rows &rows) {
    const Grid grid(*step);
    double scale = 0.0, zero_point = 0.0;
    each_group(rows.groups, [&](unsigned group) {
        const Part part(kept, group, rows);
        float values[4], bounds[4] = {}, g[4], scale4 = 0.0f, zero_point4 = 0.0f;
        part.sum(z, operands, rows, values);
        if (A == CLIP) part.load_bounds(operands.bounds, rows, bounds);
        part.load(gradient + part.line * rows.row, g);
        for (int k = 0; k < 4; k++) {
            OnGrid q = grid.quantize(activate<A>(values[k], bounds[k]));
            g[k] = value_backward<A>(grid, q, part.keeps(k), values[k], bounds[k], g[k], scale4, zero_point4);
        }
        scale += scale4;
        zero_point += zero_point4;
        part.store(gradient + part.line * rows.row, g);
    });
    store_sums(sums, scale, zero_point, 0.0);
}

// The end of a unit: the gradient of `factor` times the sum of squared differences to the samples' targets. Both are compared
// as they are when clipped to a range; the gradient passes the clipping.
template <Activation A>
__device__ void end(const float *z, const Operands &operands, const float *target, const unsigned *samples,
                    const uint4 *kept, const Step *step, float factor, float low, float high, float *gradient,
                    Sums *sums, const Rows &rows) {
    const Grid grid(*step);
    double scale = 0.0, zero_point = 0.0, loss = 0.0;
    each_group(rows.groups, [&](unsigned group) {
        const Part part(kept, group, rows);
        float values[4], bounds[4] = {}, want[4], g[4], scale4 = 0.0f, zero_point4 = 0.0f, loss4 = 0.0f;
        part.sum(z, operands, rows, values);
        if (A == CLIP) part.load_bounds(operands.bounds, rows, bounds);
        part.load(target + row_of_sample(samples, part, rows) * rows.row, want);
        for (int k = 0; k < 4; k++) {
            float x = activate<A>(values[k], bounds[k]);
            OnGrid q = grid.quantize(x);
            float value = part.keeps(k) ? q.steps * grid.step.scale : x;
            float difference = k < part.count ? clamp(value, low, high) - clamp(want[k], low, high) : 0.0f;
            loss4 += difference * difference;
            float by = 2.0f * factor * difference;
            g[k] = value_backward<A>(grid, q, part.keeps(k), values[k], bounds[k], by, scale4, zero_point4);
        }
        scale += scale4;
        zero_point += zero_point4;
        loss += loss4;
        part.store(gradient + part.line * rows.row, g);
    });
    store_sums(sums, scale, zero_point, loss);
}

// Adds what the blocks of stages have left: block b adds those from ranges[b] to ranges[b + 1], in one order.
extern "C" __global__ void add_sums(const Sums *sums, const unsigned *ranges, Sums *totals) {
    double scale = 0.0, zero_point = 0.0, loss = 0.0;
    for (unsigned i = ranges[blockIdx.x] + threadIdx.x; i < ranges[blockIdx.x + 1]; i += THREADS) {
        scale += sums[i].scale;
        zero_point += sums[i].zero_point;
        loss += sums[i].loss;
    }
    store_sums(totals, scale, zero_point, loss);
}

#define STAGE(NAME, A)                                                                                                  \
    extern "C" __global__ void forward_##NAME(const float *z, Operands operands, const uint4 *kept, const Step *step,   \
                                              float *out, Rows rows) {                                                  \
        forward<A>(z, operands, kept, step, out, rows);                                                                 \
    }                                                                                                                   \
    extern "C" __global__ void backward_##NAME(const float *z, Operands operands, const uint4 *kept, const Step *step,  \
                                               float *gradient, Sums *sums, Rows rows) {                                \
        backward<A>(z, operands, kept, step, gradient, sums, rows);                                                     \
    }                                                                                                                   \
    extern "C" __global__ void end_##NAME(const float *z, Operands operands, const float *target,                       \
                                          const unsigned *samples, const uint4 *kept, const Step *step, float factor,   \
                                          float low, float high, float *gradient, Sums *sums, Rows rows) {              \
        end<A>(z, operands, target, samples, kept, step, factor, low, high, gradient, sums, rows);                      \
    }

STAGE(none, NONE)
STAGE(relu, RELU)
STAGE(relu6, RELU6)
STAGE(silu, SILU)
STAGE(hard_swish, HARD_SWISH)
STAGE(hard_sigmoid, HARD_SIGMOID)
STAGE(sigmoid, SIGMOID)
STAGE(gelu, GELU)
STAGE(clip, CLIP)
