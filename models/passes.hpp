// The memory-bound passes around and in the experts, as cluster profiles name them.
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace pipemoe {

/// The first three are general: a profile that says nothing of a specific pass means the general
/// one by it.
enum class MemoryPass : std::size_t {
  Gate,
  Permutation,
  Activation,
  GateBackward,
  Permute,  ///< also the layout copies around a rank's experts
  PermuteBackward,
  Unpermute,
  UnpermuteBackward,
  ActivationBackward,
};

inline constexpr std::array<MemoryPass, 9> kMemoryPasses{
    MemoryPass::Gate,         MemoryPass::Permutation,       MemoryPass::Activation,
    MemoryPass::GateBackward, MemoryPass::Permute,           MemoryPass::PermuteBackward,
    MemoryPass::Unpermute,    MemoryPass::UnpermuteBackward, MemoryPass::ActivationBackward};

std::string to_string(MemoryPass pass);
/// Throws InputError naming the known passes.
MemoryPass memory_pass_from(const std::string& name);

/// The pass that stands for `pass` where a profile has nothing of it: gate for gate_backward,
/// permutation for each kind of permute and unpermute, activation for activation_backward; a
/// general pass stands for itself.
MemoryPass general_pass(MemoryPass pass);

}  // namespace pipemoe
