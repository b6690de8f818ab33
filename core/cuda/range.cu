// The search for a range: extremes of values, and the errors of many grids at once.

struct Extremes {
    float low, high;
};

__device__ inline void widen(Extremes &e, float low, float high) {
    e.low = low < e.low ? low : e.low;
    e.high = high > e.high ? high : e.high;
}

// The extremes of a block's threads; all threads get them.
__device__ inline Extremes extremes_of_block(Extremes own) {
    __shared__ Extremes all[THREADS];
    all[threadIdx.x] = own;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            Extremes other = all[threadIdx.x + half];
            widen(all[threadIdx.x], other.low, other.high);
        }
    }
    __syncthreads();
    return all[0];
}

__device__ inline Extremes no_extremes() {
    float infinity = __uint_as_float(0x7F800000u);
    return {infinity, -infinity};
}

// The extremes of pieces of `each` values: a block for each piece.
extern "C" __global__ void extremes_of_pieces(const float *x, size_t len, unsigned each, Extremes *out) {
    size_t first = (size_t)blockIdx.x * each, last = first + each < len ? first + each : len;
    Extremes own = no_extremes();
    for (size_t i = first + threadIdx.x; i < last; i += THREADS) widen(own, x[i], x[i]);
    own = extremes_of_block(own);
    if (threadIdx.x == 0) out[blockIdx.x] = own;
}

// The extremes of all pieces: one block.
extern "C" __global__ void join_extremes(const Extremes *of_pieces, unsigned pieces, Extremes *out) {
    Extremes own = no_extremes();
    for (unsigned p = threadIdx.x; p < pieces; p += THREADS) widen(own, of_pieces[p].low, of_pieces[p].high);
    own = extremes_of_block(own);
    if (threadIdx.x == 0) *out = own;
}

// A grid to try, and what all of them have in common: see qdrop_kernels::range_search.
struct Candidate {
    float scale, zero_point;
};

struct Bounds {
    float qmin, qmax, power;
};

// The sums of |fake_quantize(x) - x|^p over pieces of `each` values: block (candidates, piece). `lanes` threads, a power of two,
// share a candidate of few.
extern "C" __global__ void errors_of_pieces(const float *x, size_t len, unsigned each, const Candidate *candidates,
                                            unsigned count, unsigned lanes, Bounds b, double *out) {
    constexpr unsigned TILE_OF_VALUES = 1024, STRETCH = 64;
    __shared__ float tile[TILE_OF_VALUES];
    __shared__ double sums[THREADS];
    const unsigned lane = threadIdx.x % lanes, number = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
    const size_t first = (size_t)blockIdx.y * each, last = first + each < len ? first + each : len;
    const Candidate own = number < count ? candidates[number] : Candidate{1.0f, 0.0f};
    const float inverse = 1.0f / own.scale;
    double sum = 0.0;
    for (size_t from = first; from < last; from += TILE_OF_VALUES) {
        const unsigned values = last - from < TILE_OF_VALUES ? last - from : TILE_OF_VALUES;
        __syncthreads();
        for (unsigned i = threadIdx.x; i < values; i += THREADS) tile[i] = x[from + i];
        __syncthreads();
        // Short stretches in f32: additions in f64 are slow on many GPUs.
        for (unsigned start = lane; start < values; start += STRETCH * lanes) {
            float part = 0.0f;
            for (unsigned k = 0, i = start; k < STRETCH && i < values; k++, i += lanes) {
                float v = tile[i];
                float q = clamp(rintf(v * inverse) + own.zero_point, b.qmin, b.qmax);
                part += power(fabsf((q - own.zero_point) * own.scale - v), b.power);
            }
            sum += part;
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (lane == 0 && number < count) {
        for (unsigned l = 1; l < lanes; l++) sum += sums[threadIdx.x + l];
        out[(size_t)blockIdx.y * count + number] = sum;
    }
}
