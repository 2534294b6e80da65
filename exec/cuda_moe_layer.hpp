// An MoE layer on one rank in a GPU's memory, computed by the CUDA kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "exec/block_state.hpp"
#include "exec/process_group.hpp"
#include "kernels/cuda.hpp"
#include "kernels/device_layer.hpp"

namespace pipemoe::exec {

/// A layer's tokens, weights and gradients on the device, which the states for all graphs share.
struct CudaTensors {
  cuda::Element element;
  cuda::DeviceBuffer input, output_gradient, output, input_gradient;
  cuda::DeviceBuffer gate, first, first_bias, second, second_bias;
  cuda::DeviceBuffer gate_gradient, first_gradient, first_bias_gradient;
  cuda::DeviceBuffer second_gradient, second_bias_gradient;

  /// Uploads the data; converts all but the gate to `element_type`.
  CudaTensors(const LayerData& data, cuda::Element element_type);

  cuda::DeviceWeights weights() const;
  cuda::DeviceGradients gradients() const;
  cuda::DeviceTokens tokens() const;
  std::int64_t bytes() const;
};

class CudaMoeLayer final : public CudaBlockState {
 public:
  /// `exchanged` makes the buffers that exchanges read and write. `group` must outlive this. The
  /// gate of a dropless layer asks all ranks for their numbers of rows; nobody else may use the
  /// group meanwhile. Throws InputError and DeviceError.
  CudaMoeLayer(const cuda::DeviceLayerShape& shape, std::shared_ptr<CudaTensors> tensors,
               ProcessGroup& group, cuda::DeviceAllocator exchanged);

  void run(const TaskKey& task, cudaStream_t stream) override;
  cuda::DeviceExchange exchange(const TaskKey& task) override;
  void simplify(cudaGraph_t recorded) const override { layer_.simplify(recorded); }
  LayerResults results() const override;
  void poison() override;

  /// Bytes of each of this state's own buffers, without the shared tensors.
  std::vector<std::pair<std::string, std::size_t>> bytes() const { return layer_.bytes(); }

 private:
  void gate(cudaStream_t stream);
  void place_dropless_rows(cudaStream_t stream);
  void weight_gradient(std::int64_t chunk, cudaStream_t stream);
  void gate_input_gradient(cudaStream_t stream);

  std::shared_ptr<CudaTensors> tensors_;
  ProcessGroup& group_;
  cuda::DeviceLayer layer_;
  // In this iteration:
  bool weight_gradient_begun_ = false;     // by any chunk
  bool gate_input_gradient_done_ = false;  // permute_backward adds to it
};

}  // namespace pipemoe::exec
