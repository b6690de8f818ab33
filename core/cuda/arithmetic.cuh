// Arithmetic that is the CPU's bit for bit: every operation is IEEE's, and only fmaf() fuses.

enum Activation { NONE, RELU, RELU6, SILU, HARD_SWISH, HARD_SIGMOID, SIGMOID, GELU, CLIP };

// The grid of an activation's quantizer.
struct Step {
    float scale, zero_point, qmin, qmax;
};

// Adam's factors of one update (arXiv 1412.6980, algorithm 1).
struct Rates {
    float gain1, gain2, decay2, root, rate, epsilon;
};

// AdaRound's regularizer of one update: weight * (1 - |2h - 1|^b); a weight of 0 is none.
struct Regularizer {
    float weight, b;
};

__device__ inline float clamp(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// e^x as qdrop_kernels::math::exp.
__device__ inline float exponential(float x) {
    x = clamp(x, -87.0f, 88.0f);
    float n = rintf(x * 1.44269504f);
    float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.6933594f, x));
    float r2 = r * r;
    float p01 = fmaf(1.6666665e-1f, r, 0.5f), p23 = fmaf(8.333452e-3f, r, 4.1665796e-2f);
    float p45 = fmaf(1.9875691e-4f, r, 1.3981999e-3f);
    float y = fmaf(fmaf(fmaf(p45, r2, p23), r2, p01), r2, r) + 1.0f;
    return y * __uint_as_float((unsigned)((int)n + 127) << 23);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// The error function as qdrop_kernels::math::erf.
__device__ inline float error_function(float x) {
    x = clamp(x, -4.0f, 4.0f);
    float x2 = x * x;
    float p = -2.7261423e-10f;
    p = fmaf(p, x2, 2.7706814e-8f);
    p = fmaf(p, x2, -2.101024e-6f);
    p = fmaf(p, x2, -5.6925065e-5f);
    p = fmaf(p, x2, -7.3499063e-4f);
    p = fmaf(p, x2, -2.9546e-3f);
    p = fmaf(p, x2, -1.6096033e-2f);
    float q = -1.4566072e-5f;
    q = fmaf(q, x2, -2.1337406e-4f);
    q = fmaf(q, x2, -1.682827e-3f);
    q = fmaf(q, x2, -7.373329e-3f);
    q = fmaf(q, x2, -1.4264739e-2f);
    return x * p / q;
}

// Distribution function and density of the normal distribution as in qdrop_kernels::math.
__device__ inline float normal_below(float x) { return 0.5f * (1.0f + error_function(x * 0.70710678f)); }
__device__ inline float normal_density(float x) { return 0.3989423f * exponential(-0.5f * x * x); }

// x^p as qdrop_kernels::math::power.
__device__ inline float power(float x, float p) {
    const unsigned half = 0x3F3504F3u;  // sqrt(1/2)
    unsigned shifted = __float_as_uint(x) - half;
    float exponent = (float)((int)shifted >> 23);
    float u = __uint_as_float((shifted & 0x007FFFFFu) + half) - 1.0f;
    float q = 0.17065682f;
    q = fmaf(q, u, -0.2726862f);
    q = fmaf(q, u, 0.29725078f);
    q = fmaf(q, u, -0.35896325f);
    q = fmaf(q, u, 0.48046622f);
    q = fmaf(q, u, -0.7213758f);
    q = fmaf(q, u, 1.4426997f);
    float y = clamp(p * fmaf(q, u, exponent), -126.0f, 127.0f);
    const float magic = 12582912.0f;
    float n = y + magic;
    float r = y - (n - magic);
    q = 1.341e-3f;
    q = fmaf(q, r, 9.676036e-3f);
    q = fmaf(q, r, 0.055502973f);
    q = fmaf(q, r, 0.24022107f);
    q = fmaf(q, r, 0.69314724f);
    q = fmaf(q, r, 1.0f);
    return __uint_as_float(__float_as_uint(q) + (__float_as_uint(n) << 23));
}

// Only a clip has a bound.
template <Activation A> __device__ inline float activate(float x, float bound) {
    switch (A) {
    case RELU: return x < 0.0f ? 0.0f : x;
    case RELU6: return clamp(x, 0.0f, 6.0f);
    case SILU: return x * sigmoid(x);
    case HARD_SWISH: return x * clamp(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
    case HARD_SIGMOID: return clamp(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
    case SIGMOID: return sigmoid(x);
    case GELU: return x * normal_below(x);
    case CLIP: return clamp(x, 0.0f, bound);
    default: return x;
    }
}

template <Activation A> __device__ inline float slope(float x, float bound) {
    switch (A) {
    case RELU: return x > 0.0f ? 1.0f : 0.0f;
    case RELU6: return x > 0.0f && x < 6.0f ? 1.0f : 0.0f;
    case SILU: {
        float s = sigmoid(x);
        return s * (1.0f + x * (1.0f - s));
    }
    case HARD_SWISH: return x <= -3.0f ? 0.0f : x >= 3.0f ? 1.0f : (2.0f * x + 3.0f) * (1.0f / 6.0f);
    case HARD_SIGMOID: return x > -3.0f && x < 3.0f ? 1.0f / 6.0f : 0.0f;
    case SIGMOID: {
        float s = sigmoid(x);
        return s * (1.0f - s);
    }
    case GELU: return normal_below(x) + x * normal_density(x);
    case CLIP: return x > 0.0f && x < bound ? 1.0f : 0.0f;
    default: return 1.0f;
    }
}

// A value on the grid: its steps from zero, its position before rounding, and whether the grid holds it.
struct OnGrid {
    float steps, position;
    bool inside;
};

struct Grid {
    Step step;
    float inverse;

    __device__ explicit Grid(const Step &s) : step(s), inverse(1.0f / s.scale) {}

    __device__ OnGrid quantize(float x) const {
        // x / scale correctly rounded, without a division.
        float quotient = x * inverse;
        float position = fmaf(fmaf(quotient, -step.scale, x), inverse, quotient);
        float rounded = rintf(position) + step.zero_point;
        float held = clamp(rounded, step.qmin, step.qmax);
        return {held - step.zero_point, position, held == rounded};
    }
};

// One Adam update of one element.
__device__ inline void adam(const Rates &r, float &value, float &mean, float &square, float g) {
    mean += (g - mean) * r.gain1;
    square = square * r.decay2 + r.gain2 * g * g;
    value -= r.rate * mean / (sqrtf(square) * r.root + r.epsilon);
}

// Philox 4x32-10 (Salmon et al., SC 2011).
__device__ inline uint4 philox(unsigned k0, unsigned k1, uint4 c) {
    for (int round = 0; round < 10; round++) {
        unsigned low0 = c.x * 0xD2511F53u, high0 = __umulhi(c.x, 0xD2511F53u);
        unsigned low1 = c.z * 0xCD9E8D57u, high1 = __umulhi(c.z, 0xCD9E8D57u);
        c = make_uint4(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

constexpr int THREADS = 256;

// Adds the threads' numbers of a block, in one order; all threads get the sum.
__device__ inline double sum_of_block(double value) {
    __shared__ double sums[THREADS];
    sums[threadIdx.x] = value;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    __syncthreads();
    double sum = sums[0];
    __syncthreads();
    return sum;
}
