// The kernels as C++, launched by name.
#include "emulation.h"

#include "arithmetic.cuh"
#include "stage.cu"
#include "learn.cu"
#include "convolution.cu"
#include "depthwise.cu"
#include "forward.cu"
#include "range.cu"

#include <map>
#include <string>

#define KERNEL(NAME) {#NAME, emulation::kernel(NAME)}
#define STRIPS(NAME) KERNEL(depthwise_##NAME), KERNEL(depthwise_input_##NAME), KERNEL(depthwise_weight_##NAME)
#define STAGES(NAME) KERNEL(forward_##NAME), KERNEL(backward_##NAME), KERNEL(end_##NAME), KERNEL(finish_##NAME)

// 0 after success, 1 if no kernel has the name, 2 if threads of a block part at a barrier.
extern "C" int qdrop_launch_emulated(const char *name, const unsigned *grid, unsigned threads, bool backwards, void **arguments) {
    static const std::map<std::string, emulation::Launch> kernels = {
        KERNEL(draw_choices), KERNEL(gather_mix), KERNEL(add_sums), STAGES(none), STAGES(relu), STAGES(relu6), STAGES(silu),
        STAGES(hard_swish), STAGES(hard_sigmoid), STAGES(sigmoid), STAGES(gelu), STAGES(clip), KERNEL(prepare_sites), KERNEL(learn_sites),
        KERNEL(soft_weight), KERNEL(scale_gradient), KERNEL(learn_channels), KERNEL(learn_rounding), KERNEL(add_up), KERNEL(keep_losses),
        KERNEL(bias_gradient), KERNEL(add_rows), KERNEL(add_parts), KERNEL(transpose), KERNEL(convolve),
        KERNEL(convolve_input), KERNEL(convolve_weight), KERNEL(depthwise), KERNEL(depthwise_input),
        KERNEL(depthwise_weight), KERNEL(depthwise_weight_wide), STRIPS(3_1), STRIPS(3_2), STRIPS(5_1), STRIPS(5_2),
        KERNEL(to_steps), KERNEL(copy_values), KERNEL(affine), KERNEL(multiply_values), KERNEL(copy_channels), KERNEL(shuffle),
        KERNEL(mean), KERNEL(max_pool), KERNEL(average_pool), KERNEL(layer_norm), KERNEL(extremes_of_pieces),
        KERNEL(join_extremes), KERNEL(errors_of_pieces),
    };
    auto found = kernels.find(name);
    if (found == kernels.end()) return 1;
    emulation::Order order = backwards ? emulation::BACKWARDS : emulation::FORWARDS;
    return found->second(grid, threads, order, arguments) ? 0 : 2;
}
